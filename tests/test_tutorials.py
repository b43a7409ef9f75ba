"""The tutorials are run as they stand: what they print and draw is what the pages show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"


def executed(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The names that a page's code defines; what it prints is held against what stands below each
    block, but for the numbers, which differ a little from machine to machine."""
    text = (PAGES / f"{page}.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL)
    assert len(blocks) == text.count("```python")
    names: dict[str, Any] = {}
    for code, shown in blocks:
        capsys.readouterr()
        exec(compile(code, f"{page}.md", "exec"), names)
        assert without_numbers(capsys.readouterr().out) == without_numbers(shown)
    drawn = {path.name for path in folder.iterdir()}
    assert drawn == set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text))
    for name in drawn:
        with Image.open(folder / name) as made, Image.open(PAGES / name) as kept:
            assert made.size == kept.size
    return names


def without_numbers(text: str) -> str:
    return re.sub(r"-?\d[\d.]*(e-\d+)?", "0", text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    return tmp_path


@pytest.mark.slow
def test_what_happens_to_the_word_red(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = executed("red", folder, capsys)
    before, pictures = names["before"], names["pictures"]
    reds = {name: red_in(picture, names["circle"]) for name, picture in pictures.items()}
    # The circle is red where the page says so, and green where it says that.
    green = {name for name, red in reds.items() if red < 0.5}
    assert green == {"green", "left from green", "circle and left from green"}
    assert before[names["circle"]][:, 0].mean() > 200
    moved = names["moved"]
    assert float(moved[: names["red"]].max()) == 0, "the text encoder looks backwards only"
    by_hand, found = names["by_hand"], names["found"]
    assert float((by_hand.probs - found.steps.probs).abs().max()) < 1e-5
    assert names["same"].tobytes() == names["picture"].tobytes()


def red_in(picture: Image.Image, circle: Any) -> float:
    """The part of the circle's places that are more red than green."""
    import numpy as np

    pixels = np.asarray(picture, dtype=float)[circle]
    return float((pixels[:, 0] > pixels[:, 1]).mean())


@pytest.mark.slow
def test_what_lines_up_with_what(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = executed("alignment", folder, capsys)
    assert len(names["unseen"]) == 1000
    assert not {tuple(each[0]) for each in names["unseen"]} & {
        tuple(each[0]) for each in names["learnt"]
    }
    assert float(names["whole"]) > 0.95
    assert names["of_sentences"] >= 0.95
    # What the page says attention does not say.
    assert float(names["whole_of_fewer"]) > 0.95
    assert names["moved"][1] < 0.9
    # The masked self-attention looks at nothing that is to come.
    assert float(names["model"].writing.steps.probs.triu(1).abs().max()) == 0
