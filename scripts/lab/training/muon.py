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
        matrix: ``(rows, columns)``, or several of one shape: ``(matrices, rows, columns)``; fp32.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    first = matrix if wide else matrix.mT
    first = first / (first.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = first @ first.mT
    a, b, c = _COEFFICIENTS

    def factor() -> Tensor:
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        return polynomial

    last = product = factor()
    for _ in range(_ITERATIONS - 1):
        # The factors are polynomials of one matrix, so they commute.
        gram = last @ gram @ last
        last = factor()
        product = last @ product
    result = product @ first
    return result if wide else result.mT


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
            # Matrices of one shape go together: on an accelerator one by one would be slow.
            alike: dict[tuple[int, int], list[nn.Parameter]] = {}
            for each in group["params"]:
                if each.grad is not None:
                    alike.setdefault((len(each), each[0].numel()), []).append(each)
            for shape, parameters in alike.items():
                self._step(parameters, shape, group)

    def _step(
        self, parameters: list[nn.Parameter], shape: tuple[int, int], group: dict[str, Any]
    ) -> None:
        for each in parameters:
            if not self.state[each]:
                self.state[each]["momentum"] = torch.zeros_like(each)
        momenta = [self.state[each]["momentum"] for each in parameters]
        gradients = [each.grad for each in parameters if each.grad is not None]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        moved = orthogonalized(torch.stack([each.flatten(1).float() for each in ahead]))
        moves = [one.view_as(each) for one, each in zip(moved, parameters, strict=True)]
        values: list[Tensor] = [*parameters]
        torch._foreach_mul_(values, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(values, moves, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


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
