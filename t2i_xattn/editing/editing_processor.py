"""Attention processors that edit: what the edited probs change is added to the inner output.

The processor at a site goes on computing the whole batch, with its fused kernel, its LoRA and its
IP-Adapter. For the rows that are edited, the probs P are formed beside it, the edit gives P′, and
the output gets what that makes of it:

    O′ = O + W_o (P′ − P) V / r

W_o is the output projection without its bias, V the values of the keys, and r the layer's
`rescale_output_factor`. Everything between the probs and the output is linear, so this is the
output that the layer would have had with P′ in the place of P. An edit that looks at other texts
too gives M′ from P′ V, and then the change is W_o (M′ − P V) / r.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2i_xattn.denoisers.wrapping import WrappingProcessor
from t2i_xattn.edits.edit import Attend, Edit, EditContext
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import attend, attention_probs, mixed_values
from t2i_xattn.recording.targets import LayerCall


class ActingEdit(NamedTuple):
    """An edit at one site, in one call and one branch.

    Attributes:
        edit: what to do.
        prepared: what the edit made of the context before the first step.
        context: where and when.
        only: bool, broadcast to `(images, 1, 1, tokens)`: what the edit may change; None: all.
        finite: bool `()`: turns False if the edit makes NaN or infinity of finite probs. A tensor,
            since looking at a number on a GPU would wait for it at every site.
    """

    edit: Edit
    prepared: Any
    context: EditContext
    only: Tensor | None
    finite: Tensor

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

    def mixed(self, taken: Tensor, attend: Attend) -> Tensor:
        """What the places have taken, `(images, heads, queries, d)`, after this edit."""
        mixed = self.edit.mix(taken, attend, self.prepared, self.context)
        return mixed if self.only is None else torch.where(self.only, mixed, taken)


class BranchEdits(NamedTuple):
    """The edits of one branch's rows in a call, in the order in which they compose."""

    rows: slice
    edits: tuple[ActingEdit, ...]


class EditingProcessor(WrappingProcessor):
    """Wraps the processor that stands at a site and adds what the edits change to its output.

    Of several in one chain the outermost that has something to do does it for all, the inmost's
    edits first, since the second edit is to see what the first one made.
    """

    targets: tuple[BranchEdits, ...]

    def edited(self, probs: Tensor, rows: slice) -> Tensor:
        for branch in self.targets:
            if branch.rows.start == rows.start:
                for each in branch.edits:
                    probs = each.changed(probs)
        return probs

    def mixing(self, rows: slice) -> list[ActingEdit]:
        """The edits of these rows that mix in what other texts give."""
        return [
            each
            for branch in self.targets
            if branch.rows.start == rows.start
            for each in branch.edits
            if each.edit.texts
        ]

    def after(self, call: LayerCall, output: Tensor) -> Tensor:
        editors = [
            each for each in call.wrappers if isinstance(each, EditingProcessor) and each.targets
        ]
        if editors[0] is not self:
            return output
        blocks = {branch.rows.start: branch.rows for each in editors for branch in each.targets}
        inner = output
        for rows in blocks.values():
            query, key = call.queries_and_keys(rows)
            probs = attention_probs(query, key, call.attn.scale, call.mask(rows))
            edited = probs
            for each in reversed(editors):
                edited = each.edited(edited, rows)
            mixing = [edit for each in reversed(editors) for edit in each.mixing(rows)]
            if edited is probs and not mixing:
                continue
            value = call.values(rows)
            if mixing:
                taken = mixed_values(edited, value)
                for edit in mixing:
                    taken = edit.mixed(taken, partial(attend, call.attn, query))
                taken = taken - mixed_values(probs, value)
            else:
                taken = mixed_values(edited - probs, value)
            if output is inner:  # may be a tensor that the inner processor keeps
                output = inner.clone()
            plain, change = inner[rows], _output_change(call, taken.to(value.dtype))
            if inner.ndim == 4:
                change = change.transpose(1, 2).reshape(plain.shape)
            # Adding 0 would turn −0 into 0: what is not changed is to keep its bytes.
            changed = (plain + change).to(plain.dtype)
            output[rows] = torch.where(change == 0, plain, changed)
        return output


def _output_change(call: LayerCall, taken: Tensor) -> Tensor:
    """What a change of what is taken `(rows, heads, queries, d)` makes of the layer's output.

    Returns:
        fp32 `(rows, queries, channels)`.
    """
    mixed = taken.transpose(1, 2).flatten(2)
    # Called as a module, since LoRA replaces it by a wrapped layer and offloading loads its weight
    # in a hook. What it makes of zeros is its bias.
    project = call.attn.to_out[0]
    projected: Tensor = project(mixed).float() - project(torch.zeros_like(mixed[:1, :1])).float()
    return projected / call.attn.rescale_output_factor
