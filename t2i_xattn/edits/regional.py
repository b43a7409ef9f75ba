"""Regional prompts: parts of the picture with a text of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.denoisers.seen import Attend
from t2i_xattn.edits.edit import Edit, EditContext, checked_number
from t2i_xattn.edits.picture import checked_region, region_coverage
from t2i_xattn.errors import UserError


@dataclass(frozen=True, eq=False)
class RegionalPrompts(Edit):
    """In each region, the places look at a text of its own as well as at the prompt.

    At a site, with O the output of the attention to the prompt and O_r that to the text of region
    r, a place i that lies in the regions by c_r(i), from 0 to 1, gets

        O′_i = (1 − u_i) O_i + u_i Σ_r c_r(i) O_{r,i} / Σ_r c_r(i)
        u_i = (1 − base_weight) · min(1, Σ_r c_r(i))

    So inside a region it is the mean of both with the weights `base_weight` and 1 − `base_weight`,
    where regions overlap their texts share the latter, and where there is none it is the prompt's
    alone. Known as regional prompting or attention coupling (the extensions Regional Prompter and
    Attention Couple); the base ratio also from RPG (Yang et al., arXiv 2401.11708), which takes the
    mean of latents. The masks of MultiDiffusion (arXiv 2302.08113) are another thing: there every
    region has a denoiser's call of its own.

    In joint attention (FLUX, FLUX.2, Chroma, SD3, Qwen-Image) O is what the place takes from the
    text and from the picture, and each text goes through the blocks beside the prompt's, seeing the
    whole picture. (Chen et al., arXiv 2411.02395, mask who sees whom in FLUX, and blend latents.)

    The pipeline's own `encode_prompt` encodes the texts at the beginning of each run, with the
    LoRA scale and clip skip of the run. Of SDXL's two ways in, the pooled embedding stays the
    prompt's. Other edits act on the attention to the prompt, whatever their order, and traces hold
    that attention only. One text in two places takes a mask of both.

    A text says what its region shows and hardly where in it: a model whose lone objects stand in
    the middle paints half of one there. `guide` with `Layout` places the objects of the prompt.

    Attributes:
        regions: for each text, its region: a box (top, left, bottom, right) in fractions of the
            picture; or a mask `(height, width)` of 0 to 1 or of bool, or a PIL picture, white
            inside, of the picture's aspect and of any resolution.
        base_weight: of the prompt inside the regions, 0 to 1; 1 changes nothing. Less than the
            usual half loosens how the regions fit together.

    Raises:
        UserError: at once, for no region, what is no text, a region that cannot be (see
            `Restrict`), another weight; as `edit` opens, for a denoiser that takes no other text
            or is compiled as a whole; before the first step, for a mask of another aspect, a text
            that is too long for the text encoder, a pipeline that has no `encode_prompt`.

    Example:
        >>> sides = {"a red circle": (0, 0, 1, 0.5), "a blue star": (0, 0.5, 1, 1)}
        >>> with edit(pipe, RegionalPrompts(sides)):
        ...     image = pipe("a red circle left of a blue star").images[0]
    """

    regions: Mapping[str, Any]
    _: KW_ONLY
    base_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.regions, Mapping) or not self.regions:
            raise UserError(
                "expected regions={text: (top, left, bottom, right) or a mask} with at least one, "
                f"but came {self.regions!r}"
            )
        for text, region in self.regions.items():
            if not isinstance(text, str):
                raise UserError(f"expected a text for each region, but came {text!r}")
            checked_region(region)
        checked_number(self, "base_weight", self.base_weight)
        if not 0 <= self.base_weight <= 1:
            raise UserError(
                f"expected a base_weight from 0 to 1, but came {self.base_weight}; 0 leaves the "
                "prompt out inside the regions, 1 the regions' texts"
            )
        if self.words is not None:
            raise UserError(
                "expected no words=… for RegionalPrompts, which changes what whole places take, "
                f"but came {list(self.words)!r}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.regions)

    def prepare(self, context: EditContext) -> Any:
        """The prompt's share of each place `(queries, 1)`; each text with its own."""
        inside = torch.stack(
            [
                region_coverage(checked_region(region), context).flatten()
                for region in self.regions.values()
            ]
        )
        total = inside.sum(dim=0)
        upheld = (1 - self.base_weight) * total.clamp(max=1)
        shares = upheld * inside / total.clamp_min(torch.finfo(total.dtype).tiny)
        base, shares = ((each[..., None]).to(context.device) for each in (1 - upheld, shares))
        return base, tuple(zip(shares, self.regions, strict=True))

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        return probs

    def mix(self, taken: Tensor, attend: Attend, prepared: Any, context: EditContext) -> Tensor:
        base, parts = prepared
        mixed = base * taken
        for share, text in parts:
            mixed = mixed + share * attend(text)
        return mixed
