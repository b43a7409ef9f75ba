"""What the denoiser was asked and answered in the calls of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.prompts.encoded import Text

Rows = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TrajectoryCall:
    """One call of the denoiser in a run of one picture.

    Attributes:
        rows: by branch, the row of the batch that is the picture's.
        step: the conditional branch's number; None in a call without it.
        latents: what the conditional row was given; None in a call without it.
        tokens: columns of its text.
        given: the arguments for that row alone; None where they are not kept.
        answer: what the denoiser gave, in whatever holds it.
    """

    rows: Mapping[str, int]
    step: int | None
    latents: Tensor | None
    tokens: int
    given: Mapping[str, Any] | None
    answer: Any


@dataclass(eq=False)
class Trajectory:
    """The way of a picture through its run, up to the last step that is asked about.

    Attributes:
        calls: of its denoisers, in their order.
        window: first step that is asked about, and the end; None before the first call.
        text: the prompt as it was encoded; None if it is not known.
    """

    calls: list[TrajectoryCall] = field(default_factory=list)
    window: tuple[int, int] | None = None
    text: Text | None = None


def batch_rows(layout: Layout, call: DenoiserCall) -> dict[str, Rows]:
    """By branch, the rows of the denoiser's batch: one a picture, in their order."""
    frames = call.row_frames
    return {
        branch: tuple(row // frames for row in rows[::frames])
        for branch, rows in layout.rows.items()
    }


def prediction(answer: Any) -> Tensor:
    """What a denoiser predicts, `(rows, …)`, out of whatever holds it."""
    if isinstance(answer, Tensor):
        return answer
    found = answer.sample if hasattr(answer, "sample") else answer[0]
    return found if isinstance(found, Tensor) else torch.stack(list(found))


def with_prediction(answer: Any, made: Tensor) -> Any:
    """The same holder with another prediction in it."""
    if isinstance(answer, Tensor):
        return made
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        kind: Any = type(answer)
        return kind(sample=_like(answer.sample, made))  # type: ignore[attr-defined]
    first, *others = answer
    return type(answer)((_like(first, made), *others))


def _like(held: Any, made: Tensor) -> Any:
    return made if isinstance(held, Tensor) else list(made)


def for_pictures(call: TrajectoryCall, rows: Mapping[str, Rows]) -> Tensor:
    """What the denoiser gave to one picture, for several that stand in these rows."""
    given = prediction(call.answer)
    order: list[int] = [0] * sum(map(len, rows.values()))
    for branch, places in rows.items():
        for row in places:
            order[row] = call.rows.get(branch, 0)
    return given[order]
