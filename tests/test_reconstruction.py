"""What an autoencoder keeps: error and colour, against autoencoders whose faults are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lab.evaluation.reconstruction import evaluate_autoencoder


class _Faulty:
    """Hands pictures on, less colourful and darker."""

    def __init__(self, colour: float, darker: float = 0.0) -> None:
        self.colour, self.darker = colour, darker
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def encode(self, images: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latents=images)

    def decode(self, latents: Tensor) -> SimpleNamespace:
        grey = latents.mean(dim=1, keepdim=True)
        return SimpleNamespace(sample=grey + self.colour * (latents - grey) - self.darker)


def test_colours_that_are_washed_out_are_told() -> None:
    found = evaluate_autoencoder(_Faulty(0.8), 6, batch=4)
    assert found.n == 6
    assert found.colourfulness == pytest.approx(0.8, abs=0.01)
    assert found.least <= found.psnr < 45


def test_psnr_is_that_of_the_error() -> None:
    # Half the range is 1, so pictures that are darker by 0.1 of it are off by 0.05.
    found = evaluate_autoencoder(_Faulty(1.0, 0.1), 3)
    assert found.psnr == pytest.approx(26.0, abs=0.5)
    assert found.colourfulness == pytest.approx(1.0, abs=0.02)
