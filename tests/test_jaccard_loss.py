"""The judge's loss of overlap, held against the IoU that is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from lab.evaluation.segmentation import class_iou, confusion
from lab.training.jaccard_loss import jaccard_loss


def _sure(seen: torch.Tensor, classes: int) -> torch.Tensor:
    """Scores of a network that is sure of what it sees."""
    return 100.0 * functional.one_hot(seen, classes).permute(0, 3, 1, 2).float()


def test_of_a_sure_network_it_is_what_mean_iou_lacks() -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (3, 8, 8), generator=random)
    mistaken = torch.rand(truth.shape, generator=random) < 0.3
    seen = torch.where(mistaken, torch.randint(0, 7, truth.shape, generator=random), truth)
    known = class_iou(confusion(seen.numpy(), truth.numpy(), 7))[:5]  # those that are there
    expected = 1 - float(np.mean(known))
    assert 0.2 < expected < 0.8
    assert float(jaccard_loss(_sure(seen, 7), truth)) == pytest.approx(expected, abs=1e-5)


def test_nothing_is_lost_where_all_is_right() -> None:
    truth = torch.randint(0, 4, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    assert float(jaccard_loss(_sure(truth, 9), truth)) == pytest.approx(0, abs=1e-5)


def test_a_class_of_few_pixels_counts_as_much_as_one_of_many() -> None:
    truth = torch.zeros(1, 10, 10, dtype=torch.long)
    truth[0, 0, 0] = 1
    # The one pixel of the second class is missed, and the first class has one pixel too many.
    loss = float(jaccard_loss(_sure(torch.zeros_like(truth), 2), truth))
    assert loss == pytest.approx(1 - (0.99 + 0) / 2, abs=1e-5)


def test_going_down_its_slope_leads_to_the_truth() -> None:
    truth = torch.randint(0, 3, (1, 6, 6), generator=torch.Generator().manual_seed(2))
    scores = torch.zeros(1, 3, 6, 6, requires_grad=True)
    for _ in range(50):
        (slope,) = torch.autograd.grad(jaccard_loss(scores, truth), scores)
        scores = (scores - 20 * slope).detach().requires_grad_()
    assert torch.equal(scores.argmax(dim=1), truth)
