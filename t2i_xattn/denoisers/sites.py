"""Attention sites: the attention layers of a denoiser, found and named.

Nothing here imports diffusers: the UNet is read by its attributes, and a site is a plain record
that a saved trace can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from t2i_xattn.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["cross", "self"]
Place = Literal["down", "mid", "up"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer of a UNet.

    Attributes:
        name: module name, such as `"down_blocks.0.attentions.0.transformer_blocks.0.attn2"`.
        kind: `"cross"` (queries from the picture, keys from the text) or `"self"`.
        place: part of the UNet: `"down"`, `"mid"` or `"up"`.
        level: how often the latent has been halved where the layer works; 0 is full resolution.
        heads: number of attention heads.
    """

    name: str
    kind: Kind
    place: Place
    level: int
    heads: int

    def size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Height and width of this site's map for a latent of the given size.

        Each halving rounds up, as the UNet's strided convolutions (kernel 3, stride 2, padding 1)
        do, and on the way up the UNet is forced to the sizes of the way down. So odd and non-square
        latents come out right, which a square root of the number of queries cannot promise.
        """
        height, width = latent_height, latent_width
        for _ in range(self.level):
            height, width = -(-height // 2), -(-width // 2)
        return height, width


Sites = Callable[[AttentionSite], bool] | Iterable[str]
"""A choice of sites: their names, or a function of the site that says yes or no."""


def choose_sites(sites: Sequence[AttentionSite], choice: Sites | None) -> list[AttentionSite]:
    """The sites that were asked for, in their order; all of them for None.

    Raises:
        UserError: if a name is not that of a site, or none is left.
    """
    if choice is None:
        return list(sites)
    if callable(choice):
        chosen = [site for site in sites if choice(site)]
    else:
        names = [choice] if isinstance(choice, str) else list(choice)
        known = [site.name for site in sites]
        for name in names:
            if name not in known:
                raise UserError(
                    f"expected the name of a site, but came {name!r}{nearest(name, known)}; "
                    "find_sites(pipe.unet) and trace.sites list them"
                )
        chosen = [site for site in sites if site.name in names]
    if not chosen:
        raise UserError(
            f"expected at least one site, but the choice leaves none of {len(sites)}; "
            "find_sites(pipe.unet) and trace.sites list their places and levels"
        )
    return chosen


def find_sites(unet: nn.Module, kind: Kind = "cross") -> list[AttentionSite]:
    """The attention sites of a diffusers `UNet2DConditionModel`, in the order of its forward pass.

    Args:
        unet: the denoiser; one wrapped by `torch.compile` is looked through.
        kind: `"cross"` or `"self"`.

    Returns:
        Sites of that kind, down blocks first, then the middle, then the up blocks. Empty if the
        model has none (or is not a UNet of down and up blocks).
    """
    return [site for site, _ in walk_sites(unet) if site.kind == kind]


def walk_sites(unet: nn.Module) -> Iterator[tuple[AttentionSite, nn.Module]]:
    """Every attention site with its module, in the order of the forward pass."""
    # torch.compile puts the model into a wrapper whose own module names have a prefix.
    unet = getattr(unet, "_orig_mod", unet)
    level = 0
    for index, block in enumerate(getattr(unet, "down_blocks", ())):
        yield from _block_sites(block, f"down_blocks.{index}", "down", level)
        # The halving comes after the block's layers; the last down block has none.
        level += _resamples(block, "downsamplers")
    mid_block = getattr(unet, "mid_block", None)
    if mid_block is not None:
        yield from _block_sites(mid_block, "mid_block", "mid", level)
    for index, block in enumerate(getattr(unet, "up_blocks", ())):
        yield from _block_sites(block, f"up_blocks.{index}", "up", level)
        level -= _resamples(block, "upsamplers")


def _block_sites(
    block: nn.Module, block_name: str, place: Place, level: int
) -> Iterator[tuple[AttentionSite, nn.Module]]:
    for name, module in block.named_modules(prefix=block_name):
        if hasattr(module, "set_processor") and hasattr(module, "is_cross_attention"):
            # Not by the name "attn2": with `only_cross_attention` the first layer crosses too.
            attn: Any = module
            kind: Kind = "cross" if attn.is_cross_attention else "self"
            yield AttentionSite(name, kind, place, level, int(attn.heads)), module


def _resamples(block: nn.Module, which: str) -> int:
    return 1 if getattr(block, which, None) is not None else 0
