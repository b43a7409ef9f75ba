"""What making a picture of its latents holds, seen as a denoiser's call is: without numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from t2i_xattn.costs.fake_copy import device_of, fake_copy
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.kernel.cover import Cover

_SIDE = 8
"""Of the black picture, in pixels, with which a pipeline goes on."""


class Decoders:
    """Stands in the place of the `decode` of a pipeline's autoencoders.

    Attributes:
        most_bytes: the most that a call held at once, beside the weights; None where none was
            made, or one could not be seen.
    """

    def __init__(self, pipe: Any) -> None:
        """Changes nothing yet; see `put`."""
        parts = {id(each): each for each in vars(pipe).values() if _decodes(each)}
        self._covers = [Cover(each, "decode", partial(self._seen, each)) for each in parts.values()]
        self._found: list[int | None] = []

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

    @property
    def most_bytes(self) -> int | None:
        known = [each for each in self._found if each is not None]
        return max(known) if known and len(known) == len(self._found) else None

    def _seen(
        self, decoder: nn.Module, decode: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        held, pictures = seen_decoding(decoder, *args, **kwargs)
        self._found.append(held)
        if held is None:  # of one place, for its channels and frames
            args, kwargs = pytree.tree_map_only(Tensor, _one_place, (args, kwargs))
            return decode(*args, **kwargs)
        device = device_of((args, kwargs))
        return pytree.tree_map_only(Tensor, partial(_small, device=device), pictures)


def seen_decoding(decoder: nn.Module, *args: Any, **kwargs: Any) -> tuple[int | None, Any]:
    """The bytes that `decoder.decode` holds at once, beside its weights and what it is given, and
    what it gives, without numbers; twice None where it cannot be seen without computing."""
    mode = FakeTensorMode()
    try:
        with torch.no_grad():
            fake = fake_copy(decoder, mode, (args, kwargs))
            args, kwargs = pytree.tree_map_only(Tensor, mode.from_tensor, (args, kwargs))
            with mode, LiveBytes() as live:
                pictures = fake.decode(*args, **kwargs)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError, ValueError):
        return None, None
    return live.most, pictures


def _one_place(given: Tensor) -> Tensor:
    return given[..., :1, :1] if given.ndim >= 4 else given


def _small(picture: Tensor, device: torch.device) -> Tensor:
    return torch.zeros(*picture.shape[:-2], _SIDE, _SIDE, dtype=picture.dtype, device=device)


def _decodes(part: Any) -> bool:
    return isinstance(part, nn.Module) and callable(getattr(part, "decode", None))
