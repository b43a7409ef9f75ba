"""Two adapters that let a frozen denoiser read pictures.

`separate` is IP-Adapter's decoupled cross-attention (Ye et al., arXiv 2308.06721, eq. 5): keys and
values of their own at every site, with a softmax of their own. `concatenated` hands the picture's
tokens over behind the text's, as more columns of one sequence: the sites' own keys and values, one
softmax. What is learned is the projection of a picture's embedding to tokens, and for `separate`
the keys and values, which begin as the text's.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn
from torch.nn import functional

from lab.training.loop import LossFunction
from lab.training.picture_prompts.asked import Asked, Encoded, questions
from lab.training.picture_prompts.drawn import thing_of
from lab.training.picture_prompts.recipe import AdapterRecipe
from lab.training.text import tokenize

BEGIN_STEPS = 600
"""Steps in which the tokens of a picture learn to be like the words for its thing."""


def new_projection(settings: AdapterRecipe, seen: Encoded, width: int) -> ImageProjection:
    """Fresh weights of IP-Adapter's projection."""
    return ImageProjection(seen.embeddings.shape[1], width, settings.tokens)


def text_cross_attention(unet: UNet2DConditionModel) -> dict[str, Any]:
    """The cross-attention modules by the names of their processors, in the UNet's own order."""
    named = dict(unet.named_modules())
    return {
        name: named[name.removesuffix(".processor")]
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    }


def begin_projection(
    projection: ImageProjection, seen: Encoded, pipe: StableDiffusionPipeline, seed: int
) -> None:
    """Let the tokens begin as the text encoder's own columns for what stands alone in a picture.

    The columns are those of "a red old house", its last ones: what a causal encoder has read of
    all of them.
    """
    known = [(row, thing_of(scene)) for row, scene in enumerate(seen.drawn.scenes)]
    rows = [row for row, thing in known if thing is not None]
    things = [thing for _, thing in known if thing is not None]
    texts = [" ".join(["a", *(each for each in thing[::-1] if each)]) for thing in things]
    columns = projection.num_image_text_embeds
    distinct = sorted(set(texts))
    with torch.no_grad():
        ids = tokenize(pipe.tokenizer, distinct)
        hidden = pipe.text_encoder(ids).last_hidden_state
    ends = (ids == pipe.tokenizer.eos_token_id).int().argmax(1)
    wanted = torch.stack(
        [each[end - columns + 2 : end + 2] for each, end in zip(hidden, ends, strict=True)]
    )
    number = {text: index for index, text in enumerate(distinct)}
    which = torch.tensor([number[text] for text in texts])
    embeddings = seen.embeddings[rows]
    optimizer = torch.optim.AdamW(projection.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(seed)
    for step in range(BEGIN_STEPS):
        chosen = torch.randint(len(rows), (256,), generator=random)
        loss = functional.mse_loss(projection(embeddings[chosen]), wanted[which[chosen]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / BEGIN_STEPS)
        optimizer.step()


def new_separate(unet: UNet2DConditionModel, projection: ImageProjection) -> nn.Module:
    """Set IP-Adapter's processors on a UNet; keys and values begin as the text's."""
    processors: dict[str, Any] = {name: AttnProcessor() for name in unet.attn_processors}
    learned = nn.Module()
    learned.projection = projection
    learned.pairs = nn.ModuleList()
    for name, attention in text_cross_attention(unet).items():
        each = IPAdapterAttnProcessor(
            attention.to_k.out_features,
            attention.to_k.in_features,
            (projection.num_image_text_embeds,),
        )
        each.to_k_ip[0].load_state_dict(attention.to_k.state_dict())
        each.to_v_ip[0].load_state_dict(attention.to_v.state_dict())
        processors[name] = each
        learned.pairs.append(each)
    unet.set_attn_processor(processors)
    return learned


def new_concatenated(unet: UNet2DConditionModel, projection: ImageProjection) -> nn.Module:
    """The projection is all that is learned."""
    unet.set_attn_processor(AttnProcessor())
    learned = nn.Module()
    learned.projection = projection
    return learned


def text_and_picture(learned: Any, asked: Asked) -> Any:
    """What the UNet's sites get for `encoder_hidden_states`."""
    tokens = learned.projection(asked.pictures)
    if not hasattr(learned, "pairs"):
        return torch.cat([asked.text, tokens], dim=1)
    return asked.text, [tokens[:, None]]


def adapter_loss(
    seed: int,
    stage: str,
    settings: AdapterRecipe,
    seen: Encoded,
    pipe: StableDiffusionPipeline,
) -> LossFunction:
    """Mean squared error of the velocity, of things' places more than of others."""
    ask = questions(seed, stage, settings, seen, pipe)

    def loss(module: Any, step: int) -> Tensor:
        asked = ask(step)
        states = text_and_picture(module.adapter, asked)
        told = pipe.unet(asked.noisy, asked.timesteps, states).sample
        return (asked.weights * (told.float() - asked.velocity).square()).mean()

    return loss


def as_ip_adapter(learned: nn.Module) -> dict[str, Tensor]:
    """The weights by the names of IP-Adapter's files, as `load_ip_adapter` reads them.

    Those of `concatenated` have the projection alone, by the same names.
    """
    named = {
        f"image_proj.{name.replace('image_embeds', 'proj')}": each
        for name, each in learned.projection.state_dict().items()  # type: ignore[union-attr]
    }
    for index, each in enumerate(getattr(learned, "pairs", ())):
        # Self-attention, which has none, is counted between.
        for which in ("k", "v"):
            weight = getattr(each, f"to_{which}_ip")[0].weight
            named[f"ip_adapter.{2 * index + 1}.to_{which}_ip.weight"] = weight
    return {name: each.detach().half().contiguous() for name, each in named.items()}
