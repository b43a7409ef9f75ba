"""Modes of torch that are left while something is read, where they are on.

Torch's own contexts look at much before they do nothing, and would do so at every site in every
step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_AS_IT_IS = nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Leaves autocast, under which the product of two fp32 tensors would be rounded to bf16."""
    if not torch.is_autocast_enabled(device.type):
        return _AS_IT_IS
    return torch.autocast(device_type=device.type, enabled=False)


def without_gradients() -> AbstractContextManager[object]:
    """No gradients; and no inference mode either, whose tensors could not be used with them."""
    if not torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return _AS_IT_IS
    return _without_gradients()


@contextmanager
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield
