"""The code of the site's pages is run as it stands, and the site is built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import t2i_xattn as tx
from lab.scenes import render_scene
from tiny.all_cases import CASES
from tiny_pipelines import make_sdxl

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def examples_of(page: str) -> list[str]:
    found: list[str] = EXAMPLE.findall((ROOT / "docs" / page).read_text("utf-8"))
    return found


# The tutorials are run by `test_tutorials.py`, which knows what they print.
WITH_CODE = [page for page in PAGES if examples_of(page) and "/" not in page]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    named = re.findall(r"`((?:scripts|pipelines|t2i_xattn|tests)/[\w/.]+\.\w+)`", text)
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    render_scene(0).image.save("picture.png")
    make_sdxl().save_pretrained("path/to/sdxl")
    for name, folder in (("FluxPipeline", "flux"), ("WanPipeline", "wan")):
        next(each for each in CASES if each.name == name).make().save_pretrained(
            f"path/to/{folder}"
        )
    shutil.copytree("path/to/flux", "path/or/name")
    # What a page may take for granted.
    names: dict[str, Any] = {
        "tx": tx,
        "torch": torch,
        "pipe": tx.load_default(),
        "prompts": ["a red circle", "a blue square"],
    }
    for code in examples_of(page):
        if "from datasets" in code and find_spec("datasets") is None:
            continue
        exec(compile(code, page, "exec"), names)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    start = (tmp_path / "index.html").read_text("utf-8")
    assert "words.png" in start
    # Nothing of another server is asked for.
    assert not re.findall(
        r'(?:src|href)="https?://(?!github\.com|arxiv\.org)[^"]+\.(?:js|css)', start
    )
