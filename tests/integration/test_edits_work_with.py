"""What editing works with, as for recording: real runs of tiny pipelines of the real classes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import state_of
from test_works_with import WORKS_WITH

import t2i_xattn as tx
from t2i_xattn.errors import UserError
from t2i_xattn.processors import WrappingProcessor

NAMES = [
    "guidance off",
    "guidance changed by a callback",
    "Heun",
    "odd latents",
    "inpainting",
    "ControlNet",
    "ControlNet in guess mode",
    "InstructPix2Pix",
    "perturbed-attention guidance",
    "latent consistency model",
    "SDXL",
    "SDXL of Modular Diffusers",
    "attention slicing",
    "fused projections",
    "IP-Adapter with masks",
    "layerwise casting to float8",
    "sequential offload",
    "group offload",
]


@pytest.mark.parametrize("name", NAMES)
def test_edited_and_left_as_found(name: str) -> None:
    pipe, draw = WORKS_WITH[name]()
    plain = draw()
    before = state_of(pipe)
    with tx.edit(pipe, lambda probs, _: probs):
        assert draw().tobytes() == plain.tobytes()
    whole = None if "Modular" in name else (0, 1.0)  # the one that does not say how many steps
    with tx.edit(pipe, tx.Drop("red", steps=whole)), tx.record(pipe) as trace:
        drawn = draw()
    assert state_of(pipe) == before
    assert np.isfinite(drawn).all()
    assert not np.allclose(drawn, plain, atol=1e-5)
    assert trace.heatmap("red").share > 0
    assert trace.heatmap("red", stream="edited").share == 0
    for site in trace.sites:
        assert np.allclose(trace.to_numpy("edited")[site.name].sum(-1), 1, atol=1e-5)


def test_runs_that_follow_each_other_where_only_the_text_encoder_is_heard() -> None:
    pipe, draw = WORKS_WITH["SDXL of Modular Diffusers"]()
    steps = []
    with tx.edit(pipe, lambda probs, context: steps.append(context.step) or probs):
        draw()
        draw()
    sites = len(tx.find_sites(pipe.unet))
    assert steps == [step for _ in range(2) for step in range(3) for _ in range(sites)]


def test_self_attention_beside_perturbed_attention() -> None:
    """Its processors come into the place of ours during the run; what they do cannot be edited."""
    pipe, draw = WORKS_WITH["perturbed-attention guidance"]()
    plain = draw()
    flipped = tx.EditFunction(lambda probs, _: probs.flip(-1), attention="self")
    with (
        pytest.raises(UserError, match=r"mid_block.*PAG.*sites=… of the edit"),
        tx.edit(pipe, flipped),
    ):
        draw()
    elsewhere = dataclasses.replace(flipped, sites=lambda site: site.place != "mid")
    with tx.edit(pipe, elsewhere):
        assert not np.allclose(draw(), plain, atol=1e-4)
    assert not any(
        isinstance(each, WrappingProcessor) for each in pipe.unet.attn_processors.values()
    )
