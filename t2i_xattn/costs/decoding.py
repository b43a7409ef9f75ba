"""What making a picture of its latents holds, and latents of a picture, seen as a denoiser's call
is: without numbers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from t2i_xattn.costs.fake_copy import CANNOT, call_key, device_of, without_numbers
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.kernel.cover import Cover

_SIDE = 8
"""Of the black picture, in pixels, with which a pipeline goes on."""


class Autoencoders:
    """Stands in the place of the `encode` and `decode` of a pipeline's autoencoders, where the
    thread that made it calls them; others are passed on.
    """

    def __init__(self, pipe: Any) -> None:
        """Changes nothing yet; see `put`."""
        parts = {id(each): each for each in vars(pipe).values() if _decodes(each)}
        self._covers = [
            Cover(each, name, partial(self._called, each, name))
            for each in parts.values()
            for name in ("encode", "decode")
            if callable(getattr(each, name, None))
        ]
        self._thread = threading.get_ident()
        self._found: dict[str, list[int | None]] = {}
        self._known: dict[tuple[Any, ...], tuple[int | None, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._covers)

    def put(self) -> None:
        """Covers them."""
        for each in self._covers:
            each.put()

    def take_off(self) -> None:
        """Gives everything back; may be called again."""
        for each in reversed(self._covers):
            each.take_off()

    def most_bytes(self, name: str) -> int | None:
        """The most that a call of `"encode"` or `"decode"` held at once, beside the weights; None
        where none was made, or one could not be seen."""
        found = self._found.get(name, [])
        known = [each for each in found if each is not None]
        return max(known) if known and len(known) == len(found) else None

    def _called(
        self, module: nn.Module, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if threading.get_ident() != self._thread:
            return method(*args, **kwargs)
        key = id(module), name, *call_key((args, kwargs))
        if key not in self._known:  # pictures are often encoded one by one
            self._known[key] = seen_method(module, name, *args, **kwargs)
        held, made = self._known[key]
        self._found.setdefault(name, []).append(held)
        device = device_of((args, kwargs))
        if name == "encode":
            return method(*args, **kwargs) if held is None else _as_zeros(made, device)
        if held is None:  # of one place, for its channels and frames
            args, kwargs = pytree.tree_map_only(Tensor, _one_place, (args, kwargs))
            return method(*args, **kwargs)
        return pytree.tree_map_only(Tensor, partial(_small, device=device), made)


def seen_method(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> tuple[int | None, Any]:
    """The bytes that a method of an autoencoder holds at once, beside its weights and what it is
    given, and what it gives, without numbers; twice None where it cannot be seen without
    computing."""

    def look(fake: Any, inputs: Any) -> tuple[int, Any]:
        positional, named = inputs
        with LiveBytes() as live:
            made = getattr(fake, name)(*positional, **named)
        return live.most, made

    try:
        return without_numbers(module, (args, kwargs), look)
    except CANNOT:
        return None, None


def _as_zeros(made: Any, device: torch.device) -> Any:
    """What `encode` gave, of zeros: latents, or a distribution that holds its numbers as
    attributes and is asked for them."""

    def real(each: Any) -> Any:
        if isinstance(each, Tensor):
            return torch.zeros(each.shape, dtype=each.dtype, device=device)
        own = getattr(each, "__dict__", {})
        numbers = {name: real(one) for name, one in own.items() if isinstance(one, Tensor)}
        if not numbers:
            return each
        other = copy.copy(each)
        vars(other).update(numbers)
        return other

    return pytree.tree_map(real, made)


def _one_place(given: Tensor) -> Tensor:
    return given[..., :1, :1] if given.ndim >= 4 else given


def _small(picture: Tensor, device: torch.device) -> Tensor:
    return torch.zeros(*picture.shape[:-2], _SIDE, _SIDE, dtype=picture.dtype, device=device)


def _decodes(part: Any) -> bool:
    return isinstance(part, nn.Module) and callable(getattr(part, "decode", None))
