"""An edit at one site, in one call and one branch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2i_xattn.denoisers.seen import Attend
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.errors import UserError


class ActingEdit(NamedTuple):
    """See the module; it is a `denoisers.seen.Change`.

    Attributes:
        edit: what to do.
        prepared: what the edit made of the context before.
        context: where and when.
        only: bool, broadcast to `(images, 1, 1, tokens)`: what the edit may change; None: all.
        attend: gives what the places take from the edit's own texts; None for one without.
        finite: bool `()`: turns False if the edit makes NaN or infinity of finite probs. A tensor,
            since looking at a number on a GPU would wait for it at every site.
    """

    edit: Edit
    prepared: Any
    context: EditContext
    only: Tensor | None
    finite: Tensor
    attend: Attend | None = None

    @property
    def mixes(self) -> bool:
        """Whether it mixes in what other texts give."""
        return bool(self.edit.texts)

    @property
    def per_head(self) -> bool:
        """Whether it does the same to each head by itself."""
        return self.edit.per_head

    @property
    def scales_the_rest(self) -> bool:
        """Whether the keys that are not the text's make room for what it gives."""
        return self.edit.scales_the_rest

    def changed(self, probs: Tensor) -> Tensor:
        """The probs `(images, heads, queries, tokens)` after this edit."""
        edited: Any = self.edit.apply(probs, self.prepared, self.context)
        if edited is probs:
            return probs
        came = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        if came != tuple(probs.shape):
            raise UserError(
                f"expected {self.edit.name} to return probs of shape {tuple(probs.shape)} (images, "
                f"heads, queries, tokens) at {self.context.site.name}, but came {came}; return "
                "them with no axis added or dropped"
            )
        # A sum over anything that is not finite is not finite.
        with torch.no_grad():
            self.finite.logical_and_(edited.sum().isfinite() | ~probs.sum().isfinite())
        return edited if self.only is None else torch.where(self.only, edited, probs)

    def mixed(self, taken: Tensor) -> Tensor:
        """What the places have taken, `(images, heads, queries, d)`, after this edit."""
        assert self.attend is not None, "an edit with texts of its own"
        mixed = self.edit.mix(taken, self.attend, self.prepared, self.context)
        return mixed if self.only is None else torch.where(self.only, mixed, taken)
