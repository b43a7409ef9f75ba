"""Files of pictures beside prompts, and of what reads them: kept, told, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import run as run_command
from test_picture_prompts import photo


class TestKept:
    """No run replaces the picture that it is made from."""

    def refused(self, *arguments: object) -> None:
        code, _, told = run_command(*arguments)
        assert code == 2, told
        assert "replaces no file that it is made from" in told

    def test_generate(self, tmp_path: Path) -> None:
        given = tmp_path / "picture-1.png"
        photo().save(given)
        before = given.read_bytes()
        asked = ["generate", "--steps", "1", "--picture-prompt", given, "--out", tmp_path, "a boat"]
        self.refused(*asked, "--seed", "0", "--count", "2")
        assert given.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["picture-1.png"]
        # Another file beside it is no reason.
        code, _, told = run_command(*asked, "--seed", "2")
        assert code == 0, told
        assert given.read_bytes() == before

    def test_inspect(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        code, _, told = run_command("inspect", "--steps", "1", "--out", out, "a red house")
        assert code == 0, told
        every = {each: each.read_bytes() for each in out.iterdir()}
        # Of an earlier run all goes, whatever its name; a link to it shows what came after.
        link = tmp_path / "link.png"
        link.symlink_to(out / "word-02-red.png")
        for given in (out / "picture.png", out / "words.png", link):
            asked = ["inspect", "--steps", "1", "--out", out, "--picture-prompt", given]
            self.refused(*asked, "--count", "2", "a boat")
        for name in ("picture.png", "words.png"):
            trace = ["--trace", out / "trace.safetensors", "--picture", out / name]
            code, _, told = run_command("inspect", *trace, "--out", out)
            assert code == 2
            assert "another folder than that of the trace" in told
            copied = tmp_path / "trace.safetensors"
            copied.write_bytes((out / "trace.safetensors").read_bytes())
            trace = ["--trace", copied, "--picture", out / name]
            self.refused("inspect", *trace, "--out", out)
        assert {each: each.read_bytes() for each in out.iterdir()} == every

    def test_edit(self, tmp_path: Path) -> None:
        given = tmp_path / "before.png"
        photo(size=(128, 128)).save(given)
        before = given.read_bytes()
        asked = ["edit", "a red house", "--replace", "red=blue", "--steps", "1"]
        self.refused(*asked, "--image", given, "--out", tmp_path)
        assert given.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["before.png"]

    def test_a_name_that_is_known_at_the_end_alone(self, tmp_path: Path) -> None:
        given = tmp_path / "words.png"
        photo().save(given)
        before = given.read_bytes()
        asked = ["inspect", "--steps", "1", "--picture-prompt", given, "--out", tmp_path, "a boat"]
        self.refused(*asked)
        assert given.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["words.png"]


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_again_tells_of_another_picture(tmp_path: Path, command: str) -> None:
    given = tmp_path / "given.png"
    photo(0, (128, 128)).save(given)
    first = tmp_path / "first"
    asked = {
        "generate": ["--picture-prompt", given],
        "edit": ["--image", given, "--replace", "red=blue"],
    }[command]
    code, _, told = run_command(command, "a red house", *asked, "--steps", "1", "--out", first)
    assert code == 0, told
    if command == "generate":  # an edit takes longer
        code, printed, told = run_command("again", first, "--out", tmp_path / "same")
        assert code == 0, told
        assert "differs" not in printed
        assert "another one" not in told
    photo(1, (128, 128)).save(given)
    code, printed, told = run_command("again", first, "--out", tmp_path / "other")
    assert code == 0, told
    assert "differs" in printed
    option = {"generate": "--picture-prompt", "edit": "--image"}[command]
    assert f"the file of {option} is another one here than it was then" in told
