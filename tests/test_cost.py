"""What attention costs: what is predicted is what torch's own counter counts in a real run."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from command_line import run
from conftest import make_pipeline, make_unet, state_of
from model_folders import tiny_model
from t2i_xattn import UserError, find_sites
from t2i_xattn.costs.call_cost import counted_call, seen_call
from t2i_xattn.costs.cost import Cost, cost
from t2i_xattn.costs.growth import growth
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.kernel.module_calls import by_name
from tiny.all_cases import CASES
from tiny.case import NEGATIVE, PROMPT, Case
from tiny_pipelines import (
    OFFLOADS,
    generator,
    make_sdxl,
    noise_picture,
    of_class,
    offload,
    runner,
)

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


@pytest.mark.parametrize("computed", [False, True])
def test_other_threads_paint_as_ever(
    pipe: Any, computed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = of_class("StableDiffusionPipeline", pipe)
    own.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    draw, here = runner(pipe), threading.get_ident()
    there: list[np.ndarray] = []
    plain = draw()
    if computed:
        monkeypatch.setattr("t2i_xattn.costs.call_cost._is_plain", lambda _: False)
    alone = cost(own, "red", num_inference_steps=2)

    def meanwhile(*_: Any) -> None:
        """Another thread paints in the midst of a call that is seen."""
        if threading.get_ident() == here:
            thread = threading.Thread(target=lambda: there.append(draw()))
            thread.start()
            thread.join()

    def after_step(*_: Any) -> dict[str, Any]:
        meanwhile()
        return {}

    with pipe.unet.conv_out.register_forward_hook(meanwhile):
        before = state_of(pipe)
        found = cost(own, "red", num_inference_steps=2, callback_on_step_end=after_step)
        assert state_of(pipe) == before
    assert found == alone
    assert found.call.computed == computed
    assert len(there) == 3  # in the call that is seen, and after each of the two
    assert all(np.array_equal(each, plain) for each in there)
    assert np.array_equal(draw(), plain)


@pytest.mark.parametrize("several", [False, True])
def test_random_numbers_go_on_as_they_would_have(pipe: Any, several: bool) -> None:
    given = [generator() for _ in range(2)]
    options: dict[str, Any] = {"prompt": "red", "num_inference_steps": 1}
    options |= {"num_images_per_prompt": 2, "generator": given} if several else {}
    torch.manual_seed(5)
    cost(pipe, **options, eta=1.0)
    drawn = [torch.rand(3), *(torch.rand(3, generator=each) for each in given)]
    torch.manual_seed(5)
    expected = [torch.rand(3), *(torch.rand(3, generator=generator()) for _ in given)]
    for one, other in zip(drawn, expected, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TypeError):  # on its way
        cost(pipe, **options | {"num_inference_steps": [], "generator": given[0]})
    assert torch.equal(torch.rand(3, generator=given[0]), torch.rand(6, generator=generator())[3:])


def test_latents_alone_are_not_decoded(pipe: Any) -> None:
    found = cost(pipe, "red", num_inference_steps=1, height=512, width=512, output_type="latent")
    assert found.decoding_bytes is None
    found.check_fits(free=found.live_bytes)
    whole = cost(pipe, "red", num_inference_steps=1, height=512, width=512)
    assert (whole.decoding_bytes or 0) > found.live_bytes
    assert whole.calls == found.calls


IMAGES: dict[str, dict[str, Any]] = {
    "StableDiffusionImg2ImgPipeline": {"image": noise_picture(), "strength": 1.0},
    "StableDiffusionInpaintPipeline": {
        "image": noise_picture(),
        "mask_image": torch.ones(1, 1, 64, 64),
    },
    "StableDiffusionInstructPix2PixPipeline": {"image": noise_picture()},
}


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_are_not_encoded(pipe: Any, name: str) -> None:
    changes = {"in_channels": 8} if "Pix2Pix" in name else {}
    own = of_class(name, pipe, unet=make_unet(**changes))
    draw = runner(own, **IMAGES[name])
    plain, before = draw(), state_of(own)
    held, ran = [], []
    cover = Cover(own.vae, "encode", lambda method, *given: held.append(live(method, *given)))

    def live(method: Any, *given: Any) -> int:
        with torch.no_grad(), LiveBytes() as counted:
            method(*given)
        return counted.most

    handle = own.vae.encoder.register_forward_hook(
        lambda _, given, __: ran.append(not isinstance(given[0], FakeTensor))
    )
    found = cost(own, "a red circle", num_inference_steps=3, **IMAGES[name])
    handle.remove()
    assert not any(ran)
    assert np.array_equal(draw(), plain)
    assert state_of(own) == before
    cover.put()
    with pytest.raises(AttributeError):  # of None
        draw()
    cover.take_off()
    assert found.encoding_bytes == max(held)
    assert found.decoding_bytes is not None
    with pytest.raises(UserError, match="making latents of a picture holds"):
        replace(found, decoding_bytes=None).check_fits(free=found.encoding_bytes - 1)


def test_encoding_that_cannot_be_seen_is_made(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = type(pipe.vae.encoder).forward

    def by_numbers(self: Any, given: torch.Tensor) -> torch.Tensor:
        return forward(self, given) * (1 if given.sum().item() < 1e30 else 0)

    monkeypatch.setattr(type(pipe.vae.encoder), "forward", by_numbers)
    own = of_class("StableDiffusionImg2ImgPipeline", pipe)
    found = cost(own, "red", image=noise_picture(), num_inference_steps=2)
    assert found.encoding_bytes is None
    assert found.decoding_bytes is not None


def test_inpainting_of_a_part_is_seen(pipe: Any) -> None:
    own = of_class("StableDiffusionInpaintPipeline", pipe)
    mask = Image.new("L", (128, 128))
    mask.paste(255, (40, 40, 90, 90))
    options = {
        "image": Image.new("RGB", (128, 128)),
        "mask_image": mask,
        "padding_mask_crop": 8,
        "height": 64,
        "width": 64,
    }
    draw = runner(own, output_type="pil", **options)
    (plain,), before = draw(), state_of(own)
    found = cost(own, "a red circle", num_inference_steps=3, **options)
    assert state_of(own) == before
    assert np.array_equal(draw()[0], plain)
    counted = Counted([own.unet])
    with counted():
        draw()
    assert (found.predicted_attention, found.flops) == (counted.sites, counted.whole)
    assert found.decoding_bytes is not None


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
