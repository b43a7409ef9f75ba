"""The fixed prompts of the world."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import typer
from typer.testing import CliRunner

import make_prompts
from lab.evaluation import prompts
from lab.evaluation.world_prompts import FILE_NAME, make_world_prompts, world_prompts
from lab.scenes.world import world_language


def test_the_files_are_what_the_command_makes(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(make_prompts.main)
    for options, name in (([], prompts.FILE_NAME), (["--scenes", "world"], FILE_NAME)):
        out = tmp_path / name
        assert CliRunner().invoke(app, [*options, "--out", str(out)]).exit_code == 0
        stored = files("lab.evaluation").joinpath(name).read_text("utf-8")
        assert out.read_text("utf-8") == stored


def test_groups_of_the_world_s_prompts() -> None:
    groups = world_prompts()
    assert {name: len(each) for name, each in groups.items()} == {
        "singles": 100,
        "pairs": 100,
        "triples": 50,
        "light_and_place": 100,
        "styles": 50,
        "held_out": 100,
    }
    words = world_language()
    known = set(words.vocabulary())
    for name, group in groups.items():
        for each in group:
            asked = each.asked
            assert {word.strip(",.") for word in each.prompt.split()} <= known | {""}
            for thing in asked.things:
                names = {noun for pair in words.things[thing.kind].names for noun in pair if noun}
                assert any(noun.split()[-1] in each.prompt for noun in names)
                if thing.colour:
                    assert any(word in each.prompt for word in words.colour_names[thing.colour])
            told = [(thing.kind, thing.colour) for thing in asked.things if thing.colour]
            if asked.place:
                told += [(word, asked.place) for word in (asked.light, asked.style) if word]
            assert words.is_held_out(told) == (name == "held_out")
            count = sum(thing.count for thing in asked.things)
            if name == "singles":
                assert count == 1
                assert asked.things[0].colour
            elif name == "pairs":
                assert count == len(asked.things) == 2
                assert asked.relation
            elif name == "triples":
                assert count == 3
            elif name == "light_and_place":
                assert count == 0
                assert asked.place
                assert asked.light
            elif name == "styles":
                assert asked.style or any(thing.style for thing in asked.things)
    every = [each for group in groups.values() for each in group]
    assert len({each.prompt for each in every}) == len({each.seed for each in every}) == 500


def test_what_is_read_is_what_was_made() -> None:
    made = make_world_prompts()
    assert {name: tuple(each) for name, each in made.items()} == world_prompts()
    assert made != make_world_prompts(1)
