"""What does not fit into memory is told before it runs, with the number."""

from __future__ import annotations

from pathlib import Path
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
        found = cost(pipe, PROMPT, num_inference_steps=1, height=512, width=512, **several)
        assert found.decoding_bytes is not None
        return found.decoding_bytes

    several = {"num_images_per_prompt": 4}
    together = held()
    pipe.vae.enable_slicing()
    one_by_one = held()
    assert one_by_one < 0.5 * together
    found = cost(pipe, PROMPT, num_inference_steps=1, height=512, width=512)
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
