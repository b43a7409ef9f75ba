"""`inspect --regions`, run on a tiny random model as a user would run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import PROMPT, run, written
from conftest import make_pipeline
from t2i_xattn.provenance.made import KEY
from t2i_xattn.traces.regions_file import LEGEND
from t2i_xattn.traces.segmentation import Regions
from t2i_xattn.traces.trace import Trace

FILES = ["regions.json", "regions.npz", "regions.png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


def test_regions_are_written_and_shown(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path / "out"]
    words = ["--words", "circle, Blue", "--background", "a", "--threshold", "0.4"]
    code, printed, _ = run("inspect", PROMPT, *options, "--regions", *words)
    assert code == 0
    assert set(FILES) <= set(written(tmp_path / "out"))
    trace = Trace.load(tmp_path / "out" / "trace.safetensors")
    expected = trace.regions(["circle", "Blue"], background=["a"], threshold=0.4)
    with Image.open(tmp_path / "out" / "regions.png") as picture:
        assert (np.asarray(picture) == expected.labels).all()
        assert {LEGEND, KEY, "parameters"} <= set(picture.info)
        assert [each["word"] for each in json.loads(picture.info[LEGEND])["labels"]] == [
            None,
            "circle",
            "Blue",
        ]
    table = json.loads((tmp_path / "out" / "regions.json").read_text("utf-8"))
    assert [row["quality"]["word"] for row in table["words"]] == ["circle", "Blue"]
    assert table["words"][0]["threshold"] == 0.4
    assert table["words"][0]["quality"]["area"] == pytest.approx(expected.quality("circle").area)
    assert table["words"][1]["box"] == (expected.box("blue") and list(expected.box("blue") or ()))
    assert (Regions.load(tmp_path / "out" / "regions.npz").labels == expected.labels).all()
    assert f"{expected.quality('circle').area:.1%}" in printed
    assert str(tmp_path / "out" / "regions.png") in printed.replace("\n", "")
    # What is chosen where nothing is said, of a run with a walk.
    assert trace.regions(["circle"]).cuts == (0.3,)
    assert trace.regions(["circle"], stream="text").cuts == (0.5,)
    # Another run of the command without regions leaves none of the earlier one.
    assert run("inspect", PROMPT, *options)[0] == 0
    assert not set(FILES) & set(written(tmp_path / "out"))


def test_regions_of_a_saved_trace_and_once_more(model: Path, tmp_path: Path) -> None:
    options = ["--model", model, "--steps", 1, "--device", "cpu", "--count", 2]
    regions = ["--regions", "--words", "circle,blue", "--threshold", "otsu"]
    code, printed, _ = run(
        "inspect", PROMPT, *options, *regions, "--json", "--out", tmp_path / "run"
    )
    assert code == 0
    told = json.loads(printed)
    assert [Path(each["regions"]["picture"]).parent.name for each in told["pictures"]] == [
        "seed-0",
        "seed-1",
    ]
    trace = tmp_path / "run" / "trace.safetensors"
    assert run("inspect", "--trace", trace, *regions, "--out", tmp_path / "again")[0] == 0
    for number in range(2):
        painted, loaded = tmp_path / "run" / f"seed-{number}", tmp_path / "again"
        loaded /= f"image-{number}"
        for name in FILES[1:]:
            assert (painted / name).read_bytes() == (loaded / name).read_bytes()
    code, printed, _ = run("again", tmp_path / "run", "--out", tmp_path / "same")
    assert code == 0
    lines = [line for line in printed.splitlines() if "regions." in line]
    assert len([line for line in lines if line.endswith("the same to the byte")]) == 6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--regions"], "--words with --regions, since all words of a prompt would compete"),
        (["--threshold", "0.5"], "--threshold with --regions, but came no --regions"),
        (["--background", "a"], "--background with --regions, but came no --regions"),
        (["--regions", "--words", "circle", "--threshold", "2"], "from 0 to 1 or otsu, but came"),
        (["--regions", "--words", "circle", "--threshold", "nan"], "from 0 to 1 or otsu"),
        (["--regions", "--words", "circle,blue", "--background", "Blue"], "each word once"),
        (["--regions", "--words", "circle", "--background", "dog"], "dog"),
        (["--regions", "--words", "circle", "--background", "x" * 20_000], "at most 10000"),
    ],
)
def test_mistakes_are_told_before_anything_is_painted(
    model: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    base = ["--model", model, "--steps", 1, "--device", "cpu", "--out", tmp_path / "out"]
    code, printed, told = run("inspect", PROMPT, *base, *options)
    assert code == 2
    assert reason in " ".join(told.split())
    assert printed == ""
    assert not (tmp_path / "out").exists()
