"""Stage three: the text encoder learns what prompts mean, before it meets a denoiser.

Stable Diffusion takes a text encoder that has read before; here it reads alone. A small reader,
thrown away afterwards, answers questions from the embeddings of a prompt's words: is there
something red, which shape has it, how large is it, where does it stand, and which colour stands
furthest left? What is asked comes from the source of the scenes. No attention map is supervised.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lab.training.drawing import Arrays, Drawers, DrawnBlocks
from lab.training.loop import LossFunction, seed_for
from lab.training.recipe import Recipe, TextRecipe
from lab.training.sources import SceneSource, source_named
from lab.training.sources.quiz import UNSAID, Quiz
from lab.training.tokenizer import build_tokenizer


def new_text_encoder(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Fresh weights, of CLIP's text model."""
    settings = recipe.text
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        projection_dim=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids ``(texts, 77)``, padded and cut as the stock pipeline does."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


class Reader(nn.Module):
    """Answers every question from word embeddings ``(batch, tokens, width)``."""

    def __init__(self, settings: TextRecipe, quiz: Quiz) -> None:
        super().__init__()
        self.quiz = quiz
        self.questions = nn.Parameter(0.5 * torch.randn(sum(quiz.groups.values()), settings.width))
        layer = nn.TransformerDecoderLayer(
            settings.width, settings.heads, 2 * settings.width, 0.0, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(settings.width))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(settings.width, each.options) for name, each in quiz.answers.items()}
        )

    def forward(self, embeddings: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Scores ``(batch, questions, options)`` by answer.

        ``hidden`` ``(batch, tokens)`` marks the tokens that are not read.
        """
        questions = self.questions.expand(len(embeddings), -1, -1)
        read = self.layers(questions, embeddings, memory_key_padding_mask=hidden).float()
        parts = read.split(list(self.quiz.groups.values()), dim=1)
        groups = dict(zip(self.quiz.groups, parts, strict=True))
        return {
            name: self.heads[name](groups[each.group]) for name, each in self.quiz.answers.items()
        }


@cache
def source_tokenizer(scenes: str) -> CLIPTokenizer:
    """The tokenizer of the source that a recipe's ``scenes`` names."""
    return build_tokenizer(source_named(scenes).vocabulary())


def asked_part(recipe: Recipe, step: int, part: int) -> Arrays:
    """The prompts of a step, ``ids``, and the right answers to what is asked of them."""
    assert part == 0
    source = source_named(recipe.scenes)
    rng = np.random.default_rng(seed_for(recipe.seed, "text", step))
    scenes, said = source.telling(rng, recipe.text.batch, recipe.stray_words)
    ids = tokenize(source_tokenizer(recipe.scenes), [each.prompt for each in said])
    answers = {name: each.numpy() for name, each in source.labels(scenes, said).items()}
    return {"ids": ids.numpy(), **answers}


def text_loss(
    recipe: Recipe,
    source: SceneSource[Any],
    tokenizer: CLIPTokenizer,
    accelerator: Accelerator,
    drawers: Drawers,
) -> LossFunction:
    """Cross-entropy of all answers, read from the words alone; most scenes state a relation."""
    quiz = source.quiz()
    steps = DrawnBlocks(drawers, partial(asked_part, recipe), 1, recipe.text.steps)

    def loss(module: Any, step: int) -> Tensor:
        drawn = steps.at(step)
        truth = {name: torch.from_numpy(each) for name, each in drawn.items()}
        ids = truth.pop("ids").to(accelerator.device)
        special = (ids == tokenizer.bos_token_id) | (ids == tokenizer.eos_token_id)
        # The encoder is causal, so the padding behind the last word changes no word.
        last = int((~special).any(dim=0).nonzero().max())
        ids, special = ids[:, : last + 1], special[:, : last + 1]
        scores = module.reader(module.text_encoder(ids).last_hidden_state, special)
        terms = [
            each.weight * _mean_cross_entropy(scores[name], truth[name].to(accelerator.device))
            for name, each in quiz.answers.items()
        ]
        return torch.stack(terms).sum()

    return loss


def _mean_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are said; zero, and not NaN, where none is."""
    if scores.shape[-1] == 1:
        return functional.binary_cross_entropy_with_logits(scores[..., 0], labels.float())
    total = functional.cross_entropy(
        scores.flatten(0, -2), labels.flatten(), ignore_index=UNSAID, reduction="sum"
    )
    return total / (labels != UNSAID).sum().clamp(min=1)
