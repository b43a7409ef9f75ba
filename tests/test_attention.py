"""The walk along self-attention against the dense matrix, and in whole recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captured import Captured
from t2i_xattn.errors import UserError
from t2i_xattn.kernel import reference
from t2i_xattn.kernel.attention import carried
from t2i_xattn.recording.record import record


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 12),
    width=st.integers(2, 8),
    columns=st.integers(1, 20),
    steps=st.integers(1, 3),
)
def test_a_walk_is_the_dense_matrix_to_a_power(
    batch: int, heads: int, queries: int, width: int, columns: int, steps: int
) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, batch, heads, queries, width).mul(2)
    maps = torch.rand(batch, 1, queries, columns)
    dense = reference.probs(reference.scores(query.double(), key.double())).mean(1, keepdim=True)
    expected = maps.double()
    for _ in range(steps):
        expected = dense @ expected
    found = carried(query, key, width**-0.5, maps, steps)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_recorded_walks(pipe: Any, draw: Any) -> None:
    """Against what the layers themselves projected, in fp64, one step of the sampler: the columns
    of words, or those that were asked for."""
    captured = Captured(pipe, lambda: draw(pipe, num_inference_steps=1))
    with record(pipe, walk=2) as words:
        assert draw(pipe, num_inference_steps=1).tobytes() == captured.result.tobytes()
    with record(pipe, walk=2, columns=range(77)) as every:
        draw(pipe, num_inference_steps=1)
    assert words.run.walked_columns == (1, 2, 3)
    assert every.run.walked_columns is None
    for trace, columns in ((words, [1, 2, 3]), (every, list(range(77)))):
        assert list(trace.run.maps) == ["text", "walked"]
        for site in trace.sites:
            dense = captured.probs(site, of="attn1").mean(1)[0].numpy()
            maps = trace.to_numpy()[site.name][0, 0, 0, 0].reshape(len(dense), -1)
            walked = trace.to_numpy("walked")[site.name][0, 0, 0, 0].reshape(len(dense), -1)
            assert np.abs(walked - dense @ dense @ maps[:, columns]).max() < 1e-5
            if trace is every:
                assert np.allclose(walked.sum(-1), 1, atol=1e-5)


def test_columns_that_were_not_walked(pipe: Any, draw: Any) -> None:
    with record(pipe, walk=1) as trace:
        draw(pipe)
    with pytest.raises(UserError, match=r"columns that were kept, .* but came \[0\]"):
        trace.heatmap(columns=[0], stream="walked")
    # Without a stream it is the plain map.
    assert np.array_equal(
        trace.heatmap(columns=[0]).array, trace.heatmap(columns=[0], stream="text").array
    )


def test_the_words_of_all_branches_are_walked(pipe: Any, draw: Any) -> None:
    """Each branch has its own."""
    branches = ["conditional", "unconditional"]
    with record(pipe, walk=1, branches=branches) as both:
        draw(pipe, negative_prompt="blue left of a circle")
    assert both.run.walked_columns == (1, 2, 3, 4, 5)
    for branch, word in (("conditional", "circle"), ("unconditional", "left")):
        with record(pipe, walk=1, branches=branch) as alone:
            draw(pipe, negative_prompt="blue left of a circle")
        found = both.select(branch=branch).heatmap(word, stream="walked").array
        expected = alone.heatmap(word, stream="walked").array
        assert np.allclose(found, expected, atol=1e-7)
    with record(pipe, walk=1) as alone:
        draw(pipe, negative_prompt="blue left of a circle")
    assert alone.run.walked_columns == (1, 2, 3)


def test_spans_are_walked_too(pipe: Any, draw: Any) -> None:
    with record(pipe, walk=1, spans={"start": [0]}) as trace:
        draw(pipe)
    assert trace.run.walked_columns == (0, 1, 2, 3)
    assert trace.heatmap("start", stream="walked").word == "start"


def test_embeddings_have_no_words_and_are_walked_whole(pipe: Any, draw: Any) -> None:
    with torch.no_grad():
        text, none = pipe.encode_prompt("a red circle", "cpu", 1, True)
    with record(pipe, walk=1) as trace:
        draw(pipe, None, prompt_embeds=text, negative_prompt_embeds=none)
    assert trace.run.walked_columns is None
    for maps in trace.to_numpy("walked").values():
        assert maps.shape[-1] == 77
        assert np.allclose(maps.sum(-1), 1, atol=1e-5)


def test_words_are_carried_alone(pipe: Any, draw: Any) -> None:
    with record(pipe, walk=1) as whole:
        draw(pipe, "a red circle")
    with record(pipe, walk=1, words=["red circle", "a"], heads="each") as some:
        draw(pipe, "a red circle")
    expected = whole.heatmap("red circle", stream="walked").array
    assert np.allclose(some.heatmap("red circle", stream="walked").array, expected, atol=1e-6)
    assert not np.allclose(some.heatmap("red circle").array, expected, atol=1e-4)
    assert next(iter(some.to_numpy("walked").values())).shape[-1] == 2


@pytest.mark.parametrize(("every", "walked"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (9, [0])])
def test_only_some_calls_are_walked(pipe: Any, draw: Any, every: int, walked: list[int]) -> None:
    with record(pipe, walk=1, walk_every=every) as trace:
        draw(pipe, num_inference_steps=5)
    with record(pipe, walk=1, steps="each") as each:  # where every step is the first of its window
        draw(pipe, num_inference_steps=5)
    for name, maps in trace.to_numpy("walked").items():
        expected = each.to_numpy("walked")[name][:, :, walked].mean(axis=2, keepdims=True)
        assert np.allclose(maps, expected, atol=1e-6)


def test_a_walk_that_was_not_recorded(pipe: Any, draw: Any) -> None:
    with record(pipe) as trace:
        draw(pipe)
    with pytest.raises(UserError, match="a stream of text, but came 'walked'; record with walk=1"):
        trace.heatmap("red", stream="walked")
    with pytest.raises(UserError, match="walk=0 or more"), record(pipe, walk=-1):
        pass


def test_a_walk_in_a_compiled_unet(pipe: Any, draw: Any) -> None:
    with record(pipe, walk=1) as expected:
        draw(pipe)
    torch._dynamo.reset()
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
    with record(pipe, walk=1) as trace:
        draw(pipe)
    for name, maps in expected.to_numpy("walked").items():
        assert np.allclose(trace.to_numpy("walked")[name], maps, atol=1e-6)
