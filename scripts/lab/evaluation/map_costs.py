"""What a way to make maps costs: the time of painting with its recording, its bytes, and the time
of one map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image

from lab.evaluation.ways import Way, chosen_ways, recorded
from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class Cost:
    """The cost of a way.

    Attributes:
        seconds: of a picture painted with its recording, the median.
        ratio: of that to the seconds of the same picture without, the median over pairs taken in
            turn.
        pairs: how many.
        bytes: of the maps that are kept of a picture.
        map_seconds: of one word's map.
    """

    seconds: float
    ratio: float
    pairs: int
    bytes: int
    map_seconds: float


def map_costs(
    pipe: Any, prompt: str, ways: Sequence[str], *, steps: int = 25, pairs: int = 5
) -> dict[str, Cost]:
    """The cost of each way, for one picture of a prompt with guidance.

    Args:
        pipe: a Stable Diffusion pipeline.
        prompt: of the picture.
        ways: of `WAYS`.
        steps: of the sampler.
        pairs: pictures with and without a recording, in turn.
    """
    _paint(pipe, prompt, {}, min(steps, 2))  # what is done once is no cost of any of them
    return {
        name: _cost(pipe, prompt, {name: way}, steps, pairs)
        for name, way in chosen_ways(ways).items()
    }


def _cost(pipe: Any, prompt: str, way: dict[str, Way], steps: int, pairs: int) -> Cost:
    found, ratios = [], []
    for _ in range(pairs):
        plain, _, _ = _paint(pipe, prompt, {}, steps)
        seconds, trace, picture = _paint(pipe, prompt, way, steps)
        found.append(seconds)
        ratios.append(seconds / plain)
    assert trace is not None
    words = [word.columns for word in trace.words if word.columns]
    (how,) = way.values()
    began = perf_counter()
    for columns in words:
        how.heatmap(trace, columns, picture=picture)
    each = (perf_counter() - began) / max(1, len(words))
    kept = sum(array.nbytes for maps in trace.run.maps.values() for array in maps.values())
    return Cost(float(np.median(found)), float(np.median(ratios)), pairs, kept, each)


def _paint(
    pipe: Any, prompt: str, ways: dict[str, Way], steps: int
) -> tuple[float, Trace | None, Image.Image]:
    began = perf_counter()
    with recorded(pipe, ways) as traces:
        picture = pipe(
            prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)
        ).images[0]
    return perf_counter() - began, next(iter(traces.values()), None), picture
