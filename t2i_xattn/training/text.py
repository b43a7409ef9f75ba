"""Stage three: the text encoder learns what prompts mean, before it meets a denoiser.

Stable Diffusion takes a text encoder that has read before; here it reads alone. A small reader,
thrown away afterwards, answers questions from the embeddings of a prompt's words: is there
something red, which shape has it, how large is it, where does it stand, and which colour stands
furthest left? No attention map is supervised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from t2i_xattn.scenes import Description, Scene, describe, language, sample_scene
from t2i_xattn.scenes.layout import SIDE
from t2i_xattn.training.loop import LossFunction, seed_for
from t2i_xattn.training.recipe import Recipe, TextRecipe

PLACES = 8
"""Parts into which the reader's questions divide the picture's width and height."""


UNSAID = -100
"""The label of an answer that the loss does not count."""

SIDES = ("left of", "right of", "above", "below")


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


@dataclass(frozen=True)
class Answers:
    """What is true of a batch of scenes, for each question: a colour, then a shape.

    Attributes:
        present: float ``(scenes, questions)``, 1 where some object has the colour or shape.
        single: bool, where exactly one has it, so that the other answers are defined.
        partner: that object's shape (asked by colour) or colour (asked by shape), an index.
        size, column, row: its size, and the eighths of the picture's width and height where its
            centre stands, as indices.
        ground: ``(scenes,)``, an index.
        outermost: ``(scenes, 4)``, the colour of the object that the prompt puts furthest left,
            right, up and down, an index; ``UNSAID`` where it says nothing.
    """

    present: Tensor
    single: Tensor
    partner: Tensor
    size: Tensor
    column: Tensor
    row: Tensor
    ground: Tensor
    outermost: Tensor

    @classmethod
    def of(cls, scenes: list[Scene], said: list[Description]) -> Answers:
        words = language()
        colours, shapes = list(words.colours), list(words.shapes)
        sizes, grounds = list(words.radii), list(words.grounds)
        count = torch.zeros(len(scenes), len(colours) + len(shapes), dtype=torch.long)
        partner, size, column, row = (torch.zeros_like(count) for _ in range(4))
        for index, scene in enumerate(scenes):
            for each in scene.objects:
                colour, shape = colours.index(each.colour), shapes.index(each.shape)
                for question, answer in ((colour, shape), (len(colours) + shape, colour)):
                    count[index, question] += 1
                    partner[index, question] = answer
                    size[index, question] = sizes.index(each.size)
                    column[index, question] = int(each.x / SIDE * PLACES)
                    row[index, question] = int(each.y / SIDE * PLACES)
        ground = torch.tensor([grounds.index(scene.ground) for scene in scenes])
        outermost = torch.full((len(scenes), len(SIDES)), UNSAID)
        for index, (scene, description) in enumerate(zip(scenes, said, strict=True)):
            # Of three objects the third may lie further out.
            if description.relation is None or len(scene.objects) != 2:
                continue
            first, relation, second = description.relation
            inverse = words.relations[relation].inverse
            for side, chosen in ((relation, first), (inverse, second)):
                colour = colours.index(scene.objects[chosen].colour)
                outermost[index, SIDES.index(side)] = colour
        present = (count > 0).float()
        return cls(present, count == 1, partner, size, column, row, ground, outermost)


class Reader(nn.Module):
    """Answers every question from word embeddings ``(batch, tokens, width)``."""

    def __init__(self, settings: TextRecipe) -> None:
        super().__init__()
        words = language()
        # By colour, by shape, for the ground, and for what stands furthest out on each side.
        self.counts = [len(words.colours) + len(words.shapes), 1, len(SIDES)]
        self.questions = nn.Parameter(0.5 * torch.randn(sum(self.counts), settings.width))
        layer = nn.TransformerDecoderLayer(
            settings.width, settings.heads, 2 * settings.width, 0.0, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerDecoder(layer, 2, nn.LayerNorm(settings.width))
        outputs = {
            "present": 1,
            "partner": max(len(words.colours), len(words.shapes)),
            "size": len(words.radii),
            "column": PLACES,
            "row": PLACES,
            "ground": len(words.grounds),
            "outermost": len(words.colours),
        }
        self.heads = nn.ModuleDict({k: nn.Linear(settings.width, n) for k, n in outputs.items()})

    def forward(self, embeddings: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Scores by answer; ``hidden`` ``(batch, tokens)`` marks the tokens that are not read."""
        questions = self.questions.expand(len(embeddings), -1, -1)
        read = self.layers(questions, embeddings, memory_key_padding_mask=hidden).float()
        asked, ground, outermost = read.split(self.counts, dim=1)
        others = {"ground": ground[:, 0], "outermost": outermost}
        return {name: head(others.get(name, asked)) for name, head in self.heads.items()}


def text_loss(recipe: Recipe, tokenizer: CLIPTokenizer, accelerator: Accelerator) -> LossFunction:
    """Cross-entropy of all answers, read from the words alone; most scenes state a relation."""
    settings = recipe.text

    def loss(module: Any, step: int) -> Tensor:
        rng = np.random.default_rng(seed_for(recipe.seed, "text", step))
        counts = rng.choice([1, 2, 3], p=[0.1, 0.75, 0.15], size=settings.batch)
        scenes = [sample_scene(rng, int(count)) for count in counts]
        said = [describe(scene, rng, relation=True, stray=recipe.stray_words) for scene in scenes]
        ids = tokenize(tokenizer, [each.prompt for each in said]).to(accelerator.device)
        special = (ids == tokenizer.bos_token_id) | (ids == tokenizer.eos_token_id)
        # The encoder is causal, so the padding behind the last word changes no word.
        last = int((~special).any(dim=0).nonzero().max())
        ids, special = ids[:, : last + 1], special[:, : last + 1]
        scores = module.reader(module.text_encoder(ids).last_hidden_state, special)
        truth = Answers.of(scenes, said)
        device = accelerator.device
        present = functional.binary_cross_entropy_with_logits(
            scores["present"][..., 0], truth.present.to(device)
        )
        terms = [_mean_cross_entropy(scores["ground"], truth.ground.to(device))]
        for name in ("partner", "size", "column", "row"):
            labels = getattr(truth, name).masked_fill(~truth.single, UNSAID)
            terms.append(_mean_cross_entropy(scores[name], labels.to(device)))
        outermost = _mean_cross_entropy(scores["outermost"], truth.outermost.to(device))
        return present + torch.stack(terms).sum() + 2 * outermost

    return loss


def _mean_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels that are said; zero, and not NaN, where none is."""
    total = functional.cross_entropy(
        scores.flatten(0, -2), labels.flatten(), ignore_index=UNSAID, reduction="sum"
    )
    return total / (labels != UNSAID).sum().clamp(min=1)
