"""A word kept to a region of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.edits.picture import checked_region, region_coverage


@dataclass(frozen=True, eq=False)
class Restrict(Edit):
    """Outside of a region nobody looks at the word; the other tokens get its share there.

    P′_{i,j} = P_{i,j} · c_i at the word's columns j, and the shares of the query i are brought to a
    sum of 1 again; c_i is how much of the place i lies in the region, so that a region smaller than
    a place of a coarse site does not vanish.

    Attributes:
        word: a word or phrase of the prompt.
        region: a box (top, left, bottom, right) in fractions of the picture; or a mask
            `(height, width)` of 0 to 1 or of bool, or a PIL picture, white inside, of the picture's
            aspect and of any resolution.

    Raises:
        UserError: at once, for a box outside the picture or inside out, and for a mask with other
            axes or values or nothing in it; before the first step, for one of another aspect.
    """

    per_head: ClassVar[bool] = True

    word: str
    region: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_region(self.region)

    @property
    def renormalises(self) -> bool:
        return True

    def prepare(self, context: EditContext) -> Any:
        inside = region_coverage(checked_region(self.region), context)
        outside = (1 - inside).flatten().to(context.device)
        return 1 - outside[:, None] * context.span(self.word)

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        return self.renormalised(probs * prepared, probs, context)
