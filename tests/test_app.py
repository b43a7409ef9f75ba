"""What the app gives: the same as the commands, to one at a time, until it is stopped."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_line import run
from conftest import make_pipeline, state_of
from read_page import Read
from t2i_xattn.app.bounds import Bounds, in_the_form
from t2i_xattn.app.form import Source, edit_of
from t2i_xattn.app.stopping import StoppedError
from t2i_xattn.app.studio import Studio
from t2i_xattn.asking.request import Request, paint
from t2i_xattn.errors import UserError
from t2i_xattn.provenance.reading import made_of
from t2i_xattn.traces.trace import Trace

PROMPT = "a red circle, blue"
ASKED = Request(PROMPT, seed=3, steps=2)
BOUNDS = Bounds(side=128, steps=9, text=200)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(make_pipeline(), bounds=BOUNDS)


def test_the_picture_is_that_of_the_command(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i_xattn.app.downloads import write_painted

    (plain,) = paint(studio.pipe, ASKED)
    before = state_of(studio.pipe)
    painted = studio.paint(ASKED)
    assert state_of(studio.pipe) == before
    assert plain.tobytes() == painted.image.tobytes()
    assert [each.word for each in painted.maps] == ["a", "red", "circle", "blue"]
    picture, trace, _ = write_painted(tmp_path, painted)
    assert Image.open(picture).tobytes() == plain.tobytes()
    np.testing.assert_array_equal(
        Trace.load(trace).heatmap("red").array, painted.trace.heatmap("red").array
    )
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: studio.pipe)
    for file in (picture, trace):
        out = tmp_path / f"again-{file.suffix}"
        code, _, told = run("again", file, "--out", out)
        assert (code, told) == (0, ""), told
        assert Image.open(out / "picture.png").tobytes() == plain.tobytes()


def test_the_change_is_that_of_the_command(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i_xattn.app.downloads import command_of, write_changed

    source = Source(ASKED, ("a", "red", "circle", "blue"))
    asked = edit_of(source, {"red": 1.3, "blue": 1}, {"circle": ' "of" ', "a": ""}, "")
    assert (asked.replace, asked.weights) == ({"circle": "of"}, {"red": 1.3})
    changed = studio.edit(asked)
    assert "--replace=circle=of --weight=red=1.3" in command_of(changed.made)
    before, after, _ = write_changed(tmp_path, changed)
    assert Image.open(before).tobytes() != Image.open(after).tobytes()
    monkeypatch.setattr("t2i_xattn.commands.options.load", lambda *_: studio.pipe)
    code, _, told = run("again", after, "--out", tmp_path / "again")
    assert (code, told) == (0, ""), told
    for each in (before, after):
        assert Image.open(tmp_path / "again" / each.name).tobytes() == Image.open(each).tobytes()


def test_a_weight_is_that_of_the_word_in_its_place() -> None:
    source = Source(ASKED, ("red", "circle"))
    asked = edit_of(source, {"circle": 2}, {"circle": "blue star"}, "")
    assert asked.weights == {"blue star": 2.0}


def test_boxes_lay_a_picture_out_anew(studio: Studio) -> None:
    asked = edit_of(Source(ASKED, ("red",)), {}, {}, "red=0,0,0.5,0.5\n\n circle = 0.5,0.5,1,1")
    assert list(asked.boxes) == ["red", "circle"]
    changed = studio.edit(asked)
    assert changed.edited.before.tobytes() == studio.paint(ASKED).image.tobytes()
    assert changed.edited.before.tobytes() != changed.edited.after.tobytes()
    assert "--box=red=0.0,0.0,0.5,0.5" in " ".join(
        f"--box={each}" for each in changed.made.options["box"]
    )


def test_an_explanation_says_what_the_command_says(studio: Studio, tmp_path: Path) -> None:
    from t2i_xattn.app.downloads import write_explained
    from t2i_xattn.app.explanation import explanation_table

    explained = studio.explain(Source(ASKED, ("red",)))
    html = explanation_table(explained.found)
    page = Read(html)
    for word in explained.found.words:
        assert word.word in page.text
        assert word.sentence in page.text
    assert html.count('class="tile"') == 2 * len(explained.found.words)
    picture, table = write_explained(tmp_path, explained)
    assert made_of(picture).command == made_of(table).command == "explain"


def test_a_picture_of_one_s_own_is_read(studio: Studio, tmp_path: Path) -> None:
    own, big = tmp_path / "my own.png", tmp_path / "big.png"
    Image.fromarray(np.arange(90 * 60 * 3, dtype=np.uint8).reshape(60, 90, 3)).save(own)
    painted = studio.read(own, ASKED)
    assert painted.image.size == painted.source.picture.size != (90, 60)  # type: ignore[union-attr]
    assert painted.made.command == "app"
    changed = studio.edit(edit_of(painted.source, {}, {"circle": "star"}, ""))
    assert changed.edited.before.size == painted.image.size
    with pytest.raises(UserError, match=r"boxes alone.*picture of your own"):
        edit_of(painted.source, {}, {}, "red=0,0,1,1")
    with pytest.raises(UserError, match="this is one of your own; paint"):
        studio.explain(painted.source)
    Image.new("RGB", (600, 600)).save(big)
    with pytest.raises(UserError, match="of at most 262144 pixels") as error:
        studio.read(big, ASKED)
    assert in_the_form(error.value).endswith("but came 600 × 600; make it smaller")
    (tmp_path / "no.png").write_text("<svg/>", "utf-8")
    with pytest.raises(UserError, match="expected a picture that can be read"):
        studio.read(tmp_path / "no.png", ASKED)


@pytest.mark.parametrize("what", ["paint", "edit", "explain", "read"])
def test_a_run_is_stopped_and_leaves_nothing(studio: Studio, tmp_path: Path, what: str) -> None:
    alone = studio.paint(ASKED).image.tobytes()
    before, calls = state_of(studio.pipe), []

    def stop(call: int) -> None:
        calls.append(call)
        if call == 1:
            studio.stop("mine")
        studio.stop("another's")

    source = Source(ASKED, ("red",))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    with pytest.raises(StoppedError):
        {
            "paint": lambda: studio.paint(ASKED, "mine", stop),
            "edit": lambda: studio.edit(edit_of(source, {"red": 2}, {}, ""), "mine", stop),
            "explain": lambda: studio.explain(source, "mine", stop),
            "read": lambda: studio.read(tmp_path / "a.png", ASKED, "mine", stop),
        }[what]()
    assert calls == [1]
    assert state_of(studio.pipe) == before
    studio.stop("mine")  # nothing runs: it is not kept for the next
    assert studio.paint(ASKED, "mine").image.tobytes() == alone


def test_two_at_once_get_their_own_one_after_the_other(studio: Studio) -> None:
    requests = [Request(PROMPT, seed=seed, steps=4) for seed in range(4)]
    alone = [studio.paint(each).image.tobytes() for each in requests]
    order, found = [], {}

    def ask(number: int) -> None:
        def told(_: int) -> None:
            order.append(number)

        found[number] = studio.paint(requests[number], str(number), told).image.tobytes()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [found[number] for number in range(4)] == alone
    changes = sum(a != b for a, b in pairwise(order))
    assert changes == 3, order
