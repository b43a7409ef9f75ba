"""Long prompts of the world: how they are laid out, and the figures, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluate import app
from lab.evaluation.figures import Share
from lab.evaluation.long_prompts import (
    EACH,
    FULL,
    LAYOUTS,
    ONE,
    ROOM,
    RUNNING,
    SHORT,
    long_prompts,
)
from lab.evaluation.studies_long import WINDOW, Seen, figure_of, long_table
from lab.scenes.world import world_language


def words(text: str) -> int:
    return len(text.replace(",", " ,").split())


def test_layouts() -> None:
    turns = set()
    for prompts in long_prompts(4, words):
        of = {each.layout: each for each in prompts}
        assert tuple(of) == LAYOUTS
        breaks = {name: each.prompt.count(" BREAK ") for name, each in of.items()}
        assert [breaks[name] for name in (ONE, EACH, FULL, RUNNING)] == [0, 2, 2, 0]
        assert breaks[SHORT] > 10
        assert of[SHORT].prompt.replace(" BREAK ", ", ") == of[RUNNING].prompt
        assert of[FULL].prompt.replace(" BREAK ", ", ") == of[RUNNING].prompt
        assert all(40 < words(each) <= ROOM for each in of[FULL].prompt.split(" BREAK "))
        assert max(words(each) for each in of[SHORT].prompt.split(" BREAK ")) < 30
        kinds = {each.kind for each in of[ONE].asked.things}
        for prompt in prompts:
            assert {each.kind for each in prompt.words} == kinds
            for word in prompt.words:
                said = prompt.prompt[word.start :].replace(",", " ").split()[0].rstrip(".")
                names = world_language().things[word.kind].names
                assert said in {name.split()[-1] for some in names for name in some if name}
        # Each thing is named in one part alone, which goes round.
        parts = {each.kind: each.part for each in of[EACH].words}
        assert {(each.kind, each.part) for each in of[FULL].words} == set(parts.items())
        turns.add(tuple(sorted(parts.values())))
    assert turns == {(0, 1), (1, 2), (0, 2)}


def test_figures_by_hand() -> None:
    on = Seen(SHORT, 0, True, True, ((5, True), (30, False)))
    off = Seen(SHORT, 0, True, False, ((6, False), (75, True)))
    unseen = Seen(SHORT, 1, False, False, ((5, False),))
    figure = figure_of(SHORT, None, 220.0, [on, off, unseen], Share(1, 2))
    assert (figure.shown.right, figure.shown.n) == (2, 3)
    # What is not in the picture has no place where its map could stand.
    assert (figure.on_it.right, figure.on_it.n) == (1, 2)
    assert [(each.right, each.n) for each in figure.by_depth] == [(1, 2), (0, 1), (1, 1)]
    assert long_table([figure, figure_of(SHORT, 1, 220.0, [unseen], None)], 2, 5).row_count == 2


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    options = ["long-prompts", "--limit", "1", "--steps", "5", "--json", str(path)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    told = json.loads(path.read_text("utf-8"))["long"]
    whole = {each["layout"]: each for each in told if each["part"] is None}
    assert set(whole) == set(LAYOUTS)
    assert whole[ONE]["tokens"] < WINDOW
    for layout in (SHORT, FULL, RUNNING):
        assert whole[layout]["tokens"] > 150
        assert sum(each["n"] for each in whole[layout]["by_depth"]) > 0
    # Short windows have no word far into them, full ones have.
    assert whole[SHORT]["by_depth"][2]["n"] == 0
