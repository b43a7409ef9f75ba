"""Attention sites: the attention modules of a denoiser, found and named.

Nothing here imports diffusers or torch: a site is a plain record that a saved trace can carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from t2i_xattn.arguments import checked
from t2i_xattn.errors import UserError, nearest, shown

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["cross", "joint", "self"]
Place = Literal["down", "mid", "up"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention module of a denoiser.

    Attributes:
        name: module name, such as `"down_blocks.0.attentions.0.transformer_blocks.0.attn2"`.
        kind: `"cross"` (queries from the picture, keys from the text), `"joint"` (text and picture
            look at both) or `"self"`.
        depth: its place among the sites that read the text, or among those that do not; 0 the first
            of the forward pass.
        place: part of a UNet: `"down"`, `"mid"` or `"up"`; None for other denoisers.
        level: in a UNet, how often the latent has been halved before; 0 is full resolution. None
            for other denoisers.
        heads: number of attention heads.
    """

    name: str
    kind: Kind
    depth: int
    place: Place | None
    level: int | None
    heads: int

    @property
    def reads_text(self) -> bool:
        """Whether the picture looks at the text here."""
        return self.kind != "self"


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
        names = [choice] if isinstance(choice, str) else _names(choice)
        known = [site.name for site in sites]
        for name in names:
            if name not in known:
                near = nearest(name, known)
                raise UserError(
                    f"expected the name of a site, but came {shown(name, 120)}{near}; "
                    "find_sites(denoiser) and trace.sites list them"
                )
        chosen = [site for site in sites if site.name in names]
    if not chosen:
        raise UserError(
            f"expected at least one site, but the choice leaves none of {len(sites)}; "
            "find_sites(denoiser) and trace.sites list their places and levels"
        )
    return chosen


def _names(choice: Iterable[str]) -> list[str]:
    try:
        given = iter(choice)
    except TypeError:
        given = iter([choice])  # type: ignore[list-item]
    names = []
    for name in given:
        if not isinstance(name, str):
            raise UserError(
                "expected sites as their names, or as a function of a site that says yes or no, "
                f"but came {shown(name)}; find_sites(denoiser) and trace.sites list the names"
            )
        names.append(name)
    return names


@checked
def find_sites(denoiser: nn.Module, kind: Kind | Literal["text"] = "text") -> list[AttentionSite]:
    """The attention sites of a denoiser, in the order of its forward pass.

    Args:
        denoiser: such as `pipe.unet` or `pipe.transformer`; one wrapped by `torch.compile` is
            looked through.
        kind: `"text"`: where the picture looks at the text, which is in cross-attention (`"cross"`)
            and in joint attention (`"joint"`); or `"self"`.

    Returns:
        Sites of that kind. Empty if the denoiser has none, or is of no family that is known.
    """
    return [
        site
        for site, _ in walk_sites(denoiser)
        if site.kind == kind or (kind == "text" and site.reads_text)
    ]


def walk_sites(denoiser: nn.Module) -> Iterator[tuple[AttentionSite, nn.Module]]:
    """Every attention site with its module, in the order of the forward pass."""
    from t2i_xattn.denoisers.families import family_of
    from t2i_xattn.kernel.module_calls import uncompiled

    family = family_of(denoiser)
    if family is not None:
        yield from family.walk(uncompiled(denoiser))
