"""What editing works with, as for recording: real runs of tiny pipelines of the real classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_works_with import WORKS_WITH

import t2i_xattn as tx
from conftest import state_of
from noting import noting
from t2i_xattn import edits
from t2i_xattn.errors import UserError

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
    with tx.edit(pipe, edits.Drop("red", steps=whole)), tx.record(pipe) as trace:
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
    steps: list[Any] = []
    with tx.edit(pipe, lambda probs, context: noting(steps, context.step, probs)):
        draw()
        draw()
    sites = len(tx.find_sites(pipe.unet))
    assert steps == [step for _ in range(2) for step in range(3) for _ in range(sites)]


def test_texts_of_one_s_own_take_a_pipeline_that_encodes_them() -> None:
    pipe, draw = WORKS_WITH["SDXL of Modular Diffusers"]()
    match = "with `encode_prompt` to encode other texts with, but came StableDiffusionXL"
    regions = {"a blue circle": (0, 0, 1, 0.5)}
    with pytest.raises(UserError, match=match), tx.edit(pipe, edits.RegionalPrompts(regions)):
        draw()


def test_the_sites_of_a_controlnet_in_guess_mode() -> None:
    """It sees the conditional half only, and its sites go by names of their own."""
    pipe, draw = WORKS_WITH["ControlNet in guess mode"]()
    branches = ["conditional", "unconditional"]
    seen: list[Any] = []
    watch = edits.EditFunction(
        lambda probs, context: noting(seen, (context.site.name, context.branch), probs),
        branches=branches,
    )
    with tx.edit(pipe, watch, controlnet=True):
        draw()
    assert {branch for name, branch in seen if name.startswith("controlnet.")} == {"conditional"}
    assert {branch for name, branch in seen if not name.startswith("controlnet.")} == {*branches}


@pytest.mark.parametrize("name", ["ControlNet", "ControlNet in guess mode"])
def test_only_a_controlnet_is_edited(name: str) -> None:
    pipe, draw = WORKS_WITH[name]()
    plain = draw()
    before, inside = state_of(pipe), dict(pipe.controlnet.attn_processors)
    drop = edits.Drop("red", sites=lambda site: site.name.startswith("controlnet."))
    with tx.record(pipe, controlnet=True) as trace, tx.edit(pipe, drop, controlnet=True):
        drawn = draw()
    assert not np.allclose(drawn, plain, atol=1e-5)
    for site in trace.sites:
        red = trace.to_numpy("edited")[site.name][..., list(trace.words[1].columns)]
        assert red.any() != site.name.startswith("controlnet.")
    assert 0 < trace.heatmap("red", stream="edited").share < trace.heatmap("red").share
    assert state_of(pipe) == before
    assert dict(pipe.controlnet.attn_processors) == inside
    assert draw().tobytes() == plain.tobytes()


def test_a_controlnet_is_edited_only_on_request() -> None:
    pipe, draw = WORKS_WITH["ControlNet"]()
    sites: list[Any] = []
    with tx.edit(pipe, lambda probs, context: noting(sites, context.site.name, probs)):
        draw()
    assert sites
    assert not any(name.startswith("controlnet.") for name in sites)
    wrong = edits.Drop("red", sites=["controlnet.mid_block"])
    with pytest.raises(UserError, match="the name of a site"), tx.edit(pipe, wrong):
        pass
    with (
        pytest.raises(UserError, match="with a ControlNet, but StableDiffusionPipeline has none"),
        tx.edit(WORKS_WITH["guidance off"]()[0], edits.Drop("red"), controlnet=True),
    ):
        pass


def test_self_attention_beside_perturbed_attention() -> None:
    """Its processors come into the place of others during the run; their kernel is seen as any."""
    pipe, draw = WORKS_WITH["perturbed-attention guidance"]()
    plain = draw()
    mid: dict[str, Any] = {"sites": lambda site: site.place == "mid", "attention": "self"}
    watched: list[Any] = []

    def flip(probs: Any, context: Any) -> Any:
        return noting(watched, (context.site.name, context.branch, len(probs)), probs.flip(-1))

    with tx.edit(pipe, edits.EditFunction(flip, **mid)):
        assert not np.allclose(draw(), plain, atol=1e-4)
    assert set(watched) == {(find_mid(pipe), "conditional", 1)}
    perturbed = edits.EditFunction(flip, branches="perturbed", **mid)
    with (
        pytest.raises(UserError, match=r"mid_block.*first 2 rows.*sites=… of the edit"),
        tx.edit(pipe, perturbed),
    ):
        draw()  # these rows look at nothing


def find_mid(pipe: Any) -> str:
    (site,) = [each for each in tx.find_sites(pipe.unet, "self") if each.place == "mid"]
    return site.name
