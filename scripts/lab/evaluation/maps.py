"""Hold heat maps of words against the pixels that the words name, in drawn scenes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tqdm import tqdm

from lab.evaluation.drawn import FIRST_SEED, TIMESTEPS, Drawn, checked_source, draw, recorded_scenes
from lab.evaluation.figures import Estimate
from lab.evaluation.fit import Fit, fit, uniform_fit
from lab.evaluation.ways import USUAL, Way, chosen_ways
from lab.scenes import NamingWord
from t2i_xattn.errors import UserError
from t2i_xattn.traces.trace import Trace

MapOf = Literal["the word", "another's word", "a filler word", "uniform"]
"""Whose map is held against what a word names: its own; that of a word of its kind that names
another object, such as another object's colour; that of the first word that names nothing, such as
"a"; and what is to be expected of a map that knows nothing. There may be no such words."""

ALL = "all kinds"
"""The mean over the kinds of words, each counting the same."""

_NAMES = {"shape": "noun", "thing": "noun"}
"""Of kinds of words; the others are called as they are."""

_ORDER = ("noun", "colour", "place", "light", "style", "size", "count", "relation", "ground")

MEASURES = ("iou", "iou_true_area", "pointing", "energy")


@dataclass(frozen=True)
class MapFigure:
    """Means over the words of one kind; see `Fit` for the measures.

    Attributes:
        way: how the map was made, one of `WAYS`.
        kind: which words were looked at, as `lab.scenes.wording` has them; a thing and a shape are
            a `"noun"`. `ALL` is the mean over the kinds.
        map_of: whose map was held against the word's object.
        iou, iou_true_area, pointing, energy: means, 0 to 1, with their intervals.
    """

    way: str
    kind: str
    map_of: MapOf
    iou: Estimate
    iou_true_area: Estimate
    pointing: Estimate
    energy: Estimate

    @property
    def n(self) -> int:
        """How many words."""
        return self.iou.n

    def as_json(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        measures = {name: getattr(self, name).as_json() for name in MEASURES}
        return {"way": self.way, "kind": self.kind, "map_of": self.map_of, **measures}


def evaluate_maps(
    pipe: Any,
    scenes: int = 500,
    *,
    source: str = "shapes",
    first_seed: int = FIRST_SEED,
    timesteps: Sequence[int] = TIMESTEPS,
    batch: int = 25,
    ways: Sequence[str] = USUAL,
) -> list[MapFigure]:
    """Figures of the words that name something, by way, kind and whose map it is.

    Args:
        pipe: a pipeline with `vae`, `unet`, `scheduler` and `encode_prompt`, such as
            `StableDiffusionPipeline`. Guidance is off.
        scenes: how many drawn scenes.
        source: which scenes, of `drawn.SOURCES`.
        first_seed: of the scenes, which follow each other from it on.
        timesteps: the noise levels, whose mean is the recording.
        batch: scenes passed at once.
        ways: how maps are made, of `WAYS`.

    Raises:
        UserError: if `scenes` or `batch` is not positive, or a way or source is not known.
    """
    chosen, source = chosen_ways(ways), checked_source(source)
    for name, value in (("scenes", scenes), ("batch", batch)):
        if value < 1:
            raise UserError(f"expected {name} of 1 or more, but came {value}")
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    # For each kind and way, the fits in each scene.
    fits: dict[tuple[str, str, MapOf], list[list[Fit]]] = defaultdict(
        lambda: [[] for _ in range(scenes)]
    )
    with tqdm(total=scenes, desc="maps of drawn scenes", unit="scene", disable=None) as bar:
        for start in range(0, scenes, batch):
            seeds = range(first_seed + start, first_seed + min(start + batch, scenes))
            part = draw(source, seeds, size)
            traces = recorded_scenes(pipe, part, seeds[0], chosen, timesteps)
            for image, scene in enumerate(part):
                for key, each in _fits(traces, chosen, scene, image):
                    fits[key][start + image].append(each)
            bar.update(len(part))
    return list(_figures(fits, list(chosen)))


def _figures(
    fits: Mapping[tuple[str, str, MapOf], list[list[Fit]]], ways: Sequence[str]
) -> Iterable[MapFigure]:
    kinds = [kind for kind in _ORDER if any(key[1] == kind for key in fits)]
    for way in ways:
        for map_of in get_args(MapOf):
            every = {kind: fits[way, kind, map_of] for kind in kinds if (way, kind, map_of) in fits}
            for kind, parts in [(kind, [each]) for kind, each in every.items()] + [
                (ALL, list(every.values()))
            ]:
                if not any(map(any, parts)):
                    continue
                measures = {
                    name: Estimate.of_kinds(
                        [[[getattr(one, name) for one in group] for group in p] for p in parts]
                    )
                    for name in MEASURES
                }
                yield MapFigure(way, kind, map_of, **measures)


def _fits(
    traces: Mapping[str, Trace], ways: Mapping[str, Way], scene: Drawn, image: int
) -> Iterable[tuple[tuple[str, str, MapOf], Fit]]:
    """`(way, kind, whose map)` and the fit, for each word of a scene that names something."""
    words = scene.description.words
    for name, way in ways.items():
        trace = traces[name]
        columns = {word.start: word.columns for word in trace.words_of(image)}
        maps = {
            word.start: way.heatmap(trace, columns[word.start], image, scene.image)
            for word in words
            if columns[word.start]
        }
        for word, mask in zip(words, scene.masks, strict=True):
            if word.start not in maps or not mask.any():
                continue
            kind = _NAMES.get(word.kind, word.kind)
            yield (name, kind, "the word"), fit(maps[word.start], mask)
            yield (name, kind, "uniform"), uniform_fit(mask)
            for map_of, wrong in _wrong_words(word, words).items():
                if wrong.start in maps:
                    yield (name, kind, map_of), fit(maps[wrong.start], mask)


def _wrong_words(word: NamingWord, words: Sequence[NamingWord]) -> dict[MapOf, NamingWord]:
    """The words whose maps are to lie elsewhere, see `MapOf`."""
    others = [each for each in words if each.kind == word.kind and each.objects != word.objects]
    fillers = [each for each in words if each.kind == "other"]
    found: dict[MapOf, NamingWord] = {}
    if others:
        found["another's word"] = others[0]
    if fillers:
        found["a filler word"] = fillers[0]
    return found
