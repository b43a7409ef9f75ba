"""What is kept of a run: one sum of maps a site, however many steps there are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.sites import AttentionSite


class MapStore:
    """Head-mean probs of each site, summed over the UNet calls of one run.

    Memory is fixed by the first call: fp32 times images × queries × tokens for each site, the same
    for 4 steps and for 400.

    Attributes:
        sites: the sites kept, in forward order.
        sums: by site name, `(images, queries, tokens)` fp32 on the denoiser's device. Empty before
            the first call.
        latent_size: height and width of the latent; None before the first call.
        calls: UNet calls begun.
        finished: UNet calls that ran to their end.
        timesteps: the noise level of each call, as handed to the UNet.
    """

    def __init__(self, sites: Sequence[AttentionSite]) -> None:
        self.sites = tuple(sites)
        self.sums: dict[str, Tensor] = {}
        self.latent_size: tuple[int, int] | None = None
        self.calls = 0
        self.finished = 0
        self.timesteps: list[Tensor | float] = []
        self._shape: tuple[int, ...] | None = None

    def begin_call(
        self,
        latent_size: tuple[int, int],
        images: int,
        tokens: int,
        timestep: Tensor | float,
        device: torch.device,
    ) -> None:
        """Counts a UNet call; the first one allocates.

        Raises:
            UserError: if a later call has another number of images, size or number of tokens.
        """
        shape = (images, *latent_size, tokens)
        if self._shape is None:
            self._shape, self.latent_size = shape, latent_size
            for site in self.sites:
                height, width = site.size(*latent_size)
                self.sums[site.name] = torch.zeros(
                    (images, height * width, tokens), dtype=torch.float32, device=device
                )
        elif shape != self._shape:
            raise UserError(
                "expected every UNet call of a run to have the same images, latent height, latent "
                f"width and tokens {self._shape}, but came {shape}; record each run on its own"
            )
        self.calls += 1
        # Kept as it came: reading a number off a GPU would wait for it at every step.
        self.timesteps.append(timestep)

    def end_call(self) -> None:
        """Notes that the call ran through all its sites."""
        self.finished += 1

    @property
    def nbytes(self) -> int:
        """Bytes held for maps on the denoiser's device."""
        return sum(total.nbytes for total in self.sums.values())

    def means(self) -> dict[str, NDArray[np.float32]]:
        """By site name, the mean over calls: `(images, height, width, tokens)`, shares 0 to 1.

        Raises:
            UserError: if nothing was recorded, if the run broke off inside a UNet call, or if a
                site was not reached at every call, so that a mean would be wrong.
        """
        if self.latent_size is None:
            raise UserError(
                "expected a recorded run, but the pipeline has not run yet; call it inside "
                "`with record(pipe) as trace:` before reading the maps"
            )
        if self.calls != self.finished:
            raise UserError(
                f"expected a run that ended, but it broke off inside UNet call {self.calls}; "
                "record it again"
            )
        means = {}
        for site in self.sites:
            total = self.sums[site.name]
            # Each call adds 1 at every location (0 where all tokens are masked).
            recorded = float(total.sum(dim=-1).max())
            if math.isnan(recorded):
                raise UserError(
                    f"expected numbers at {site.name}, but the model gave NaN there; run it in "
                    "bfloat16 or float32 instead of float16"
                )
            if abs(recorded - self.calls) > 1e-3 * self.calls:
                raise UserError(
                    f"expected {self.calls} calls at {site.name}, but {recorded:.3g} were "
                    "recorded; its processor was replaced or its block skipped during the run: "
                    "install adapters before `record`, and open it again"
                )
            shape = (total.shape[0], *site.size(*self.latent_size), total.shape[2])
            means[site.name] = (total / self.calls).reshape(shape).cpu().numpy()
        return means
