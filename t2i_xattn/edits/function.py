"""An edit by a function of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from t2i_xattn.denoisers.sites import Kind
from t2i_xattn.edits.edit import Edit, EditContext


@dataclass(frozen=True, eq=False)
class EditFunction(Edit):
    """An edit by a function of one's own.

    Attributes:
        function: from probs and context to probs, see `Edit.apply`.
        attention: `"cross"`, or `"self"` for an edit of self-attention.

    Example:
        >>> def louder(probs, context):
        ...     return probs * (1 + context.span("red"))
        >>> with tx.edit(pipe, edits.EditFunction(louder, steps=(0, 0.5))):
        ...     image = pipe("a red circle").images[0]
    """

    function: Callable[[Tensor, EditContext], Tensor]
    attention: Literal["cross", "self"] = "cross"

    @property
    def kind(self) -> Kind:
        return self.attention

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        # A copy, since what is changed in place would be taken for unchanged.
        return self.function(probs.clone(), context)
