"""Kernel calls of processors that have no fused kernel: diffusers' `AttnProcessor`,
`SlicedAttnProcessor`, their forms for IP-Adapters, and those of xFormers.

They form `(batch · heads, …)` with `attn.head_to_batch_dim`, ask `attn.get_attention_scores` for
the probs (in slices, some of them), multiply with `torch.bmm`, and go back by
`attn.batch_to_head_dim`. Those of xFormers have an operator of their own in the middle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.kernel.call import KernelCall

COVERED = (
    "head_to_batch_dim",
    "prepare_attention_mask",
    "get_attention_scores",
    "batch_to_head_dim",
)
"""The methods of an attention module that are looked at."""

_local = threading.local()


class Unfused:
    """Puts a kernel call together from what a module's methods are given while it runs."""

    def __init__(self, module: Any, receive: Callable[[KernelCall], Tensor]) -> None:
        self.module, self.receive = module, receive
        self._split: list[Tensor] = []
        self._queries: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._masks: list[Tensor] = []
        self._mask: Tensor | None = None
        self._probs: Tensor | None = None

    def __enter__(self) -> Unfused:
        self._outer = getattr(_local, "unfused", None)
        _local.unfused = self
        return self

    def __exit__(self, *exception: Any) -> None:
        _local.unfused = self._outer

    def multiplied(self, args: tuple[Any, ...]) -> None:
        """`torch.bmm` was called; if with the probs, the other factor are the values."""
        if self._probs is not None and len(args) > 1 and args[0] is self._probs:
            self._values.append(args[1])
            self._probs = None

    @staticmethod
    def head_to_batch_dim(method: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        split = method(tensor, *args, **kwargs)
        active = _active()
        if active is not None:
            active._split.append(split)
        return split

    @staticmethod
    def prepare_attention_mask(method: Any, *args: Any, **kwargs: Any) -> Any:
        mask = method(*args, **kwargs)
        active = _active()
        if active is not None:
            active._mask = mask
        return mask

    @staticmethod
    def get_attention_scores(
        method: Any, query: Tensor, key: Tensor, attention_mask: Tensor | None = None
    ) -> Any:
        probs = method(query, key, attention_mask)
        active = _active()
        if active is not None:
            active._queries.append(query)
            active._keys.append(key)
            if attention_mask is not None:
                active._masks.append(attention_mask)
            active._probs = probs
        return probs

    @staticmethod
    def batch_to_head_dim(method: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        active = _active()
        return method(tensor if active is None else active._ended(tensor), *args, **kwargs)

    def _ended(self, output: Tensor) -> Tensor:
        """What is to stand for the output `(batch · heads, queries, d)` of a whole call."""
        mask = None
        if self._queries and len(self._queries) == len(self._values):
            query, key, value = map(_whole, (self._queries, self._keys, self._values))
            mask = _whole(self._masks) if self._masks else None
        elif not self._queries and len(self._split) >= 3:
            # The operator of xFormers: keys and values are the last two that were split.
            query, key, value = self._split[0], self._split[-2], self._split[-1]
            mask = self._mask
        else:
            return output
        self._queries, self._keys, self._values, self._masks = [], [], [], []
        self._split, self._mask = self._split[:1], None
        if query.shape[:2] != output.shape[:2] or query.ndim != 3:
            return output
        heads, scale = int(self.module.heads), float(self.module.scale)
        query, key, value, split = (_heads(each, heads) for each in (query, key, value, output))
        mask = None if mask is None else _heads(mask, heads)
        call = KernelCall(query, key, value, split, mask, scale)
        made = self.receive(call)
        return output if made is call.output else made.flatten(0, 1)


def _active() -> Unfused | None:
    """The one whose module runs in this thread; nothing in a graph that is being compiled."""
    return None if torch.compiler.is_compiling() else getattr(_local, "unfused", None)


def _whole(slices: list[Tensor]) -> Tensor:
    return slices[0] if len(slices) == 1 else torch.cat(slices)


def _heads(tensor: Tensor, heads: int) -> Tensor:
    """`(batch · heads, n, d)` to `(batch, heads, n, d)`."""
    return tensor.unflatten(0, (-1, heads))
