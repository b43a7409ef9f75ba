"""Muon against the exact polar factor, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lab.training.muon import Muon, hidden_matrices, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalized(matrix)
    assert result.shape == matrix.shape
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.min() <= values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    aligned = left.T @ result @ right.T
    assert (aligned - torch.diag(aligned.diagonal())).abs().max() < 1e-3


def test_it_equals_the_iteration_written_out() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(5, 12, dtype=torch.float64)
    expected = matrix / matrix.norm()
    for _ in range(5):
        square = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * square + 2.0315 * square @ square) @ expected
    assert torch.allclose(orthogonalized(matrix), expected, atol=1e-6)


def test_a_step_has_the_size_of_the_learning_rate() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3)
    before = layer.weight.detach().clone()
    layer(torch.randn(2, 8, 5, 5)).square().sum().backward()
    assert layer.weight.grad is not None
    optimizer = Muon([{"params": [layer.weight], "lr": 0.01}])
    optimizer.step()
    moved = layer.weight.detach() - before
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.35)
    assert (moved * layer.weight.grad).sum() < 0  # downhill


def test_only_hidden_matrices() -> None:
    module = nn.ModuleDict(
        {"conv_in": nn.Conv2d(1, 4, 3), "hidden": nn.Linear(4, 4), "conv_out": nn.Conv2d(4, 1, 3)}
    )
    assert [id(each) for each in hidden_matrices(module)] == [id(module["hidden"].weight)]
    module.requires_grad_(False)
    assert hidden_matrices(module) == []
