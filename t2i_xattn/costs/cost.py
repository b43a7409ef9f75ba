"""What a run of a pipeline costs: its calls of the denoiser are seen, and none is computed."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from t2i_xattn.arguments import checked
from t2i_xattn.costs.call_cost import CallCost, seen_call
from t2i_xattn.costs.decoding import Autoencoders
from t2i_xattn.costs.fake_copy import call_key, device_of
from t2i_xattn.costs.memory import free_bytes, gigabytes
from t2i_xattn.denoisers.of_pipeline import OfPipeline, denoisers_of
from t2i_xattn.denoisers.sites import walk_sites
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.cover import restored
from t2i_xattn.kernel.module_calls import ModuleCalls, by_name, uncompiled
from t2i_xattn.progress import quiet

KINDS = ("cross", "joint", "self")

TILES = ", or have the autoencoder work in tiles (pipe.vae.enable_tiling())"

Changed = Callable[[dict[str, Any]], dict[str, Any]]
"""Other arguments for a call of the denoiser."""

Known = dict[tuple[Any, ...], tuple[CallCost, Any]]
"""By what a call's cost depends on: that, and what the call gives, without numbers."""


@dataclass(frozen=True)
class Cost:
    """A run of a pipeline.

    Attributes:
        calls: each kind of call of the denoiser once, and how often it was made.
        device: where the denoiser is computed.
        decoding_bytes: the most that making the picture of its latents holds at once, beside the
            weights; None where the pipeline makes none, or that cannot be seen.
        encoding_bytes: the same of making latents of pictures that it is given.
    """

    calls: tuple[tuple[CallCost, int], ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    decoding_bytes: int | None = None
    encoding_bytes: int | None = None

    @property
    def call(self) -> CallCost:
        """The dearest of the calls."""
        return max((each for each, _ in self.calls), key=lambda each: each.flops)

    @property
    def flops(self) -> int:
        """Of the denoiser in the whole run, by torch's counter."""
        return sum(each.flops * count for each, count in self.calls)

    @property
    def predicted_attention(self) -> int:
        """Of its attention sites in the whole run, by their sizes."""
        return sum(each.attention * count for each, count in self.calls)

    @property
    def times(self) -> int:
        """How often the denoiser is called."""
        return sum(count for _, count in self.calls)

    def parts(self) -> dict[str, int]:
        """FLOPs of the run: the kernels of each kind of attention, the layers around them, and the
        rest of the denoiser."""
        found = {
            f"{kind}-attention": sum(each.kernel_flops(kind) * n for each, n in self.calls)
            for kind in KINDS
        }
        found["projections"] = sum(
            site.layer_flops * n for each, n in self.calls for site in each.sites
        )
        found["rest"] = self.flops - sum(found.values())
        return {name: flops for name, flops in found.items() if flops or name == "rest"}

    @property
    def live_bytes(self) -> int:
        """The most that one call holds at once, beside the weights."""
        return max(each.live_bytes for each, _ in self.calls)

    def check_fits(self, free: int | None = None, advice: str | None = None) -> None:
        """Says whether a run would have room; its weights are there already.

        What the run keeps over its calls, such as maps, comes on top of what is held here.

        Args:
            free: bytes that there are; by default those of the machine now.
            advice: what to do if it has not; by default what a caller of the pipeline can.

        Raises:
            UserError: if it has not.
        """
        there = free_bytes(self.device) if free is None else free
        held, by, also = max(
            (self.live_bytes, "one call of the denoiser", ""),
            (self.decoding_bytes or 0, "making the picture of its latents", TILES),
            (self.encoding_bytes or 0, "making latents of a picture", TILES),
        )
        if there is not None and held > there:
            advice = advice or f"take a smaller size, fewer pictures or a smaller dtype{also}"
            raise UserError(
                f"expected a run that fits into memory, but {by} holds {gigabytes(held)} beside "
                f"the weights and {gigabytes(there)} are free on {self.device}; {advice}"
            )

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        free = free_bytes(self.device)
        return {
            "flops": self.flops,
            "parts": self.parts(),
            "calls_of_the_denoiser": self.times,
            "bytes": {
                "weights": self.call.weight_bytes,
                "most_in_a_call": self.live_bytes,
                "most_in_decoding": self.decoding_bytes,
                "most_in_encoding": self.encoding_bytes,
                "free": free,
            },
            "calls": [
                {
                    "times": count,
                    "flops": each.flops,
                    "computed": each.computed,
                    "sites": [site.as_json() for site in each.sites],
                }
                for each, count in self.calls
            ],
        }


@checked
def cost(pipe: Any, *args: Any, **kwargs: Any) -> Cost:
    """What a run of a pipeline would cost.

    The pipeline runs as it would, its text encoders too, but each call of its denoiser is seen on
    tensors without memory (`costs.call_cost`) and gives zeros; of calls with the same shapes one is
    seen. So is the autoencoder, which gives a small black picture, and zeros as the latents of
    one. All is as it was found afterwards, random numbers too. Other threads may use the same
    denoiser and autoencoder meanwhile; tokenizers of transformers are for one thread at a time.

    Args:
        pipe: any loaded pipeline of a family that is known.
        args, kwargs: of its call, such as `height=1024`.

    Raises:
        UserError: if it has no denoiser that is known.

    Example:
        >>> found = cost(pipe, "a lighthouse", height=1024, width=1024, num_inference_steps=25)
        >>> found.parts(), found.live_bytes
    """
    return cost_with(pipe, lambda given: given, args, kwargs)


def cost_with(
    pipe: Any,
    changed: Changed,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    known: Known | None = None,
) -> Cost:
    """The same with other arguments for the denoiser; `known` are calls that were seen before, and
    holds those of this run afterwards."""
    known = {} if known is None else known
    seeing = [_Seeing(each, changed, known) for each in denoisers_of(pipe)]

    autoencoders = Autoencoders(pipe)

    def put() -> None:
        for each in seeing:
            each.calls.link(each.module)
        autoencoders.put()

    def undo() -> None:
        autoencoders.take_off()
        for each in reversed(seeing):
            each.calls.unlink()

    given = dict(kwargs)
    takes = inspect.signature(pipe.__call__).parameters
    # Some go on with a part of the picture, and make sure that it will be one of Pillow.
    whole = kwargs.get("padding_mask_crop") is None
    if "output_type" in takes and kwargs.get("output_type") != "latent" and whole:
        given["output_type"] = "pt" if autoencoders else "latent"
    with restored(put, undo), quiet(pipe), torch.no_grad(), _random_as_it_was(pipe, args, kwargs):
        pipe(*args, **given)
    found = tuple(each for one in seeing for each in one.found())
    if not found:
        raise UserError(
            f"expected a pipeline that calls its denoiser, but {type(pipe).__name__} did not; give "
            "it a prompt and at least one step"
        )
    decoding, encoding = (autoencoders.most_bytes(name) for name in ("decode", "encode"))
    return Cost(found, seeing[0].device, decoding, encoding)


@contextmanager
def _random_as_it_was(pipe: Any, *given: Any) -> Iterator[None]:
    """Afterwards the generators that are given, and torch's own, go on from where they were."""
    leaves = pytree.tree_leaves(given)
    states = {each: each.get_state() for each in leaves if isinstance(each, torch.Generator)}
    device = torch.device(getattr(pipe, "_execution_device", "cpu"))
    accelerators = [device] if device.type in ("cuda", "xpu") else []
    try:
        with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else None):
            yield
    finally:
        for each, state in states.items():
            each.set_state(state)


class _Seeing:
    """Stands in the place of a denoiser's calls by the thread that made it; those of others are
    passed on."""

    def __init__(self, denoiser: OfPipeline, changed: Changed, known: Known) -> None:
        self.module = denoiser.module
        inside = uncompiled(self.module)
        if next(walk_sites(inside), None) is None:
            raise UserError(
                f"expected a denoiser with attention sites that are known, but came "
                f"{type(inside).__name__}; find_sites(denoiser) lists those of others"
            )
        self._changed = changed
        self.calls = ModuleCalls(self.module, self._called)
        self._known = known
        self._counts: dict[Any, int] = {}
        self._thread = threading.get_ident()
        self.device = torch.device("cpu")

    def found(self) -> list[tuple[CallCost, int]]:
        """Each kind of call, and how often it came."""
        return [(self._known[key][0], count) for key, count in self._counts.items()]

    def _called(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return method(*args, **kwargs)
        inside = uncompiled(self.module)
        given = self._changed(by_name(inside, args, kwargs))
        key = (id(inside), *call_key(dict(given)))
        if key not in self._known:
            # Copies are not covered, and a call within this one is no other: nothing is taken off,
            # as other threads may be in the midst of theirs.
            found, output = seen_call(inside, given)
            self._known[key] = found, pytree.tree_map_only(Tensor, _empty, output)
        self._counts[key] = self._counts.get(key, 0) + 1
        self.device = device_of(given)
        return pytree.tree_map_only(
            Tensor, lambda each: torch.zeros_like(each, device=self.device), self._known[key][1]
        )


def _empty(each: Tensor) -> Tensor:
    return torch.empty(each.shape, dtype=each.dtype, device="meta")
