"""Loops by hand over texts that were encoded once: where one begins, nobody says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

import t2i_xattn as tx
from t2i_xattn import UserError, edits, variants
from t2i_xattn.denoisers.loop import Loop

LEVELS = (981, 741, 501, 261)


def texts(pipe: Any) -> Tensor:
    with torch.no_grad():
        text, nothing = pipe.encode_prompt("a red circle", "cpu", 1, True)
    return torch.cat([nothing, text])


@torch.no_grad()
def loop(pipe: Any, given: Tensor, seed: int, levels: Iterable[Any] = LEVELS) -> Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    for level in levels:
        both = pipe.unet(torch.cat([latents] * 2), level, encoder_hidden_states=given).sample
        against, found = both.chunk(2)
        latents = latents - 0.1 * (against + 5 * (found - against))
    return latents


@pytest.mark.parametrize(
    "opened",
    [
        lambda pipe: tx.edit(pipe, edits.Reweight("red", 3, steps=(0, 2))),
        lambda pipe: tx.edit(pipe, edits.Drop("red", steps=(2, 4))),
        lambda pipe: tx.cheaper(pipe, variants.SkipLate(after=2)),
        lambda pipe: tx.cheaper(pipe, variants.TopKeys(4)),
    ],
    ids=["edit early", "edit late", "late", "top"],
)
@pytest.mark.parametrize(
    "levels", [LEVELS, list(map(torch.tensor, LEVELS)), LEVELS[::-1]], ids=["int", "tensor", "up"]
)
def test_a_second_loop_is_as_the_first(
    pipe: Any, opened: Callable[[Any], AbstractContextManager[None]], levels: Any
) -> None:
    plain = loop(pipe, texts(pipe), 1, levels)
    with opened(pipe):
        alone = loop(pipe, texts(pipe), 1, levels)
    with opened(pipe):
        given = texts(pipe)
        loop(pipe, given, 0, levels)
        assert torch.equal(loop(pipe, given, 1, levels), alone)
        assert torch.equal(loop(pipe, given, 1, levels), alone)
    assert not torch.equal(plain, alone)


def test_a_trace_is_of_one_loop(pipe: Any) -> None:
    with tx.record(pipe) as trace:
        given = texts(pipe)
        loop(pipe, given, 0)
        with pytest.raises(UserError, match="a second one begins"):
            loop(pipe, given, 1)
    assert trace.settings["calls"] == len(LEVELS)


def begun(levels: Iterable[Any]) -> list[int]:
    """Where loops begin after the first."""
    found = Loop()
    return [number for number, level in enumerate(levels) if found.begins_anew(level)]


def test_where_loops_begin() -> None:
    assert begun([9, 5, 1, 9, 5, 1, 9, 5]) == [3, 6]
    assert begun([1, 5, 9, 1, 5, 9]) == [3]
    assert begun([9, 9, 5, 5, 1, 1, 9, 9]) == [6]  # two calls at each
    assert begun([9, 5, 5, 1, 1]) == []  # Heun's
    assert begun([1, 5, 9, 5, 1, 5, 9]) == []  # there and back
    assert begun([9, 9, 9]) == []
    assert begun([torch.tensor([9.0, 9.0]), 5.0, torch.tensor(9)]) == [2]
