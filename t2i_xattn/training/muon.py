"""Muon: momentum, made orthogonal, for the matrices and convolutions of a denoiser.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the size of a step is
that of Liu et al. 2025 (arXiv 2502.16982), so that learning rates are like AdamW's. Torch's own
takes matrices only; a convolution is one here, with the output channels as rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly: singular values 0.7 to 1.2.

    Newton-Schulz iteration ``X ← a X + b (X Xᵀ) X + c (X Xᵀ)² X``. Every iterate is a polynomial of
    ``X Xᵀ`` times the first, so all but two products are between small square matrices.

    Args:
        matrix: ``(rows, columns)``, fp32.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    first = matrix if wide else matrix.T
    first = first / (first.norm() + 1e-7)
    gram = first @ first.T
    a, b, c = _COEFFICIENTS

    def factor() -> Tensor:
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal().add_(a)
        return polynomial

    last = product = factor()
    for _ in range(_ITERATIONS - 1):
        # The factors are polynomials of one matrix, so they commute.
        gram = last @ gram @ last
        last = factor()
        product = last @ product
    result = product @ first
    return result if wide else result.T


class Muon(torch.optim.Optimizer):
    """Moves each parameter by its orthogonalized momentum, whose entries have a size of about 0.2.

    Args:
        groups: parameter groups of tensors with two or more axes.
        momentum: decay of the momentum (Nesterov's).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            for each in group["params"]:
                if each.grad is None:
                    continue
                state = self.state[each]
                if not state:
                    state["momentum"] = torch.zeros_like(each)
                momentum = state["momentum"].mul_(group["momentum"]).add_(each.grad)
                ahead = each.grad.add(momentum, alpha=group["momentum"]).flatten(1).float()
                size = 0.2 * max(ahead.shape) ** 0.5
                each.mul_(1 - group["lr"] * group["weight_decay"])
                each.add_(orthogonalized(ahead).view_as(each), alpha=-group["lr"] * size)


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """What Muon is for: trained matrices and convolutions.

    Without a UNet's first and last layer and without embeddings, whose rows are updated one by one;
    without those of the timestep, as they are half of its arithmetic and a tenth of the values.
    """
    tables = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    return [
        each
        for name, each in module.named_parameters()
        if each.requires_grad
        and each.dim() > 1
        and id(each) not in tables
        and not name.startswith(("conv_in", "conv_out"))
        and "time_emb" not in name
    ]
