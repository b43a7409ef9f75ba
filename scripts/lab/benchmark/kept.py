"""What a way to record holds when a run has come to its end."""

from __future__ import annotations

import gc
import warnings

import torch
from torch import Tensor

from lab.benchmark.denoisers import Loop
from lab.benchmark.modes import mode
from lab.benchmark.transformers import TransformerLoop


def held_bytes(name: str, loop: Loop | TransformerLoop, steps: int) -> int:
    """Bytes of all tensors that are alive at the end of a run in one of `MODES`, while it is still
    set up, and were not before; whoever holds them."""
    before = _storages()  # kept, so that nothing new comes to lie in their place
    with mode(name, loop):
        loop.run(steps)
        after = _storages()
    return sum(each.nbytes() for place, each in after.items() if place not in before)


def _storages() -> dict[int, torch.UntypedStorage]:
    """By where it lies, each piece of memory that a tensor is about."""
    gc.collect()
    found: dict[int, torch.UntypedStorage] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # objects that warn when they are looked at
        for each in gc.get_objects():
            # The compiler's own tensors, which are of other classes, have no memory.
            if type(each) in (Tensor, torch.nn.Parameter) and each.layout is torch.strided:
                storage = each.untyped_storage()
                found[storage.data_ptr()] = storage
    return found
