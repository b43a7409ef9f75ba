"""Families of denoisers: what is the same for all that share a layout, one small file each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from t2i_xattn.denoisers.families.unet import UNet
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.kernel.module_calls import uncompiled


class Family(Protocol):
    """Where text and picture stand in the denoisers of one layout."""

    def is_one(self, denoiser: nn.Module) -> bool:
        """Whether a denoiser is of this family."""
        ...

    def walk(self, denoiser: nn.Module) -> Iterator[tuple[AttentionSite, nn.Module]]:
        """Its attention sites with their modules, in the order of the forward pass."""
        ...

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, by name: `sample`, `timestep`, `encoder_hidden_states` …"""
        ...

    def frames(self, sample: Tensor) -> int:
        """Frames of the latents in a call; 1 for stills."""
        ...

    def grid(
        self, site: AttentionSite, queries: int, size: tuple[int, int]
    ) -> tuple[int, int] | None:
        """Height and width of a site that has so many queries for each frame, in a latent of a
        size; None if they do not fit what the denoiser is built like."""
        ...

    def takes_the_first(self, module: nn.Module) -> bool:
        """Whether a module that hands fewer rows to its kernel takes the first of the batch."""
        ...

    def streams(
        self, module: nn.Module, given: Mapping[str, Any]
    ) -> Sequence[tuple[str, int, int]]:
        """Whose keys the kernel calls of a cross-attention site have, in their order: the stream,
        which part of it, and of how many."""
        ...


FAMILIES: tuple[Family, ...] = (UNet(),)


def family_of(denoiser: nn.Module) -> Family | None:
    """The family of a denoiser; None if it is of none that is known."""
    inside = uncompiled(denoiser)
    return next((family for family in FAMILIES if family.is_one(inside)), None)
