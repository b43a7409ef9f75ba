"""The separate adapter begins by doing at each site what the concatenated one does there.

A picture's tokens that are like words act at once among the text's: one softmax weighs them against
the text. In a softmax of their own nothing does, and from the text's keys and values an adapter
learns for long before anything is painted (docs/training.md). So each site's own keys and values
are first fitted to what the site gives with the tokens among the text's: that needs no backward
pass through the denoiser.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from lab.training.loop import LossFunction
from lab.training.picture_prompts.asked import Encoded, questions
from lab.training.picture_prompts.recipe import AdapterRecipe


class TaughtProcessor:
    """At one site the concatenated adapter computes, and the separate one is held against it.

    Attributes:
        student: the separate adapter's processor, with its keys and values.
        tokens: the student's tokens of the pictures, `(batch, tokens, width)`, set before a call.
        length: columns of the text; those behind are the concatenated adapter's.
        loss: after a call, the part of what pictures change that the student does not tell.
    """

    def __init__(self, student: Any, length: int) -> None:
        self.student, self.length = student, length
        self.tokens: Tensor
        self.loss: Tensor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        with torch.no_grad():
            query = attn.to_q(hidden_states)
            key, value = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
            given = _attended(attn, query, key, value)
            of_text = _attended(attn, query, key[:, : self.length], value[:, : self.length])
        own_key = self.student.to_k_ip[0](self.tokens)
        own_value = self.student.to_v_ip[0](self.tokens)
        told = of_text + _attended(attn, query, own_key, own_value)
        left = (told - given).float().square().mean()
        self.loss = left / (given - of_text).float().square().mean().clamp(min=1e-8)
        output: Tensor = attn.to_out[0](given)
        return output


def _attended(attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of all heads, `(batch, places, heads · d)`."""
    parts = [attn.head_to_batch_dim(each) for each in (query, key, value)]
    probs = attn.get_attention_scores(parts[0], parts[1])
    output: Tensor = attn.batch_to_head_dim(torch.bmm(probs.to(parts[2].dtype), parts[2]))
    return output


def distilling_loss(
    seed: int,
    settings: AdapterRecipe,
    seen: Encoded,
    pipe: StableDiffusionPipeline,
    learned: nn.Module,
    teacher: nn.Module,
) -> LossFunction:
    """The mean over the sites of what the separate adapter does not tell of what pictures change.

    Args:
        seed: of the questions.
        settings: of the stage.
        seen: what is asked about.
        pipe: the model, with the processors of `learned` set on its UNet.
        learned: the separate adapter, as `adapters.new_separate` gives it.
        teacher: the concatenated adapter's projection.
    """
    ask = questions(seed, "distilled", settings, seen, pipe)
    length = int(pipe.tokenizer.model_max_length)
    taught = {
        name: TaughtProcessor(each, length)
        for name, each in pipe.unet.attn_processors.items()
        if any(each is pair for pair in learned.pairs)  # type: ignore[union-attr]
    }
    others = {name: AttnProcessor() for name in pipe.unet.attn_processors if name not in taught}
    pipe.unet.set_attn_processor({**others, **taught})

    def loss(module: Any, step: int) -> Tensor:
        asked = ask(step)
        tokens = module.adapter.projection(asked.pictures)
        for each in taught.values():
            each.tokens = tokens
        with torch.no_grad():
            text = torch.cat([asked.text, teacher(asked.pictures)], dim=1)
        # Nothing of the denoiser is learned, and what its sites hand on asks for no gradient.
        pipe.unet(asked.noisy, asked.timesteps, text)
        return torch.stack([each.loss for each in taught.values()]).mean()

    return loss
