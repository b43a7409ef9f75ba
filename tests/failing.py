"""Models that fail at one picture of many."""

from __future__ import annotations

from typing import Any

import torch


class Failing:
    """A UNet that fails where a run has the seed's noise of one picture, whatever its batch."""

    def __init__(self, pipe: Any, seed: int, error: Exception) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.noise, self.error = torch.randn(1, 4, 8, 8, generator=generator), error
        self.hook = pipe.unet.register_forward_pre_hook(self)

    def __call__(self, module: Any, inputs: tuple[Any, ...]) -> None:
        if any(torch.equal(each, self.noise[0]) for each in inputs[0]):
            raise self.error
