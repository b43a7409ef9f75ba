"""Maps of words held against intervention, in front of drawn pictures that are noised.

A map is good if the word acts where the map is high. So the word is replaced by another of its
kind, before the text encoder, for the highest places of the map alone (deletion), or put in for
them alone (insertion): at every site those places look at the one text, all others at the other.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lab.evaluation.figures import Estimate
from lab.evaluation.fit import Mask
from lab.evaluation.gradients import gradient_weighted
from lab.evaluation.one_pass import answer, conditions, noised
from lab.evaluation.studies_scenes import (
    NamedWord,
    batches,
    columns_of_words,
    fit_at_area,
    highest,
    named_words,
)
from lab.evaluation.ways import WAYS, Way, recorded
from t2i_xattn import edits
from t2i_xattn.aggregation import resized
from t2i_xattn.editing.edit import edit
from t2i_xattn.explaining.effect_map import rank_correlation
from t2i_xattn.explaining.other_words import other_of_its_kind, with_another
from t2i_xattn.explaining.targets import token_counts

LEVEL = 500
"""Noise level of the pass."""

PARTS = (0.05, 0.1, 0.2)
"""Of the places, the highest of which are given the other text."""

RECORDED = ("mean", "finest sites", "daam", "rescaled", "agreed", "auto", "carried", "sharpened")
GRADIENT, EFFECT, TRUTH, NOTHING = (
    "gradient-weighted",
    "effect of another word",
    "what the word names",
    "no map",
)
"""Beside the ways of `WAYS`: see `gradients`; the intervention's own map; the drawn pixels, in no
order; and places in no order."""

MEASURES = ("iou", "pointing", "agreement", "deletion", "insertion")

FloatMap = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class InterventionFigure:
    """How one kind of maps of one kind of words stands to what the word does.

    Attributes:
        way: how the map was made.
        kind: of the words; `"all kinds"` is the mean over the kinds.
        iou: at the true area, with the pixels that the word names.
        pointing: share of the maps whose peak lies in them.
        agreement: Spearman's rank correlation with the effect map, over the latent's places.
        deletion: the part of the word's effect that is there when it is replaced at the highest
            places alone, ⟨Δ_part, Δ⟩ / ⟨Δ, Δ⟩; mean over `PARTS`.
        insertion: the part of the word's effect that is undone when it is put in at the highest
            places alone, the same mean.
    """

    way: str
    kind: str
    iou: Estimate
    pointing: Estimate
    agreement: Estimate
    deletion: Estimate
    insertion: Estimate

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        named = {name: getattr(self, name).as_json() for name in MEASURES}
        return {"way": self.way, "kind": self.kind, **named}


Found = dict[tuple[str, str], list[list[tuple[float, ...]]]]
"""By way and kind, in each scene the measures of its words."""


def evaluate_interventions(
    pipe: Any, scenes: int = 40, *, ways: Sequence[str] = RECORDED
) -> list[InterventionFigure]:
    """Figures by way and kind of word.

    Args:
        pipe: a pipeline of Stable Diffusion's kind, of the world. Guidance is off.
        scenes: how many drawn scenes.
        ways: of `WAYS`.
    """
    chosen = {name: WAYS[name] for name in ways}
    found: Found = defaultdict(lambda: [[] for _ in range(scenes)])
    with tqdm(total=scenes, desc="interventions", unit="scene", disable=None) as bar:
        for number, (scene,), latents in batches(pipe, scenes, 1):
            for way, kind, measures in _scene(pipe, chosen, scene, latents, number):
                found[way, kind][number].append(measures)
            # Contexts that have ended hold tensors in cycles, which are let go rarely otherwise.
            gc.collect()
            bar.update()
    return list(_figures(found))


def _figures(found: Found) -> Iterator[InterventionFigure]:
    for way in dict.fromkeys(way for way, _ in found):
        kinds = {kind: groups for (of, kind), groups in found.items() if of == way}
        for kind, parts in [
            *((k, [g]) for k, g in kinds.items()),
            ("all kinds", [*kinds.values()]),
        ]:
            estimates = [
                Estimate.of_kinds([[[each[n] for each in g] for g in part] for part in parts])
                for n in range(len(MEASURES))
            ]
            yield InterventionFigure(way, kind, *estimates)


def _scene(
    pipe: Any, ways: dict[str, Way], scene: Any, latents: Tensor, number: int
) -> Iterator[tuple[str, str, tuple[float, ...]]]:
    """The way, the kind of word and the measures, for each word of one scene."""
    noisy = noised(pipe, latents, LEVEL, number)
    asked = _asked(pipe, scene)
    if not asked:
        return
    pass_ = _Pass(pipe, noisy)
    with recorded(pipe, ways) as traces:
        plain = pass_.answers([scene.prompt])[0]
    columns = {name: columns_of_words(trace.words_of(0)) for name, trace in traces.items()}
    own = next(iter(columns.values()))
    gradients = _gradients(pass_, scene.prompt, [own[each.word.start] for each, _ in asked])
    for (named, other), gradient in zip(asked, gradients, strict=True):
        changed = pass_.answers([other])[0]
        start = named.word.start
        maps: dict[str, FloatMap] = {
            name: way.heatmap(traces[name], columns[name][start], 0, scene.image).array
            for name, way in ways.items()
        }
        maps[GRADIENT] = gradient
        maps[EFFECT] = pass_.enlarged((changed - plain).norm(dim=0))
        random = np.random.default_rng(start).random(named.mask.shape)
        maps[TRUTH], maps[NOTHING] = named.mask + 1e-3 * random, random
        curves = _curves(pass_, scene.prompt, other, plain, changed, list(maps.values()))
        effect = _shrunk(maps[EFFECT], plain)
        for (way, array), parts in zip(maps.items(), curves, strict=True):
            agreement = rank_correlation(_shrunk(array, plain), effect)
            yield way, named.kind, (*fit_at_area(array, named.mask), agreement, *parts)


def _asked(pipe: Any, scene: Any) -> list[tuple[NamedWord, str]]:
    """Words with pixels, each with the prompt in which another of its kind stands."""
    count, found = token_counts(pipe), []
    for each in named_words(scene):
        word = each.word
        other = other_of_its_kind(word.text, scene.prompt, count)
        if other is not None:
            place = word.start, word.start + len(word.text)
            found.append((each, with_another(scene.prompt, [place], other)))
    return found


class _Pass:
    """One noised picture in front of the denoiser, as often as there are prompts."""

    def __init__(self, pipe: Any, noisy: Tensor) -> None:
        self.pipe, self.noisy = pipe, noisy
        self.size = tuple(int(side * pipe.vae_scale_factor) for side in noisy.shape[2:])

    def answers(self, prompts: Sequence[str], regions: Sequence[tuple[str, Mask]] = ()) -> Tensor:
        """The denoiser's answers, `(prompts, channels, height, width)`.

        Args:
            prompts: one a row.
            regions: for each row, another text, and the places that look at it instead.
        """
        rows = self.noisy.expand(len(prompts), -1, -1, -1)
        acting = [
            edits.RegionalPrompts({text: mask}, base_weight=0.0, images=[row])
            for row, (text, mask) in enumerate(regions)
        ]
        edited = edit(self.pipe, *acting) if acting else nullcontext()
        with torch.no_grad(), edited:
            return answer(self.pipe, conditions(self.pipe, prompts, rows), rows, LEVEL)

    def enlarged(self, places: Tensor) -> FloatMap:
        """`(height, width)` of the latent, at the picture's size."""
        array = places.float().cpu().numpy()[..., None]
        return resized(array, (self.size[0], self.size[1]), "bilinear")[..., 0]


def _gradients(
    pass_: _Pass, prompt: str, columns: Sequence[Sequence[int]]
) -> list[NDArray[np.float32]]:
    pipe, noisy = pass_.pipe, pass_.noisy
    empty = pass_.answers([""])

    def answered() -> Tensor:
        with torch.no_grad():
            given = conditions(pipe, [prompt], noisy)
        level = torch.tensor(LEVEL, device=noisy.device)
        predicted: Tensor = pipe.unet(noisy.to(pipe.unet.dtype), level, **given).sample
        return predicted - empty

    height, width = noisy.shape[2:]
    return gradient_weighted(
        pipe, answered, columns, (height, width), (pass_.size[0], pass_.size[1])
    )


def _curves(
    pass_: _Pass,
    prompt: str,
    other: str,
    plain: Tensor,
    changed: Tensor,
    maps: Sequence[FloatMap],
) -> list[tuple[float, float]]:
    """For each map, deletion and insertion; see `InterventionFigure`."""
    full = changed - plain
    masks = [highest(array, max(1, round(part * array.size))) for array in maps for part in PARTS]
    parts = []
    for text, put, start, sign in ((prompt, other, plain, 1), (other, prompt, changed, -1)):
        answers = pass_.answers([text] * len(masks), [(put, mask) for mask in masks])
        change = sign * (answers - start)
        shares = (change * full).sum(dim=(1, 2, 3)) / full.square().sum()
        parts.append(shares.unflatten(0, (len(maps), len(PARTS))).mean(dim=1).tolist())
    return list(zip(*parts, strict=True))


def _shrunk(array: FloatMap, plain: Tensor) -> NDArray[np.float32]:
    """A map at the latent's size, each place the mean of its pixels."""
    size = plain.shape[-2], plain.shape[-1]
    return torch.nn.functional.adaptive_avg_pool2d(
        torch.tensor(array.astype(np.float32))[None], size
    )[0].numpy()
