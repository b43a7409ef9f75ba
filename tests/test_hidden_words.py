"""Words that are hidden from the denoiser while it learns."""

from __future__ import annotations

import numpy as np
import torch

from lab.training.hidden_words import END, LEAST, MOST, shown_keys

START, STOP = 1, 2


def _ids(rows: int) -> torch.Tensor:
    """Prompts of five words, begun, ended and filled up."""
    ids = torch.full((rows, 12), STOP)
    ids[:, 0] = START
    ids[:, 1:6] = torch.arange(10, 15)
    return ids


def test_the_start_is_always_shown_and_the_end_as_one() -> None:
    shown = shown_keys(_ids(500), STOP, 1.0, np.random.default_rng(0))
    assert shown[:, 0].all()
    ends = shown[:, 6:]
    assert torch.equal(ends.all(dim=1), ends.any(dim=1))
    assert 1 - END - 0.08 < ends.float().mean() < 1 - END + 0.08


def test_words_are_hidden_as_often_as_said_each_prompt_with_its_own_chance() -> None:
    shown = shown_keys(_ids(2000), STOP, 1.0, np.random.default_rng(1))[:, 1:6].float()
    middle = 1 - (LEAST + MOST) / 2
    assert torch.allclose(shown.mean(dim=0), torch.full((5,), middle), atol=0.05)
    # With one chance for all, the number of words shown would be binomial.
    assert shown.sum(dim=1).var() > 1.3 * 5 * middle * (1 - middle)


def test_a_share_of_the_prompts_is_left_whole() -> None:
    shown = shown_keys(_ids(1000), STOP, 0.3, np.random.default_rng(2))
    assert 0.66 < shown.all(dim=1).float().mean() < 0.76
    assert shown_keys(_ids(50), STOP, 0.0, np.random.default_rng(3)).all()
