"""What keeping the text's keys and values saves: counted at the models' own shapes, and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from lab.benchmark.denoisers import UNETS, Loop, make_loop
from lab.benchmark.timing import Ratio, ratio, time_in_turn
from t2i_xattn.costs.call_cost import CallCost, counted_call
from t2i_xattn.costs.counter import flop_counter
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.errors import UserError
from t2i_xattn.variants import KeptKeys
from t2i_xattn.variants.cheaper import cheaper


@dataclass(frozen=True)
class Counted:
    """Of one guided call of a denoiser in fp32.

    Attributes:
        flops: of the call.
        keys_and_values: of them, those that make keys and values of the text.
        kept_bytes: what is held of these over the steps.
        live_bytes: the most that a call holds at once beside its weights.
    """

    flops: int
    keys_and_values: int
    kept_bytes: int
    live_bytes: int


def counted(unet: str, pixels: int, tokens: int) -> Counted:
    """The figures of a UNet at a size, seen without computing."""
    with FakeTensorMode(), torch.no_grad():
        module: Any = UNet2DConditionModel(**UNETS[unet]).eval()
        call, _ = counted_call(module, _given(module.config, pixels // 8, tokens))
    made = [layer for layer in _of_text(call) if layer.name in ("to_k", "to_v")]
    kept = sum(4 * layer.vectors * layer.outside for layer in made)
    return Counted(call.flops, sum(each.flops for each in made), kept, call.live_bytes)


def _given(config: Any, side: int, tokens: int) -> dict[str, Any]:
    """The arguments of a guided call."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape)

    given: dict[str, Any] = {
        "sample": empty(2, 4, side, side),
        "timestep": 1,
        "encoder_hidden_states": empty(2, tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given["added_cond_kwargs"] = {"text_embeds": empty(2, width), "time_ids": empty(2, 6)}
    return given


def _of_text(call: CallCost) -> Iterator[Any]:
    for site in call.sites:
        if site.site.kind == "cross":
            yield from site.layers


@dataclass(frozen=True)
class Timed:
    """Kept against plain.

    Attributes:
        time: of a run.
        flops: of a run, the ratio by torch's counter.
        live: the most bytes of tensors at once, the ratio.
        same: whether the latents have the same bytes.
    """

    time: Ratio
    flops: float
    live: float
    same: bool


def timed(
    unet: str, pixels: int, tokens: int, steps: int, pairs: int, clock: Callable[[], float]
) -> Timed:
    """Runs of a loop in fp32, plain and with keys and values kept, in turn."""
    loop = make_loop(unet, pixels=pixels, tokens=tokens, dtype=torch.float32)
    if not isinstance(loop, Loop):
        raise UserError(f"expected a UNet, but came {unet!r}; such as sd15-few")

    def enter(name: str) -> AbstractContextManager[None]:
        return cheaper(loop, KeptKeys()) if name == "kept" else nullcontext()

    figures: dict[str, tuple[int, int]] = {}
    latents = {}
    for name in ("plain", "kept"):
        counter, live = flop_counter(), LiveBytes()
        with enter(name), counter, live:
            latents[name] = loop.run(steps)
        figures[name] = counter.get_total_flops(), live.most
    turns = time_in_turn(lambda: loop.run(steps), ("plain", "kept"), enter, pairs, clock=clock)
    *_, seconds = turns
    (flops, most), (kept_flops, kept_most) = figures["plain"], figures["kept"]
    return Timed(
        ratio(seconds["kept"], seconds["plain"]),
        kept_flops / flops,
        kept_most / most,
        torch.equal(latents["plain"], latents["kept"]),
    )
