"""What does not fit into memory is told before it runs, with the number."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from command_line import run
from conftest import state_of
from t2i_xattn import UserError
from t2i_xattn.asking import fitting
from t2i_xattn.asking.request import Request
from t2i_xattn.costs.cost import cost
from t2i_xattn.costs.decoding import seen_method
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.costs.memory import free_bytes
from test_cost import of_case
from tiny.all_cases import CASES
from tiny.case import PROMPT, Case

FREE = 60_000_000


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 60 MB that are free."""
    for module in ("costs.memory", "costs.cost"):
        monkeypatch.setattr(f"t2i_xattn.{module}.free_bytes", lambda _: FREE)


def test_what_decoding_holds_is_what_a_real_one_holds(pipe: Any) -> None:
    latents = torch.randn(2, pipe.vae.config.latent_channels, 6, 10)
    seen, picture = seen_method(pipe.vae, "decode", latents, return_dict=False)
    with torch.no_grad(), LiveBytes() as live:
        (real,) = pipe.vae.decode(latents, return_dict=False)
    assert seen == live.most > real.nbytes
    assert picture[0].shape == real.shape


def test_pictures_one_by_one_and_in_tiles_take_less(pipe: Any) -> None:
    def held() -> int:
        found = cost(pipe, PROMPT, num_inference_steps=1, height=160, width=160, **several)
        assert found.decoding_bytes is not None
        return found.decoding_bytes

    several = {"num_images_per_prompt": 4}
    together = held()
    pipe.vae.enable_slicing()
    one_by_one = held()
    assert one_by_one < 0.5 * together
    found = cost(pipe, PROMPT, num_inference_steps=1, height=160, width=160)
    with pytest.raises(UserError, match="tiles") as told:
        found.check_fits(free=found.live_bytes)
    assert "pipe.vae.enable_tiling()" in str(told.value)
    pipe.vae.enable_tiling()  # as the sentence says
    assert held() < 0.5 * one_by_one


@pytest.mark.parametrize("case", [pytest.param(each, id=each.name) for each in CASES])
@pytest.mark.slow
def test_every_pipeline_s_decoding_is_seen(case: Case) -> None:
    pipe = case.make()
    found = of_case(case, pipe)
    decoders = [each for each in vars(pipe).values() if callable(getattr(each, "decode", None))]
    modules = [each for each in decoders if isinstance(each, torch.nn.Module)]
    assert (found.decoding_bytes is not None) == bool(modules)
    assert not any("decode" in vars(each) for each in modules)


def test_decoding_that_cannot_be_seen_is_not_made_up(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    forward = type(pipe.vae.decoder).forward

    def by_numbers(self: Any, latents: torch.Tensor, *args: Any) -> torch.Tensor:
        sizes.append(tuple(latents.shape[-2:]))
        if latents.sum().item() > 1e30:
            raise AssertionError
        return forward(self, latents, *args)

    monkeypatch.setattr(type(pipe.vae.decoder), "forward", by_numbers)
    found = cost(pipe, PROMPT, num_inference_steps=1, height=256, width=256)
    assert found.decoding_bytes is None
    assert sizes[-1] == (1, 1)


def test_a_picture_that_does_not_fit_is_refused_before_it_runs(pipe: Any, little: None) -> None:
    fitting.check_fits(pipe, Request(PROMPT, size=(64, 64)))
    before = state_of(pipe)
    for request in (
        Request(PROMPT, size=(2048, 2048)),
        Request(PROMPT, size=(256, 256), count=64),
    ):
        with pytest.raises(UserError, match=r"holds .* and 60 MB are free on cpu; .* --no-limits"):
            fitting.check_fits(pipe, request)
    assert state_of(pipe) == before


def test_where_there_is_plainly_room_nothing_is_seen(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: Any, **__: Any) -> None:
        raise AssertionError("half a second for nothing")

    monkeypatch.setattr("t2i_xattn.costs.memory.free_bytes", lambda _: 16_000_000_000)
    monkeypatch.setattr("t2i_xattn.costs.cost.cost", seen)
    fitting.check_fits(pipe, Request(PROMPT, size=(256, 256)))
    with pytest.raises(AssertionError, match="for nothing"):
        fitting.check_fits(pipe, Request(PROMPT, size=(1024, 1024)))


def test_the_count_is_looked_at_without_a_size_too(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own size is 64 pixels, by the UNet's 8 places."""
    weights = sum(
        each.nbytes
        for part in (pipe.unet, pipe.vae, pipe.text_encoder)
        for each in part.parameters()
    )
    free = 8 * weights
    for module in ("costs.memory", "costs.cost"):
        monkeypatch.setattr(f"t2i_xattn.{module}.free_bytes", lambda _: free)
    many = 1 + cost_of(pipe, 64, free)
    for request in (Request(PROMPT, count=many), Request(PROMPT, size=(64, 64), count=many)):
        with pytest.raises(UserError, match="take a smaller --size or --count"):
            fitting.check_fits(pipe, request)
    fitting.check_fits(pipe, Request(PROMPT, count=many // 2))  # as the sentence says


def cost_of(pipe: Any, side: int, free: int) -> int:
    """How many pictures fit."""
    one, two = (
        cost(pipe, PROMPT, num_inference_steps=1, num_images_per_prompt=n, height=side, width=side)
        for n in (1, 2)
    )
    assert one.decoding_bytes is not None
    assert two.decoding_bytes is not None
    return max(1, free // (two.decoding_bytes - one.decoding_bytes))


@pytest.mark.parametrize(
    ("defaults", "others", "count", "pixels"),
    [
        ({}, {"default_sample_size": 128}, 2, 2 * 1024 * 1024),
        ({"height": 480, "width": 832, "num_frames": 81}, {}, 1, 480 * 832 * 81),
        ({"height": 480, "width": 832, "num_frames": None}, {}, 1, None),
        ({"height": None, "width": None}, {"unet": {"sample_size": (16, 32)}}, 3, 3 * 128 * 256),
        ({}, {"transformer": {"sample_size": 16}, "vae_scale_factor": 32}, 1, 512 * 512),
        ({}, {}, 1, 0),
        ({}, {}, 2, None),
    ],
)
def test_the_size_that_a_pipeline_paints_by_itself(
    defaults: dict[str, Any], others: dict[str, Any], count: int, pixels: int | None
) -> None:
    parts = {
        name: SimpleNamespace(config=SimpleNamespace(**each)) if isinstance(each, dict) else each
        for name, each in others.items()
    }
    call = Signature([Parameter(n, Parameter.KEYWORD_ONLY, default=d) for n, d in defaults.items()])

    class Pipeline(SimpleNamespace):
        def __call__(self, **_: Any) -> None:
            pass

    pipe = Pipeline(**parts)
    vars(Pipeline.__call__)["__signature__"] = call.replace(
        parameters=[Parameter("self", Parameter.POSITIONAL_ONLY), *call.parameters.values()]
    )
    assert fitting._pixels(pipe, Request(PROMPT, count=count)) == pixels


def test_pictures_that_are_explained_one_by_one_are_looked_at_one_by_one(
    tmp_path: Path, little: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--size", 256, "--steps", 1, "--out", tmp_path / "out")

    def explained(*_: Any, **__: Any) -> None:
        raise UserError("it would be painted")

    monkeypatch.setattr("t2i_xattn.commands.explain.explained", explained)
    assert "it would be painted" in run("explain", "a red circle", "--count", 64, *options)[2]
    assert "60 MB are free" in run("generate", "a red circle", "--count", 64, *options)[2]
    told = run("explain", "a red circle", "--count", 64, *options, "--size", 2048)[2]
    assert "take a smaller --size, or lift this by --no-limits" in told


@pytest.mark.parametrize(
    "command",
    [
        ("generate",),
        ("inspect",),
        ("film",),
        ("explain",),
        ("edit", "--replace", "red=blue"),
        ("edit", "--box", "circle=0,0,0.5,0.5"),
    ],
    ids=" ".join,
)
def test_commands_say_so(
    command: tuple[str, ...], tmp_path: Path, little: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--size", 1024, "--steps", 1, "--out", tmp_path / "out")
    code, shown, told = run(command[0], "a red circle", *command[1:], *options)
    assert (code, shown) == (2, "")
    assert told.count("\n") == 1
    assert "and 60 MB are free on cpu" in told
    assert not (tmp_path / "out").exists()


def test_the_limit_is_lifted_as_the_sentence_says(tmp_path: Path, little: None) -> None:
    options = ("--size", 256, "--count", 4, "--steps", 1, "--out", tmp_path / "out")
    assert run("generate", "a red circle", *options)[0] == 2
    assert run("generate", "a red circle", *options, "--no-limits")[0] == 0


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"": None, "pod": None}, None),
        ({"": None, "pod": 9_000}, 9_000 - 5_000 + 2_000),
        ({"": 8_000, "pod": 9_000}, 8_000 - 5_000 + 2_000),
        ({"": None, "pod": 1_000}, 0),
        ({}, None),
    ],
)
def test_a_container_s_limit_counts(
    limits: dict[str, int | None],
    left: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "own"
    own.write_text("12:cpu:/elsewhere\n0::/pod\n")
    groups = tmp_path / "cgroup"
    for name, limit in limits.items():
        folder = groups / name
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text("max\n" if limit is None else f"{limit}\n")
        (folder / "memory.current").write_text("5000\n")
        (folder / "memory.stat").write_text("anon 3000\nactive_file 500\ninactive_file 1500\n")
    monkeypatch.setattr("t2i_xattn.costs.memory._OWN", own)
    monkeypatch.setattr("t2i_xattn.costs.memory._CGROUPS", groups)
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert free == left if left is not None else free > 1e8
