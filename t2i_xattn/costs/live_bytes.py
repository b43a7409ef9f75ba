"""The most bytes of tensors that were alive at once while something ran."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Follows the tensors that operators give, of real runs and of runs with fake tensors.

    What was there before (weights, what came in) is not counted, nor the room that a kernel takes
    for itself while it runs.

    Attributes:
        now, most: bytes alive, and the most that were at any moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        before = {
            id(each.untyped_storage())
            for each in pytree.tree_leaves((args, kwargs))
            if isinstance(each, Tensor)
        }
        for each in pytree.tree_leaves(made):
            if isinstance(each, Tensor) and id(each.untyped_storage()) not in before:
                self._note(each.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)
