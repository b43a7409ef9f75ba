"""One denoiser that is recorded: which of its attention sites, and what is kept of each."""

from __future__ import annotations

import dataclasses

from torch import nn

from t2i_xattn.denoisers.followed_denoiser import FollowedDenoiser
from t2i_xattn.denoisers.sites import AttentionSite, walk_sites
from t2i_xattn.denoisers.wrapping import RecordingProcessor, unrecordable
from t2i_xattn.errors import UserError
from t2i_xattn.recording.keep import Keep
from t2i_xattn.recording.store import MapStore


class DenoiserCalls(FollowedDenoiser):
    """One denoiser (a UNet, or a ControlNet) while its calls are recorded.

    Attributes:
        modules: the sites that can be recorded, with their attention layers.
        store: what is kept; set before the first call by `keep_sites`.
    """

    wrapper = RecordingProcessor
    way_out = 'record(pipe, unrecordable="skip")'

    def __init__(self, denoiser: nn.Module, prefix: str = "", skip_unrecordable: bool = False):
        """
        Args:
            denoiser: a UNet or ControlNet of diffusers.
            prefix: set before the names of its sites.
            skip_unrecordable: leave out what cannot be recorded, instead of raising.

        Raises:
            UserError: if it has no cross-attention, or some that cannot be recorded.
        """
        super().__init__(denoiser, prefix)
        self.modules = [
            (dataclasses.replace(site, name=prefix + site.name), attn)
            for site, attn in walk_sites(denoiser)
            if site.kind == "cross"
        ]
        if not self.modules:
            raise UserError(
                f"expected a UNet with cross-attention, but {type(denoiser).__name__} has none; "
                "record a pipeline whose pictures are conditioned on text"
            )
        if skip_unrecordable:
            self.modules = [each for each in self.modules if unrecordable(each[1]) is None]
        for site, attn in self.modules:
            self._check(site.name, attn)
        if not self.modules:
            raise UserError(
                f"expected a site that can be recorded, but {type(denoiser).__name__} has none; "
                'without unrecordable="skip" the reason is told'
            )
        self.consumer = self.store = MapStore((), Keep())

    @property
    def sites(self) -> list[AttentionSite]:
        """All the sites that can be recorded, in forward order."""
        return [site for site, _ in self.modules]

    def keep_sites(self, sites: list[AttentionSite], keep: Keep) -> None:
        """Decides what is kept: these of its sites."""
        names = {site.name for site in sites}
        self.modules = [(site, attn) for site, attn in self.modules if site.name in names]
        self.layers = [(site.name, attn) for site, attn in self.modules]
        partners: dict[str, str] = {}
        if keep.needs_self_attention:
            # In a transformer block of diffusers, attn1 looks at the picture, attn2 at the text.
            own = {
                site.name: attn for site, attn in walk_sites(self.denoiser) if site.kind == "self"
            }
            for site, _ in self.modules:
                partner = site.name.removesuffix("attn2") + "attn1"
                inside = partner.removeprefix(self.prefix)
                if inside not in own:
                    raise UserError(
                        f"expected self-attention beside {site.name} to read, but its block has "
                        "none; leave that site out with sites=…, or read without it (walk=0)"
                    )
                self._check(partner, own[inside])
                partners[site.name] = partner
                self.layers.append((partner, own[inside]))
        self.consumer = self.store = MapStore(self.sites, keep, partners)
