"""What attention costs: what is predicted is what torch's own counter counts in a real run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from command_line import run
from conftest import make_pipeline, state_of
from model_folders import tiny_model
from t2i_xattn import UserError, find_sites
from t2i_xattn.costs.call_cost import counted_call, seen_call
from t2i_xattn.costs.cost import Cost, cost
from t2i_xattn.costs.growth import growth
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.kernel.module_calls import by_name
from tiny.all_cases import CASES
from tiny.case import NEGATIVE, PROMPT, Case
from tiny_pipelines import OFFLOADS, make_sdxl, offload, runner

SEVERAL = ("transformer", "transformer_2")
USUAL = {"FluxPipeline", "StableDiffusion3Pipeline", "PixArtAlphaPipeline", "QwenImagePipeline"}


def of_case(case: Case, pipe: Any) -> Cost:
    options: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": 2, **case.options}
    if case.negative:
        options["negative_prompt"] = NEGATIVE
    return cost(pipe, generator=torch.Generator().manual_seed(0), **options)


class Counted:
    """FLOPs of a denoiser and of its attention modules in a real run, by torch's own counter, with
    the kernel that is made of products of matrices, which it knows."""

    def __init__(self, denoisers: list[nn.Module]) -> None:
        self.whole = self.sites = 0
        self.denoisers = denoisers

    @contextmanager
    def __call__(self) -> Iterator[None]:
        counter, handles = FlopCounterMode(display=False), []
        for denoiser in self.denoisers:
            denoiser.requires_grad_(False)  # or torch's counter stumbles over some
            names = {site.name for kind in ("text", "self") for site in find_sites(denoiser, kind)}
            modules = dict(denoiser.named_modules())
            for name, of in [("", "whole"), *((name, "sites") for name in names)]:
                before: list[int] = []

                def begin(*_: Any, before: list[int] = before) -> None:
                    before.append(counter.get_total_flops())

                def end(*_: Any, before: list[int] = before, of: str = of) -> None:
                    more = counter.get_total_flops() - before.pop()
                    setattr(self, of, getattr(self, of) + more)

                handles.append(modules[name].register_forward_pre_hook(begin))
                handles.append(modules[name].register_forward_hook(end))
        with counter, sdpa_kernel(SDPBackend.MATH):
            yield
        for each in handles:
            each.remove()


def named(case: Case) -> Any:
    marks = () if case.name in USUAL else (pytest.mark.slow,)
    return pytest.param(case, marks=marks, id=case.name)


@pytest.mark.parametrize("case", [named(case) for case in CASES])
def test_predicted_is_what_is_counted(case: Case) -> None:
    pipe = case.make()
    found = of_case(case, pipe)
    parts = {name: getattr(pipe, name, None) for name in (case.denoiser, *SEVERAL)}
    counted = Counted([each for each in parts.values() if isinstance(each, nn.Module)])
    with counted():
        case.run(pipe)
    assert found.predicted_attention == counted.sites
    assert found.flops == counted.whole
    for call, _ in found.calls:
        assert all(site.predicted == site.measured for site in call.sites)
        assert all(site.layer_flops == site.measured_layers for site in call.sites)
    assert sum(found.parts().values()) == found.flops


@pytest.mark.parametrize("make", [make_pipeline, make_sdxl], ids=["sd", "sdxl"])
@pytest.mark.parametrize("unfused", [False, True])
def test_unets(make: Any, unfused: bool) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe = make()
    if unfused:
        pipe.unet.set_attn_processor(AttnProcessor())
    found = cost(pipe, "a red circle", num_inference_steps=3, height=64, width=96)
    counted = Counted([pipe.unet])
    with counted():
        runner(pipe, height=64, width=96)()
    assert (found.predicted_attention, found.flops) == (counted.sites, counted.whole)
    assert found.times == 3
    assert {site.site.name for site in found.call.sites} == {
        site.name for kind in ("text", "self") for site in find_sites(pipe.unet, kind)
    }


def test_nothing_is_computed_and_all_is_as_it_was(pipe: Any) -> None:
    draw = runner(pipe)
    plain, before = draw(), state_of(pipe)
    found = cost(pipe, "a red circle", num_inference_steps=2, height=4096, width=4096)
    assert not found.call.computed
    assert state_of(pipe) == before
    with pytest.raises(TypeError):
        cost(pipe, "a red circle", num_inference_steps=[])
    assert state_of(pipe) == before
    assert np.array_equal(draw(), plain)


@pytest.mark.parametrize("how", OFFLOADS)
def test_offloaded_it_costs_the_same(how: str) -> None:
    plain = cost(make_pipeline(), "a red circle", num_inference_steps=2)
    pipe = make_pipeline()
    offload(pipe, how)
    draw = runner(pipe)
    picture, before = draw(), state_of(pipe)
    found = cost(pipe, "a red circle", num_inference_steps=2)
    assert found == plain  # also that nothing had to be computed
    assert state_of(pipe) == before
    assert np.array_equal(draw(), picture)


def test_what_does_not_fit_is_told_with_the_number(pipe: Any) -> None:
    found = cost(pipe, "a red circle", num_inference_steps=1, height=8192, width=8192)
    assert found.live_bytes > 5e8
    assert found.decoding_bytes is not None
    assert found.decoding_bytes > 3 * 4 * 8192**2
    found.check_fits(free=max(found.live_bytes, found.decoding_bytes))
    with pytest.raises(UserError, match="making the picture"):
        found.check_fits(free=found.live_bytes)
    with pytest.raises(UserError, match=r"holds .* beside the weights and 100 MB are free on cpu"):
        found.check_fits(free=100_000_000)


def given_to(pipe: Any, **options: Any) -> dict[str, Any]:
    """The arguments of a denoiser's first call."""
    found: list[dict[str, Any]] = []
    unet = pipe.unet
    handle = unet.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(by_name(module, args, kwargs)), with_kwargs=True
    )
    pipe("a red circle", num_inference_steps=1, output_type="latent", **options)
    handle.remove()
    return found[0]


def test_bytes_without_numbers_are_those_of_a_real_call(pipe: Any) -> None:
    given = given_to(pipe, height=128, width=64)
    fake, _ = seen_call(pipe.unet, given)
    real, _ = counted_call(pipe.unet, given)
    assert (fake.live_bytes, fake.flops) == (real.live_bytes, real.flops)
    assert fake.weight_bytes == sum(each.nbytes for each in pipe.unet.parameters())


def test_live_bytes() -> None:
    with LiveBytes() as live:
        one = torch.ones(1000)  # 4,000 bytes
        two = one + 1
        three = two.view(10, 100)  # no more
        del one
        four = two * 2
        del two, three
        assert live.now == 4000
    assert live.most == 8000
    assert len(four) == 1000


def test_moved_and_scores(pipe: Any) -> None:
    found = cost(pipe, "a red circle", num_inference_steps=1)
    site = next(each for each in found.call.sites if each.site.kind == "cross")
    (kernel,) = site.kernels
    rows, heads, queries, keys, d = 2, kernel.heads, 64, 77, kernel.width
    assert (kernel.rows, kernel.queries, kernel.keys, kernel.number_bytes) == (2, 64, 77, 4)
    assert kernel.flops == 4 * rows * heads * queries * keys * d
    assert kernel.moved_bytes == 4 * 2 * rows * heads * (queries + keys) * d
    assert kernel.score_bytes == 4 * rows * heads * queries * keys


# How it grows


@pytest.mark.parametrize(
    ("make", "options"),
    [
        pytest.param(make_pipeline, {}, id="sd"),
        *(
            pytest.param(case.make, case.options, marks=pytest.mark.slow, id=case.name)
            for case in CASES
            if case.name in USUAL
        ),
    ],
)
def test_exponents_are_the_theory_s(make: Any, options: dict[str, Any]) -> None:
    pipe = make()
    found = growth(pipe, prompt="a red circle", num_inference_steps=2, **options)
    for each in found:
        assert abs(each.exponent - each.theory) < 0.1, each
    grown = {(each.of, each.by) for each in found}
    assert ("the denoiser", "steps") in grown
    sites = {site.kind for kind in ("text", "self") for site in find_sites(denoiser(pipe), kind)}
    assert {of for of, by in grown if by == "places"} == {f"{kind}-attention" for kind in sites}


def denoiser(pipe: Any) -> nn.Module:
    found: nn.Module = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    return found


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_command_with_growth(model: Path) -> None:
    code, shown, _ = run("cost", "--model", model, "--steps", 2, "--grow")
    assert code == 0
    assert "How FLOPs grow" in shown
    code, shown, _ = run("cost", "--model", model, "--steps", 2, "--grow", "--json")
    grown = json.loads(shown)["growth"]
    assert all(abs(each["exponent"] - each["theory"]) < 0.1 for each in grown)


def test_command(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--model", model, "--size", "64,128x64", "--steps", 2)
    code, shown, _ = run("cost", *options, "--out", out)
    assert code == 0
    for part in ("64 × 77", "self-attention", "2 calls of the denoiser"):
        assert part in shown, part
    table = json.loads((out / "cost.json").read_text("utf-8"))
    assert list(table["sizes"]) == ["64", "128x64"]
    assert (out / "cost.png").read_bytes()[:4] == b"\x89PNG"
    code, shown, _ = run("cost", *options, "--json")
    found = json.loads(shown)["sizes"]
    assert code == 0
    assert found == table["sizes"] | {
        name: each | {"bytes": each["bytes"] | {"free": found[name]["bytes"]["free"]}}
        for name, each in table["sizes"].items()
    }
    for each in found.values():
        for call in each["calls"]:
            flops = [site["flops"] for site in call["sites"]]
            assert all(one["predicted"] == one["measured"] > 0 for one in flops)


def test_command_says_that_it_does_not_fit(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2i_xattn.costs.cost.free_bytes", lambda _: 1_000)
    code, shown, told = run("cost", "--model", model, "--size", 128, "--steps", 1)
    assert code == 2
    assert "calls of the denoiser" in shown
    assert told.count("\n") == 1
    assert "expected a run that fits into memory" in told
    assert math.isfinite(float(told.split(" holds ")[1].split()[0]))


@pytest.mark.parametrize(
    "size", ["64,", ",".join(map(str, range(64, 64 + 9 * 8, 8))), "64,60", ","]
)
def test_wrong_sizes(model: Path, size: str) -> None:
    code, shown, told = run("cost", "--model", model, "--size", size, "--steps", 1)
    if size == "64,":
        assert code == 0
        return
    assert (code, shown) == (2, "")
    assert told.count("\n") == 1
