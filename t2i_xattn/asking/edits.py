"""The edits that a request asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_xattn.asking.edit_request import EditRequest

CROSS, SELF = 0.8, 0.4
"""Shares of the run in which other words take over the maps of the text, and of the picture."""


def edits_of(asked: EditRequest, images: Sequence[int] | None) -> list[Any]:
    """Other words, weights and regions as edits, in their order; none for boxes and `attend`, which
    are losses.

    Args:
        asked: the request.
        images: the pictures of the batch that weights and regions act on; None: all.
    """
    from t2i_xattn.edits.prompt_to_prompt import Replace, SelfReplace
    from t2i_xattn.edits.regional import RegionalPrompts
    from t2i_xattn.edits.weights import Reweight

    edits: list[Any] = []
    if asked.replace:
        early, earlier = (_first_steps(share, asked.request.steps) for share in (CROSS, SELF))
        edits += [Replace(dict(asked.replace), steps=early), SelfReplace(steps=earlier)]
    edits += [Reweight(word, weight, images=images) for word, weight in asked.weights.items()]
    if asked.regions:
        edits.append(RegionalPrompts(asked.regions, images=images))
    return edits


def _first_steps(share: float, steps: int) -> tuple[float, float]:
    """The window of the first steps of a run, a share of them but one at least."""
    return (0, share) if int(share * steps + 1e-6) else (0, 1)
