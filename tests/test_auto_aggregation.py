"""Weights of heads and sites, against loops written from the paper (arXiv 2603.06178)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from captured import Captured, matrix_of, size_of
from t2i_xattn import aggregation
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import head_weights
from t2i_xattn.recording.record import record
from t2i_xattn.traces.trace import Trace


def weights_head_by_head(probs: Tensor, values: Tensor, matrix: Tensor) -> Tensor:
    """`(heads, queries)`: every head's output formed on its own."""
    heads, width = len(probs), values.shape[-1]
    outputs = [
        probs[head] @ values[head] @ matrix[:, head * width : (head + 1) * width].T
        for head in range(heads)
    ]
    whole = torch.stack(outputs).sum(0)
    dots = torch.stack([(each * whole).sum(-1).clamp(min=0) for each in outputs])
    return dots / dots.sum(0)


def agreement_of(
    site: AttentionSite, captured: Captured, call: int, reference: AttentionSite, latent: Any
) -> float:
    """Both matrices formed and brought to one size, then multiplied."""
    query = captured.heads(reference, reference.name, "to_q", call, 1)[0]
    places = query.transpose(0, 1).flatten(1)
    affinity = (places @ places.T / places.shape[1] ** 0.5).softmax(-1)
    size, own = size_of(reference, latent), size_of(site, latent)
    looks = captured.probs(site, call, of="attn1")[0].mean(0).reshape(*own, *own)
    looks = functional.interpolate(looks, size, mode="bilinear").permute(2, 3, 0, 1)
    looks = functional.interpolate(looks, size, mode="nearest").permute(2, 3, 0, 1)
    return float((looks.reshape(affinity.shape) * affinity).sum())


def test_heads_and_sites_weigh_as_in_the_paper(pipe: Any, draw: Any) -> None:
    captured = Captured(pipe, lambda: draw(pipe, height=64, width=96))
    with record(pipe, heads="auto") as trace:
        assert draw(pipe, height=64, width=96).tobytes() == captured.result.tobytes()
    reference = [site for site in trace.sites if site.place == "up" and site.level == 1][1]
    assert trace.run.site_weights is not None
    for site in trace.sites:
        expected, agreed = torch.zeros((), dtype=torch.float64), 0.0
        for call in range(captured.calls):
            probs = captured.probs(site, call)[0]
            of_heads = weights_head_by_head(
                probs, captured.values(site, call)[0], matrix_of(pipe, site)
            )
            expected = expected + (probs * of_heads[..., None]).sum(0) / captured.calls
            agreed += agreement_of(site, captured, call, reference, (8, 12)) / captured.calls
        found = trace.maps[site.name][0].reshape(expected.shape)
        assert np.abs(found - expected.numpy()).max() < 1e-5
        assert trace.run.site_weights[site.name].item() == pytest.approx(agreed, rel=1e-4)


def test_the_unit_is_kept_and_goca_shares_out_the_rest(pipe: Any, draw: Any) -> None:
    with record(pipe, heads="auto") as trace:
        draw(pipe)
    auto = [trace.heatmap(columns=[n], aggregate=aggregation.auto).array for n in range(77)]
    assert np.allclose(sum(auto), 1, atol=1e-4)
    goca = [trace.heatmap(columns=[n], aggregate=aggregation.goca).array for n in range(1, 77)]
    assert np.allclose(sum(goca), 1, atol=1e-3)
    assert np.allclose(goca[2], auto[3] / (1 - auto[0]), atol=1e-4)
    assert not np.allclose(auto[3], trace.heatmap(columns=[3]).array, rtol=1e-3)


def test_weights_are_saved_and_selected(pipe: Any, draw: Any, tmp_path: Any) -> None:
    with record(pipe, heads="auto", steps="each", words=["red", "circle"]) as trace:
        draw(pipe, ["a red circle", "a circle red"])
    trace.save(tmp_path / "run.safetensors")
    read = Trace.load(tmp_path / "run.safetensors")
    name = trace.sites[0].name
    assert trace.run.site_weights is not None
    assert read.run.site_weights is not None
    assert read.run.site_weights[name].shape == (2, 1, 2)
    assert np.array_equal(read.run.site_weights[name], trace.run.site_weights[name])
    part = read.select(steps=1, images=[1], sites=[name]).run
    assert part.site_weights is not None
    assert np.array_equal(part.site_weights[name], trace.run.site_weights[name][1:, :, 1:])
    assert (read - trace).run.site_weights is None
    mean = Trace.mean([read, trace]).run.site_weights
    assert mean is not None
    assert np.allclose(mean[name], trace.run.site_weights[name])


def test_a_lora_on_the_output_counts() -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.more = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4, bias=False)

        def forward(self, states: Tensor) -> Tensor:
            return self.base(states) + self.more(states)

    torch.manual_seed(0)
    wrapped = Wrapped()
    probs, values = torch.rand(1, 2, 5, 7).softmax(-1), torch.randn(1, 2, 7, 3)
    expected = weights_head_by_head(
        probs[0].double(), values[0].double(), (wrapped.base.weight + wrapped.more.weight).double()
    )
    with torch.no_grad():
        assert torch.allclose(head_weights(probs, values, wrapped)[0].double(), expected, atol=1e-5)


def test_heads_that_add_nothing_are_alike() -> None:
    linear = torch.nn.Linear(6, 4)
    weights = head_weights(torch.ones(1, 2, 3, 1), torch.zeros(1, 2, 1, 3), linear)
    assert torch.equal(weights, torch.full((1, 2, 3), 0.5))


def test_what_cannot_be_weighed(pipe: Any, draw: Any) -> None:
    with record(pipe) as trace:
        draw(pipe)
    with pytest.raises(UserError, match='record with heads="auto"'):
        trace.heatmap("red", aggregate=aggregation.auto)
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"reference": "x"}, 'heads="auto" beside reference'),
        ({"reference": "x", "heads": "auto"}, "name of a site"),
        ({"controlnet": True, "heads": "auto"}, 'heads="mean" or "each" with controlnet=True'),
    ]
    for options, message in mistakes:
        with pytest.raises(UserError, match=message), record(pipe, **options):
            pass
