"""The walk along self-attention against the dense matrix, and in whole recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_xattn import reference
from t2i_xattn.attention import carried
from t2i_xattn.errors import UserError
from t2i_xattn.recording import record
from t2i_xattn.sites import walk_sites


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
    """Against what the layers themselves projected, in fp64, one step of the sampler."""
    captured: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(attn, which).register_forward_hook(
            lambda _, __, out, key=f"{site.name}.{which}": captured.update({key: out.double()})
        )
        for site, attn in walk_sites(pipe.unet)
        for which in ("to_q", "to_k")
    ]
    plain = draw(pipe, num_inference_steps=1)
    for hook in hooks:
        hook.remove()
    with record(pipe, walk=2) as trace:
        assert draw(pipe, num_inference_steps=1).tobytes() == plain.tobytes()
    assert list(trace.run.maps) == ["text", "walked"]
    for site in trace.sites:
        name = site.name.replace("attn2", "attn1")
        query, key = (
            reference.split_heads(captured[f"{name}.{which}"][-1:], site.heads)
            for which in ("to_q", "to_k")
        )
        dense = reference.probs(reference.scores(query, key)).mean(1)[0].numpy()
        maps = trace.to_numpy()[site.name][0, 0, 0, 0].reshape(len(dense), -1)
        walked = trace.to_numpy("walked")[site.name][0, 0, 0, 0].reshape(len(dense), -1)
        assert np.abs(walked - dense @ dense @ maps).max() < 1e-5
        assert np.allclose(walked.sum(-1), 1, atol=1e-5)


def test_words_are_carried_alone(pipe: Any, draw: Any) -> None:
    with record(pipe, walk=1) as whole:
        draw(pipe, "a red circle")
    with record(pipe, walk=1, words=["red circle", "a"], heads="each") as some:
        draw(pipe, "a red circle")
    expected = whole.heatmap("red circle", stream="walked").array
    assert np.allclose(some.heatmap("red circle", stream="walked").array, expected, atol=1e-6)
    assert not np.allclose(some.heatmap("red circle").array, expected, atol=1e-4)
    assert next(iter(some.to_numpy("walked").values())).shape[-1] == 2


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
