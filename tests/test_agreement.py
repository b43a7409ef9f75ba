"""Maps held against those carried along self-attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import t2i_xattn as tx
from t2i_xattn.errors import UserError
from t2i_xattn.traces.agreement import agreed
from t2i_xattn.traces.heat_map import HeatMap

SHARES = arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32))


def _agreed(text: Any, walked: Any) -> HeatMap:
    return HeatMap("word", agreed(np.asarray(text, np.float32), np.asarray(walked, np.float32)))


def test_the_word_stands_where_both_maps_are_high() -> None:
    # The thing, its mirror image, another thing that is like it, and the ground.
    text, walked = [[0.28, 0.3, 0.12, 0.1]], [[0.24, 0.14, 0.26, 0.1]]
    assert _agreed(text, text).peak() == (0, 1)
    assert _agreed(walked, walked).peak() == (0, 2)
    assert _agreed(text, walked).peak() == (0, 0)


@given(SHARES, SHARES)
def test_the_share_stays_and_nothing_falls_below_the_lowest(
    text: NDArray[np.float32], walked: NDArray[np.float32]
) -> None:
    heat = _agreed(text, walked)
    assert heat.share == pytest.approx(text.mean(dtype=np.float64), abs=1e-6)
    assert heat.array.min() >= text.min() - 1e-6
    assert np.isfinite(heat.array).all()


@given(SHARES)
def test_a_carried_map_that_says_nothing_changes_nothing(text: NDArray[np.float32]) -> None:
    assert np.allclose(_agreed(text, np.full((4, 5), 0.2)).array, text, atol=1e-6)


def test_a_trace_shows_the_agreed_map_where_it_has_both(pipe: Any) -> None:
    with tx.record(pipe, walk=1) as trace:
        pipe("a red circle", num_inference_steps=1)
    plain, walked = (trace.heatmap("red", stream=each).array for each in ("text", "walked"))
    assert np.array_equal(trace.heatmap("red").array, agreed(plain, walked))
    assert not np.array_equal(trace.heatmap("red").array, plain)
    # What is asked for by name is what it says.
    assert np.array_equal(
        trace.heatmap("red", aggregate=tx.aggregation.mean_over_sites).array, plain
    )


def test_without_the_carried_map_it_is_the_plain_one(pipe: Any) -> None:
    with tx.record(pipe) as trace:
        pipe("a red circle", num_inference_steps=1)
    plain = trace.heatmap("red", stream="text").array
    assert np.array_equal(trace.heatmap("red").array, plain)
    with pytest.raises(UserError, match="record with walk=1"):
        trace.heatmap("red", stream="walked")


def test_the_first_sheet_is_right() -> None:
    """The model in the box, and what `make demo` paints."""
    pipe = tx.load_default()
    pipe.set_progress_bar_config(disable=True)
    with tx.record(pipe, walk=1) as trace:
        image = pipe(
            "a red circle left of a blue square",
            num_inference_steps=25,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
    pixels = np.asarray(image).astype(int)
    redder = pixels[..., 0] - pixels[..., 2]
    shown = {
        "red": redder > 60,
        "circle": redder > 60,
        "blue": redder < -60,
        "square": redder < -60,
    }
    for word, where in shown.items():
        assert where[trace.heatmap(word).peak()], word
