"""The README's examples are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.scenes import render_scene

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    # The last has a model of the user's own, whose place nobody knows.
    *examples, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    render_scene(0).image.save(tmp_path / "demo" / "picture.png")
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert len(names["arrays"]) == 6  # type: ignore[arg-type]
    assert names["before"] > names["after"] > 0  # type: ignore[operator]
    written = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert written == ["effect.png", "red_circle.png", "run.html", "run.safetensors"]
    assert names["placed"].size == (128, 128)  # type: ignore[attr-defined]
    assert names["again"].size == (128, 128)  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "(128, 128)" in printed
    assert "'red', with 'yellow' or 'purple' in its place" in printed
    assert "['a', 'red', 'circle', 'left', 'of', 'a', 'blue', 'square']" in printed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"\]\(([^)#:]+)\)", text)
    named += re.findall(r"`((?:scripts|pipelines|t2i_xattn)/[\w/.]+)`", text)
    assert [each for each in named if not (ROOT / each).exists()] == []
