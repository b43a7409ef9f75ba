"""How much a picture that stands beside the text has its way, by site, step and place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2i_xattn.denoisers.branches import BRANCHES
from t2i_xattn.denoisers.streams import TEXT, picture_stream
from t2i_xattn.edits.edit import Edit, EditContext, checked_number
from t2i_xattn.edits.picture import checked_region, region_coverage
from t2i_xattn.errors import UserError


@dataclass(frozen=True, eq=False)
class ScalePicture(Edit):
    """Scales what the places take from a picture that was given as a prompt.

    Where the picture has a softmax of its own (IP-Adapter, arXiv 2308.06721), it is λ of eq. 5,
    `Z = Attention(Q, K, V) + λ · Attention(Q, K′, V′)`, here λ(x) of a place, times what
    `set_ip_adapter_scale` says. Where its tokens stand behind the text's in one softmax
    (`condition(…, picture=…)` with `picture_tokens=…`), their shares are scaled, and the text keeps
    its own.

    Attributes:
        scale: λ; 1 changes nothing, 0 takes the picture away.
        region: where the scale holds: a box (top, left, bottom, right) in fractions of the picture,
            or a mask `(height, width)` of 0 to 1 or of bool, or a PIL picture, white inside, of any
            resolution. By default everywhere.
        outside: λ outside of the region; 1 by default.
        picture: which one: of several IP-Adapters the first has 1; tokens behind the text's are
            counted after them.
        branches: all that the run has by default, as `set_ip_adapter_scale` acts in all.

    Raises:
        UserError: at once, for a scale that is not finite or a region that cannot be; before the
            first step, if the run has no such picture. One whose own scale is 0 stays at 0.

    Example:
        >>> with edit(pipe, edits.ScalePicture(0.0, steps=(0.5, 1.0))):  # the text ends alone
        ...     pipe("in a forest at night", ip_adapter_image=picture)
    """

    per_head: ClassVar[bool] = True
    any_branch: ClassVar[bool] = True

    scale: float
    region: Any = None
    outside: float = 1.0
    picture: int = 1
    branches: str | Sequence[str] = field(default=BRANCHES, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_number(self, "scale", self.scale)
        checked_number(self, "outside", self.outside)
        if self.region is not None:
            checked_region(self.region)
        if self.words is not None:
            raise UserError(
                "expected no words=… for ScalePicture, which leaves the text's as they are; use "
                "Reweight for words"
            )
        if self.picture < 1:
            raise UserError(f"expected picture=1 or more, but came {self.picture}; 1 is the first")

    @property
    def streams(self) -> tuple[str, ...]:
        return TEXT, picture_stream(self.picture)

    def prepare(self, context: EditContext) -> Any:
        """fp32, broadcast to `(images, 1, queries, tokens)`: what the shares are multiplied by;
        None where this kernel call has none of the picture, but others of the run have."""
        own = picture_stream(self.picture)
        if context.stream == own:
            columns = torch.ones(1, 1, 1, 1)
        elif own in context.streams:
            return None
        else:
            number = self.picture - sum(each != TEXT for each in context.streams)
            columns = torch.zeros(len(context.words), 1, 1, context.tokens)
            for image, words in enumerate(context.words):
                of_picture = [each for each in words if each.source == "picture"]
                for word in of_picture[number - 1 : number]:
                    columns[image, ..., list(word.columns)] = 1
            if not columns.any():
                self._tell_missing(context)
        scale = torch.tensor(float(self.scale))
        if self.region is not None:
            inside = region_coverage(checked_region(self.region), context).flatten()[:, None]
            scale = self.scale * inside + self.outside * (1 - inside)
        return (1 + columns * (scale - 1)).to(context.device)

    def _tell_missing(self, context: EditContext) -> None:
        raise UserError(
            f"expected a run with a picture {self.picture} beside its text at {context.site.name} "
            "for ScalePicture, but there is none that can be scaled; give ip_adapter_image=… to a "
            "UNet with an IP-Adapter (those of FLUX and SD3 cannot be scaled), or "
            "condition(…, picture=…, picture_tokens=…)"
        )

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        return probs if prepared is None else probs * prepared
