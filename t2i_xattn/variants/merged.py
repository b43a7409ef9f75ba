"""Places of the picture that are alike, merged for self-attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.families.unet import size_of
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.variants.variant import Found, RunningVariant, Variant, check_number


@dataclass(frozen=True, eq=False)
class MergedPlaces(Variant):
    """Merges a part of the places before self-attention and spreads what came back over them.

    ToMe for Stable Diffusion (Bolya and Hoffman 2023, "Token Merging for Fast Stable Diffusion",
    arXiv 2303.17604), with the matching of their package `tomesd` (`pip install
    't2i-xattn[merging]'`). The package patches the classes of blocks; here the matching alone is
    used, around the attention modules, and is gone with the context.

    Maps of self-attention cannot be recorded at these sites, as their places are no grid any more;
    `record` says so.

    Attributes:
        ratio: of the places that are merged into others, above 0 and below 1; of every 2 × 2 places
            one stays, so more than 0.75 merges no more.
        levels: at how many of a UNet's levels that have self-attention, from the finest on.
        seed: of the choice which place of 2 × 2 the others are merged into.
    """

    takes: ClassVar[str] = "the places of self-attention"
    error: ClassVar[str] = "places that are alike are one; measured on pictures"

    ratio: float = 0.5
    levels: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ratio of MergedPlaces", self.ratio, 0, 1, open_ends=True)
        if self.levels < 1:
            raise UserError(f"expected levels=1 or more for MergedPlaces, but came {self.levels}")
        if find_spec("tomesd") is None:
            raise UserError(
                "expected the package tomesd for MergedPlaces, but it is not installed; "
                "pip install 't2i-xattn[merging]'"
            )

    @property
    def fits(self) -> str:
        return "the self-attention of a UNet"

    def sites(self, found: Found) -> Found:
        own = [(s, m) for s, m in found if s.kind == "self" and s.level is not None]
        levels = sorted({site.level for site, _ in own if site.level is not None})[: self.levels]
        return [(site, module) for site, module in own if site.level in levels]

    def running(self, found: Found) -> RunningVariant:
        return _Merging(self.ratio, self.seed)


class _Merging(RunningVariant):
    def __init__(self, ratio: float, seed: int) -> None:
        self._ratio = ratio
        self._drawn = torch.Generator().manual_seed(seed)

    def around(
        self,
        site: AttentionSite,
        module: nn.Module,
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        from tomesd.merge import bipartite_soft_matching_random2d

        states = args[0] if args else kwargs.pop("hidden_states")
        size = size_of(site, states.shape[1], self.now.call.latent_size)
        if not isinstance(states, Tensor) or states.ndim != 3 or size is None:
            raise UserError(
                f"expected the places of a picture at {site.name} to merge, but came states of "
                f"shape {tuple(states.shape)}; leave MergedPlaces out"
            )
        height, width = size
        if min(height, width) < 2:
            return forward(states, *args[1:], **kwargs)
        merge, unmerge = bipartite_soft_matching_random2d(
            states, width, height, 2, 2, int(states.shape[1] * self._ratio), generator=self._drawn
        )
        return unmerge(forward(merge(states), *args[1:], **kwargs))
