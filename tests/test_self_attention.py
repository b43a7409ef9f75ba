"""Self-attention of chosen places, recorded beside the words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from captured import Captured, size_of
from t2i_xattn.errors import UserError
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace

PLACES = [(0.5, 0.25), (1.0, 1.0), (0.0, 0.6)]


@pytest.mark.parametrize("heads", ["mean", "each"])
def test_chosen_places_look_as_the_dense_matrix_says(pipe: Any, draw: Any, heads: Any) -> None:
    options = {"height": 64, "width": 96, "num_inference_steps": 1}
    captured = Captured(pipe, lambda: draw(pipe, **options))
    with record(pipe, self_attention=PLACES, heads=heads) as trace:
        assert draw(pipe, **options).tobytes() == captured.result.tobytes()
    for site in trace.sites:
        height, width = size_of(site, (8, 12))
        queries = [height // 2 * width + width // 4, height * width - 1, int(0.6 * width)]
        expected = captured.probs(site, of="attn1")[0].numpy()[:, queries]
        found = trace.to_numpy("self")[site.name][0, 0, 0]
        found = found.reshape(len(found), height * width, len(PLACES)).transpose(0, 2, 1)
        if heads == "mean":
            expected = expected.mean(0, keepdims=True)
        assert np.abs(found - expected).max() < 1e-5
        assert np.allclose(found.sum(-1), 1, atol=1e-5)


def test_the_whole_matrix_within_a_budget(pipe: Any, draw: Any) -> None:
    captured = Captured(pipe, lambda: draw(pipe, num_inference_steps=1))
    with record(pipe, self_attention="all", budget=1_000_000) as trace:
        draw(pipe, num_inference_steps=1)
    for site in trace.sites:
        expected = captured.probs(site, of="attn1")[0].mean(0).numpy()
        found = trace.to_numpy("self")[site.name][0, 0, 0, 0]
        assert np.abs(found.reshape(expected.shape).T - expected).max() < 1e-5
    with (
        pytest.raises(UserError, match="at most 20,000 bytes"),
        record(pipe, self_attention="all", budget=20_000),
    ):
        draw(pipe)


def test_as_a_heat_map_of_one_resolution(pipe: Any, draw: Any, tmp_path: Any) -> None:
    with record(pipe, self_attention=PLACES) as trace:
        draw(pipe)
    trace.save(tmp_path / "run.safetensors")
    trace = Trace.load(tmp_path / "run.safetensors")
    heat = trace.heatmap(columns=[1], stream="self", sites=lambda site: site.level == 0)
    assert heat.array.shape == (64, 64)
    assert heat.array.sum() == pytest.approx(64, rel=1e-3)  # 1 over 8 × 8, enlarged 64 times
    with pytest.raises(UserError, match="sites of one resolution"):
        trace.heatmap(columns=[1], stream="self")
    with pytest.raises(UserError, match=r"columns=… for the tokens of self"):
        trace.heatmap("red", stream="self")


def test_in_a_compiled_unet(pipe: Any, draw: Any) -> None:
    with record(pipe, self_attention=PLACES, walk=1, heads="auto") as expected:
        draw(pipe)
    torch._dynamo.reset()
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
    with record(pipe, self_attention=PLACES, walk=1, heads="auto") as trace:
        draw(pipe)
    for stream in ("text", "walked", "self"):
        for name, maps in expected.to_numpy(stream).items():
            assert np.allclose(trace.to_numpy(stream)[name], maps, atol=1e-6)


@pytest.mark.parametrize("places", [[], [(0.5, 1.2)], [(0.5,)], "some"])
def test_places_that_are_none(pipe: Any, places: Any) -> None:
    with (
        pytest.raises(UserError, match=r"places|self_attention of record"),
        record(pipe, self_attention=places),
    ):
        pass


def test_the_whole_matrix_needs_a_budget(pipe: Any) -> None:
    with pytest.raises(UserError, match="budget="), record(pipe, self_attention="all"):
        pass
