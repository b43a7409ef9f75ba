"""torch's counter of FLOPs, told of a kernel that it leaves out."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def flop_counter() -> FlopCounterMode:
    """`FlopCounterMode` that knows the fused attention of the CPU as well.

    torch has formulas for the kernels of accelerators and for products of matrices, but none for
    `_scaled_dot_product_flash_attention_for_cpu`, which would count as nothing. It is given the
    formula that the others have.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _of_cpu})


def _of_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    # Grouped heads ask as many times as there are of the queries'.
    key, value = ((each[0], query[1], *each[2:]) for each in (key, value))
    count: int = sdpa_flop_count(query, key, value)
    return count
