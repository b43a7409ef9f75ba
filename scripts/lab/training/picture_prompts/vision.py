"""The vision encoder learns what is to be seen, before it meets a denoiser.

IP-Adapter takes a CLIP model that has seen pictures before; here it sees alone. Heads that are
thrown away afterwards answer from the embedding of a picture: which things and places are there, in
which colours, in which light and style, and where stands what stands alone. Patches tell what each
of them shows, since a whole picture's answers alone teach a small transformer slowly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lab.scenes.layout import SIDE
from lab.scenes.world import WorldScene
from lab.training.loop import LossFunction, seed_for
from lab.training.picture_prompts.drawn import GRID, DrawnPictures
from lab.training.picture_prompts.recipe import PicturePromptRecipe, VisionRecipe
from lab.training.sources import WorldScenes
from lab.training.sources.source import NOTHING

UNTOLD = -100
"""What cross-entropy leaves out."""


def new_vision_encoder(settings: VisionRecipe) -> CLIPVisionModelWithProjection:
    """Fresh weights, of CLIP's vision model."""
    config = CLIPVisionConfig(
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        projection_dim=settings.embedding,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        image_size=SIDE,
        patch_size=settings.patch,
    )
    encoder = CLIPVisionModelWithProjection(config)
    # On a CPU the fused kernel's backward pass is slow: a step takes 0.38 s so and 0.67 s with it.
    encoder.set_attn_implementation("eager")
    return encoder


def preprocessed(pixels: Tensor) -> Tensor:
    """uint8 `(batch, 3, side, side)` as CLIP's image processor hands them over."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (pixels.float() / 255 - mean) / std


class Seer(nn.Module):
    """Answers from embeddings `(batch, embedding)` and patches `(batch, patches, width)`."""

    def __init__(self, settings: VisionRecipe) -> None:
        super().__init__()
        self.values = WorldScenes().pixel_values()
        classes, colours, styles, lights = self.values
        self.patches = nn.Linear(settings.width, sum(self.values))
        self.there = nn.Linear(settings.embedding, classes)
        self.coloured = nn.Linear(settings.embedding, classes * colours)
        self.styled = nn.Linear(settings.embedding, classes * styles)
        self.lit = nn.Linear(settings.embedding, lights)
        self.stands = nn.Linear(settings.embedding, 3)


def seen_pairs(labels: NDArray[np.uint8], kind: int, values: int, classes: int) -> Tensor:
    """Whether a class is there with a value of a kind: float `(scenes, classes · values)`."""
    found = np.zeros((len(labels), classes, values), dtype=np.float32)
    for index, each in enumerate(labels):
        told = each[kind] != NOTHING
        found[index, each[0][told], each[kind][told]] = 1
    return torch.from_numpy(found.reshape(len(labels), -1))


def stand_of(scene: Any) -> tuple[float, float, float]:
    """Middle, foot and height of what stands alone, as fractions; NaN where nothing does."""
    if not isinstance(scene, WorldScene) or len(scene.things) != 1:
        return (float("nan"),) * 3
    one = scene.things[0]
    return one.x / SIDE, one.base / SIDE, one.height / SIDE


def vision_loss(recipe: PicturePromptRecipe, drawn: DrawnPictures) -> LossFunction:
    """Cross-entropies of what is to be seen, and the error of where it stands."""
    settings = recipe.vision
    stands = torch.tensor([stand_of(scene) for scene in drawn.scenes])
    classes, colours, styles, _ = WorldScenes().pixel_values()
    # A class is there if it is with itself.
    all_there = seen_pairs(drawn.labels, 0, classes, classes)
    all_there = all_there.unflatten(1, (classes, classes)).diagonal(dim1=1, dim2=2)
    all_coloured = seen_pairs(drawn.labels, 1, colours, classes)
    all_styled = seen_pairs(drawn.labels, 2, styles, classes)
    step_of_patch = GRID * settings.patch // SIDE

    def loss(module: Any, step: int) -> Tensor:
        rng = np.random.default_rng(seed_for(recipe.seed, "vision", step))
        rows = rng.integers(len(drawn.scenes), size=settings.batch)
        flipped = rng.random() < 0.5
        pixels = torch.from_numpy(drawn.pixels[rows])
        labels = drawn.labels[rows]
        where = stands[rows].clone()
        if flipped:
            pixels, labels = pixels.flip(-1), labels[..., ::-1]
            where[:, 0] = 1 - where[:, 0]
        shades = torch.from_numpy(rng.normal(0, 0.06, (settings.batch, 3, 1, 1))).float()
        noise = torch.from_numpy(rng.normal(0, 0.04, pixels.shape).astype(np.float32))
        answered = module.encoder(preprocessed(pixels) + shades + noise)
        seer, embedding = module.seer, answered.image_embeds
        half = step_of_patch // 2
        small = torch.from_numpy(labels[..., half::step_of_patch, half::step_of_patch].copy())
        small = small.long().flatten(2).masked_fill_(small.flatten(2) == NOTHING, UNTOLD)
        # Without the token of the whole picture.
        told = seer.patches(answered.last_hidden_state[:, 1:]).split(seer.values, dim=-1)
        terms = [
            functional.cross_entropy(each.flatten(0, 1).float(), small[:, index].flatten())
            for index, each in enumerate(told)
        ]
        terms.append(20 * _told(seer.there(embedding), all_there[rows]))
        terms.append(200 * _told(seer.coloured(embedding), all_coloured[rows]))
        terms.append(50 * _told(seer.styled(embedding), all_styled[rows]))
        light = torch.from_numpy(labels[:, 3, 0, 0].astype(np.int64))
        light = light.masked_fill(light == NOTHING, UNTOLD)
        terms.append(functional.cross_entropy(seer.lit(embedding).float(), light))
        known = where.isfinite()
        apart = (seer.stands(embedding).float() - where.nan_to_num()) * known
        terms.append(20 * apart.square().mean())
        return torch.stack(terms).sum()

    return loss


def _told(scores: Tensor, truth: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(scores.float(), truth)


@torch.no_grad()
def share_seen(module: Any, drawn: DrawnPictures) -> dict[str, float]:
    """How often what stands alone is told rightly: its class, its colour, both; and the light."""
    seer = module.seer
    classes, colours, _, _ = seer.values
    right: dict[str, list[bool]] = {"class": [], "colour": [], "light": []}
    alone = [row for row, each in enumerate(stand_of(s)[0] for s in drawn.scenes) if each == each]
    first_thing = int(drawn.labels[:, 0][drawn.things].min())
    for start in range(0, len(alone), 128):
        rows = alone[start : start + 128]
        embedding = module.encoder(preprocessed(torch.from_numpy(drawn.pixels[rows]))).image_embeds
        there = seer.there(embedding)
        there[:, :first_thing] = -torch.inf
        pairs = seer.coloured(embedding).unflatten(1, (classes, colours))
        for row, scores, of_colours, lit in zip(
            rows, there, pairs, seer.lit(embedding), strict=True
        ):
            masked = drawn.labels[row, :, drawn.things[row]]
            if not len(masked):
                continue
            kind = np.bincount(masked[:, 0]).argmax()
            right["class"].append(int(scores.argmax()) == kind)
            told = masked[:, 1][(masked[:, 1] != NOTHING) & (masked[:, 0] == kind)]
            if len(told):
                right["colour"].append(int(of_colours[kind].argmax()) == told[0])
            right["light"].append(int(lit.argmax()) == drawn.labels[row, 3, 0, 0])
    return {name: sum(each) / len(each) for name, each in right.items()}
