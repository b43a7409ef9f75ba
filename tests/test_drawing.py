"""Blocks drawn ahead by other processes are those that this process would draw."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lab.training.drawing import AHEAD, Arrays, Drawers, DrawnBlocks, DrawPart
from lab.training.encoded import told_part
from lab.training.judge import mapped_part
from lab.training.recipe import Recipe, load_recipe
from lab.training.text import asked_part

RECIPE = Path(__file__).parents[1] / "scripts" / "lab" / "training" / "recipes" / "world.toml"


def _recipe() -> Recipe:
    recipe = load_recipe(RECIPE)
    return dataclasses.replace(
        recipe,
        text=dataclasses.replace(recipe.text, batch=4),
        denoiser=dataclasses.replace(recipe.denoiser, passes=2, mask_loss=0.1),
    )


@pytest.fixture(scope="module")
def two() -> object:
    with Drawers(2) as drawers:
        yield drawers


def _numbered(number: int, part: int) -> dict[str, np.ndarray]:
    return {"where": np.array([[number, part]])}


def test_it_does_not_matter_who_draws(two: Drawers) -> None:
    recipe = _recipe()
    for draw in (partial(told_part, recipe, 3), partial(mapped_part, 5, 3)):
        alone, helped = (DrawnBlocks(each, draw, 2, 2) for each in (Drawers(), two))
        for number in range(2):
            first, second = alone.at(number), helped.at(number)
            assert list(first) == list(second)
            for name, values in first.items():
                assert values.shape[0] == 6
                if values.dtype != object:
                    assert np.array_equal(values, second[name]), name
            # Objects are equal where they say the same.
            assert repr(first.get("said")) == repr(second.get("said"))


def test_blocks_are_drawn_ahead_and_none_beyond_the_last(two: Drawers) -> None:
    asked: list[tuple[int, int]] = []

    class Counting(Drawers):
        def submit(self, draw: DrawPart, number: int, part: int) -> Future[Arrays]:
            asked.append((number, part))
            return super().submit(draw, number, part)

    counting = Counting()
    counting.processes = 2
    blocks = DrawnBlocks(counting, _numbered, 3, 4)
    ahead = -(-2 * AHEAD // 3)
    assert blocks.at(1)["where"].tolist() == [[1, 0], [1, 1], [1, 2]]
    assert asked == [(n, part) for n in range(1, min(1 + ahead, 3) + 1) for part in range(3)]
    for number in (2, 3):
        blocks.at(number)
    assert max(asked) == (3, 2)
    assert len(asked) == len(set(asked))
    # A stage that goes on beyond what was planned still gets its blocks.
    assert DrawnBlocks(Drawers(), _numbered, 1, 0).at(7)["where"].tolist() == [[7, 0]]


def test_questions_have_an_answer_for_each_prompt() -> None:
    drawn = asked_part(_recipe(), 3, 0)
    assert {len(each) for each in drawn.values()} == {4}


def test_a_mistake_in_a_drawing_is_told(two: Drawers) -> None:
    with pytest.raises(ZeroDivisionError):
        DrawnBlocks(two, _broken, 1, 1).at(0)


def _broken(number: int, part: int) -> dict[str, np.ndarray]:
    return {"where": np.array([number // 0])}
