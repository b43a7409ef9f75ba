"""Hold the maps of a model against a published test.

Each picture is squashed to the size that the model was trained on, as the papers do, noised to a
level and passed once (`one_pass`) under "a photo of a dog and a cat": the classes that are there
are told to the model, and where they are is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lab.evaluation.one_pass import check_pipeline, encoded_pictures, own_size, recorded_pass
from lab.evaluation.published.labelled import Labelled, Published
from lab.evaluation.published.scores import BinaryScores, ClassScores, Scores
from lab.evaluation.regions import DEFAULTS
from lab.evaluation.ways import Way, chosen_ways
from t2i_xattn.errors import UserError
from t2i_xattn.traces.competing import min_max_or_zeros
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.segmentation import Regions
from t2i_xattn.traces.trace import Trace

SIDE = 224
"""Pixels on a side, on which ImageNet-Segmentation is counted; others in the pictures' own size."""

SEED = 22_000_000

NOTHING = "no map"
"""What is counted beside the ways of making maps: everything is background."""


@dataclass(frozen=True)
class PublishedFigure:
    """A row of a published table.

    Attributes:
        way: how maps were made, of `lab.evaluation.ways`, or `NOTHING`.
        mean_iou, pixel_accuracy, mean_average_precision: see `published.scores`; 0 to 1. The last
            is None where there are no maps.
        iou: of each class that is there or seen.
        pictures: how many.
        cut: classes of pictures whose words lay beyond the text encoder's window.
    """

    way: str
    mean_iou: float
    pixel_accuracy: float
    mean_average_precision: float | None
    iou: Mapping[str, float]
    pictures: int
    cut: int


def evaluate_published(
    pipe: Any,
    test: Published,
    *,
    ways: Sequence[str] = ("mean", "agreed"),
    timestep: int = 500,
    threshold: float | Literal["otsu"] | None = None,
    batch: int = 8,
    limit: int | None = None,
) -> list[PublishedFigure]:
    """The figures of a test, by how maps are made, and those of no map at all.

    Args:
        pipe: a pipeline of Stable Diffusion's kind; guidance is off.
        test: as `published.opened` gives it.
        ways: of `lab.evaluation.ways`.
        timestep: the noise level.
        threshold: of `Regions.of`; by default what `Trace.regions` chooses, 0.3 of `agreed` maps
            and 0.5 of others. ImageNet-Segmentation is always cut at a map's mean.
        batch: pictures passed at once.
        limit: a quick run, the first pictures only.

    Raises:
        UserError: if the pipeline is of another kind, a number is out of range, or a file of the
            test is missing or damaged.
    """
    check_pipeline(pipe)
    levels = int(pipe.scheduler.config.num_train_timesteps)
    if not 0 <= timestep < levels:
        raise UserError(f"expected a timestep from 0 to {levels - 1}, but came {timestep}")
    if batch < 1:
        raise UserError(f"expected batch of 1 or more, but came {batch}")
    chosen = chosen_ways(ways)
    scores: dict[str, Scores] = {
        name: BinaryScores() if test.binary else ClassScores(len(test.classes))
        for name in (*chosen, NOTHING)
    }
    count, cut = len(test.names[:limit]), 0
    pictures, side = test.pictures(limit), own_size(pipe)
    with tqdm(total=count, desc="pictures", unit="picture", disable=None) as bar:
        for start in range(0, count, batch):
            part = list(islice(pictures, batch))
            prompts = [prompt_of(list(each.words.values())) for each in part]
            squashed = [each.image.resize((side, side), Image.Resampling.LANCZOS) for each in part]
            latents = encoded_pictures(pipe, squashed)
            texts = [text for text, _ in prompts]
            traces = recorded_pass(pipe, texts, latents, timestep, SEED + start, chosen)
            for image, picture in enumerate(part):
                truth = _truth(picture, test.binary)
                _count(scores[NOTHING], truth, {}, None)
                for name, way in chosen.items():
                    places = dict(zip(picture.words, prompts[image][1], strict=True))
                    maps = dict(_maps(traces[name], way, image, picture, places))
                    cut += (len(places) - len(maps)) * (name == next(iter(chosen)))
                    level = DEFAULTS.get(name, 0.5) if threshold is None else threshold
                    _count(scores[name], truth, maps, level)
            bar.update(len(part))
    return [_figure(name, each, test.classes, count, cut) for name, each in scores.items()]


def prompt_of(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """ "a photo of a dog, an apple and a cat", and from where to where each word stands in it.

    By their places, since a word may stand in another: a dog in a hot dog.
    """
    text, places = "a photo of", []
    for number, word in enumerate(words):
        joint = "" if number == 0 else " and" if number == len(words) - 1 else ","
        article = "an" if word[:1].casefold() in tuple("aeiou") else "a"
        text = f"{text}{joint} {article} "
        places.append((len(text), len(text) + len(word)))
        text += word
    return text, places


def _maps(
    trace: Trace,
    way: Way,
    image: int,
    picture: Labelled,
    places: Mapping[int, tuple[int, int]],
) -> Iterator[tuple[int, HeatMap]]:
    """The map of each class, by its number; none of a word that the text encoder cut off."""
    words = trace.words_of(image)
    for number, (start, stop) in places.items():
        inside = [each for each in words if start <= each.start and each.stop <= stop]
        columns = [column for each in inside for column in each.columns]
        if columns and all(each.columns for each in inside):
            array = way.heatmap(trace, columns, image).array
            yield number, HeatMap(picture.words[number], array)


def _truth(picture: Labelled, binary: bool) -> NDArray[np.int64]:
    if not binary:
        return picture.labels
    small = Image.fromarray(picture.labels.astype(np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.NEAREST
    )
    return np.asarray(small).astype(np.int64)


def _count(
    scores: Scores,
    truth: NDArray[np.int64],
    maps: Mapping[int, HeatMap],
    threshold: float | Literal["otsu"] | None,
) -> None:
    """Adds a picture: the maps are enlarged to the size of the truth."""
    height, width = truth.shape
    resized = {
        number: HeatMap(
            heat.word,
            np.asarray(
                Image.fromarray(heat.array).resize((width, height), Image.Resampling.BILINEAR)
            ),
        )
        for number, heat in maps.items()
    }
    scaled = {number: min_max_or_zeros(heat.array) for number, heat in resized.items()}
    if isinstance(scores, BinaryScores):
        scores.add(scaled.get(1, np.zeros(truth.shape, dtype=np.float32)), truth)
        return
    assert isinstance(scores, ClassScores)
    seen = np.zeros(truth.shape, dtype=np.int64)
    if resized:
        assert threshold is not None, "where there are maps"
        found = Regions.of(list(resized.values()), threshold=threshold)
        seen = np.array([0, *resized])[found.labels]
    scores.add(seen, truth, scaled)


def _figure(
    way: str, scores: Scores, classes: Sequence[str], pictures: int, cut: int
) -> PublishedFigure:
    precision = scores.mean_average_precision
    known = {
        name: float(iou) for name, iou in zip(classes, scores.iou, strict=True) if not np.isnan(iou)
    }
    return PublishedFigure(
        way,
        scores.mean_iou,
        scores.pixel_accuracy,
        None if np.isnan(precision) else precision,
        known,
        pictures,
        cut,
    )
