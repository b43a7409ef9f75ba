"""A mistake in a script's arguments: one sentence, exit code 2."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("train", ["--run", "run", "--recipe", "none.toml"], "recipe file at none.toml"),
        ("train_judge", ["--run", "run", "--recipe", "none.toml"], "recipe file at none.toml"),
        ("make_prompts", ["--out", "none/prompts.json"], "written at none/prompts.json"),
        ("draw_scenes", ["--split", "x"], "a split of train, held_out, any, but came 'x'"),
        ("draw_scenes", ["--count", "1", "--out", "none/scenes.png"], "written at none/scenes.png"),
        ("benchmark", ["record", "--ways", "x"], "expected ways of plain, record"),
        ("gallery", ["--scenes", "x"], "expected prompts of shapes or world, but came 'x'"),
        ("evaluate", ["maps", "--ways", "x"], "'x'"),
        ("evaluate", ["judge", "--json", "none/x.json"], "evaluate: expected a file that can be w"),
    ],
)
def test_a_mistake_is_one_sentence(
    script: str,
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    printed, error = capsys.readouterr()
    assert ended.value.code == 2
    assert printed == ""
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
