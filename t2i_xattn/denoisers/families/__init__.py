"""Families of denoisers: what is the same for all that share a layout, one small file each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall, Grid
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.module_calls import uncompiled
from t2i_xattn.kernel.shares import Portion


@dataclass(frozen=True)
class Reading:
    """What a kernel call at a site is about.

    Attributes:
        grid: how its places lie; None where they fit no grid.
        stream, part, parts: whose keys, which of the stream's kernel calls it is, and of how many.
        portion: where places and text stand, in a kernel call that has other keys too; None: its
            queries are the places and its keys the stream's, all of them.
        problem: why its probs cannot be read as maps of the pictures; None if they can.
    """

    grid: Grid | None
    stream: str = TEXT
    part: int = 0
    parts: int = 1
    portion: Portion | None = None
    problem: str | None = None


class Family(Protocol):
    """Where text and picture stand in the denoisers of one layout."""

    def is_one(self, denoiser: nn.Module) -> bool:
        """Whether a denoiser is of this family."""
        ...

    def walk(self, denoiser: nn.Module) -> Iterator[tuple[AttentionSite, nn.Module]]:
        """Its attention sites with their modules, in the order of the forward pass."""
        ...

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> DenoiserCall | None:
        """A call of the denoiser by what it means; None where it is given no text.

        Args:
            denoiser: the module itself, not what it was compiled to.
            given: the arguments, by name.

        Raises:
            UserError: if they are not what it is known to be given.
        """
        ...

    def aside(self, denoiser: nn.Module, given: Mapping[str, Any]) -> bool:
        """Whether a call, given by its arguments, is about no text: one that keeps the keys of a
        reference, say. Nobody follows it."""
        ...

    def with_sample(self, given: Mapping[str, Any], sample: Tensor) -> dict[str, Any]:
        """The arguments with other latents."""
        ...

    def reading(
        self, site: AttentionSite, module: nn.Module, kernel: KernelCall, number: int, call: Any
    ) -> Reading:
        """What a kernel call is about.

        Args:
            site: where it is.
            module: the attention module there.
            kernel: the kernel call.
            number: how many the site has had before in this call of the denoiser.
            call: of the denoiser.
        """
        ...

    def streams_at(self, site: AttentionSite, module: nn.Module, call: Any) -> tuple[str, ...]:
        """Whose keys the kernel calls of a site may be about in the run that a call of the denoiser
        is of: those of IP-Adapters too whose scale is 0 in it, since that may change."""
        ...


def family_of(denoiser: nn.Module) -> Family | None:
    """The family of a denoiser; None if it is of none that is known."""
    from t2i_xattn.denoisers.families.known import FAMILIES

    inside = uncompiled(denoiser)
    return next((family for family in FAMILIES if family.is_one(inside)), None)
