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
    pipe: Any, prompt: str, ways: Sequence[str], *, steps: int = 25, pairs: int = 3
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
    painted: dict[tuple[Any, ...], _Painted] = {}
    costs: dict[str, Cost] = {}
    for name, way in chosen_ways(ways).items():
        key = tuple(sorted(way.recorded.items()))
        if key not in painted:  # ways that need the same recording cost the same
            painted[key] = _in_turn(pipe, prompt, {name: way}, steps, pairs)
        costs[name] = _cost(painted[key], way)
    return costs


@dataclass(frozen=True)
class _Painted:
    """Pictures painted with a recording and without, in turn."""

    seconds: list[float]
    plain: list[float]
    trace: Trace
    picture: Image.Image


def _in_turn(pipe: Any, prompt: str, way: dict[str, Way], steps: int, pairs: int) -> _Painted:
    seconds, plain = [], []
    for _ in range(pairs):
        plain.append(_paint(pipe, prompt, {}, steps)[0])
        took, trace, picture = _paint(pipe, prompt, way, steps)
        seconds.append(took)
    assert trace is not None
    return _Painted(seconds, plain, trace, picture)


def _cost(painted: _Painted, way: Way) -> Cost:
    trace = painted.trace
    words = [word.columns for word in trace.words if word.columns]
    began = perf_counter()
    for columns in words:
        way.heatmap(trace, columns, picture=painted.picture)
    each = (perf_counter() - began) / max(1, len(words))
    kept = sum(array.nbytes for maps in trace.run.maps.values() for array in maps.values())
    ratios = np.array(painted.seconds) / np.array(painted.plain)
    return Cost(
        seconds=float(np.median(painted.seconds)),
        ratio=float(np.median(ratios)),
        pairs=len(ratios),
        bytes=kept,
        map_seconds=each,
    )


def _paint(
    pipe: Any, prompt: str, ways: dict[str, Way], steps: int
) -> tuple[float, Trace | None, Image.Image]:
    began = perf_counter()
    with recorded(pipe, ways) as traces:
        picture = pipe(
            prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)
        ).images[0]
    return perf_counter() - began, next(iter(traces.values()), None), picture
