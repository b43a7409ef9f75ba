"""What a notebook shows of maps, traces and explanations is escaped, small and quickly made."""

from __future__ import annotations

from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import t2i_xattn as tx
from conftest import make_pipeline
from t2i_xattn.errors import UserError
from t2i_xattn.explaining.evidence import Interval
from t2i_xattn.explaining.explanation import Explanation
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace

BAD = '<script>alert("1")</script> & red'


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def trace() -> Trace:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with tx.record(pipe) as trace:
        pipe(BAD, num_inference_steps=1, output_type="np")
    return trace


@pytest.mark.parametrize("shape", [(64, 48), (1, 1), (1500, 20)])
def test_a_map_is_a_picture(shape: tuple[int, int]) -> None:
    array = np.zeros(shape, np.float32)
    array[-(shape[0] // 4) - 1 :, -(shape[1] // 4) - 1 :] = 0.1
    with Image.open(BytesIO(HeatMap("red", array)._repr_png_())) as picture:
        assert max(picture.size) == 256
        pixels = np.asarray(picture.convert("L"), dtype=int)
    assert shape == (1, 1) or pixels[-1, -1] > pixels[0, 0] + 100


def test_a_trace_tells_its_prompt_and_words_escaped(trace: Trace) -> None:
    shown = Tags(trace._repr_html_())
    assert shown.tags == {"table", "tr", "th", "td"}
    assert BAD in shown.text
    for word in trace.words:
        assert word.text in shown.text


def test_a_trace_s_display_computes_no_map(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2i_xattn.traces.trace.maps_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace.heatmap("red")
    assert "red" in trace._repr_html_()


def test_a_trace_without_a_run_says_so() -> None:
    pipe = make_pipeline()
    with tx.record(pipe) as trace:
        with pytest.raises(UserError) as told:
            _ = trace.run
        assert unescape(trace._repr_html_()) == f"<p>{told.value}</p>"


def test_an_explanation_is_a_table() -> None:
    word: Any = SimpleNamespace(
        word=BAD,
        share=0.05,
        sizes={"text": Interval(0.4, 0.3, 0.5, 4)},
        grade="trust",
        sentence=f"{BAD} does much",
    )
    shown = Tags(Explanation(BAD, (), (word,), (0, 1))._repr_html_())
    assert shown.tags == {"p", "table", "tr", "th", "td"}
    for text in ("5.0%", "40%", "trust", f"{BAD} does much"):
        assert text in shown.text
    many = Explanation("red", (), (word,) * 130, (0, 1))._repr_html_()
    assert "and 30 more" in many
    assert Explanation("red", (), (), (0, 1))._repr_html_()
