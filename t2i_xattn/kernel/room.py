"""In which precision products are formed, so that none leaves its range."""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = torch.finfo(torch.float32).max


def roomy(*factors: Tensor, times: float = 1.0) -> torch.dtype:
    """fp32; fp64 where factors or their products, summed up, could leave fp32's range.

    bfloat16 holds numbers up to 3 · 10³⁸, whose products fp32 does not. float16 ends at 65504: of
    such factors, sums of thousands of products are far from it. A model in fp32 has the same room
    as its own kernel, and pays nothing here.

    It is asked on a CPU only, and not in a compiled graph: the answer of a GPU would have to be
    waited for at every site in every step. There, products beyond 3 · 10³⁸ are not finite; nor is
    then what the model's own kernel makes of them.

    Args:
        factors: of the products.
        times: how many products are summed up, and what they are multiplied with.
    """
    if torch.compiler.is_compiling() or factors[0].device.type != "cpu":
        return torch.float32
    if all(each.dtype != torch.bfloat16 for each in factors):
        return torch.float32
    product = alone = times
    for each in factors:
        if not each.numel():
            return torch.float32
        lowest, highest = torch.aminmax(each.detach())
        largest = max(-float(lowest), float(highest))
        product, alone = product * largest, max(alone, times * largest)
    return torch.float64 if max(product, alone) > _LARGEST else torch.float32
