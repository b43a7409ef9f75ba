"""Attention processors that record: they wrap the processor at a site and leave its output alone.

A diffusers processor is called as `processor(attn, hidden_states, encoder_hidden_states=…,
attention_mask=…)` and does a whole attention layer. `RecordingProcessor` lets the processor that
stands at the site do exactly that, fused kernel and all, and forms the probs beside it from the
same queries and keys, for the recorded rows only.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


def queries_and_keys(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    temb: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The queries and keys that diffusers' `AttnProcessor2_0` would form.

    The projections are called as modules, since LoRA replaces them by wrapped layers.

    Args:
        attn: a diffusers `Attention`.
        hidden_states: `(batch, queries, channels)` or `(batch, channels, height, width)`.
        encoder_hidden_states: `(batch, tokens, text channels)`; None for self-attention.
        temb: time embedding, used by sites with a spatial norm.

    Returns:
        `(batch, heads, queries, d)` and `(batch, heads, tokens, d)`.
    """
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    if hidden_states.ndim == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    query = attn.to_q(hidden_states)
    if encoder_hidden_states is None:
        encoder_hidden_states = hidden_states
    elif attn.norm_cross:
        encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
    key = attn.to_k(encoder_hidden_states)
    query = query.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    key = key.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    return query, key


def attention_probs(query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """softmax(Q Kᵀ · scale + mask) over the tokens, in fp32 whatever the model computes in.

    Vaswani et al. 2017, eq. 1; `t2i_xattn.reference` has it step by step.

    Args:
        query: `(batch, heads, queries, d)`.
        key: `(batch, heads, tokens, d)`.
        scale: usually 1 / √d.
        mask: broadcast to `(batch, heads, queries, tokens)`; of bool (True: may be looked at), or
            a number to be added to the scores (−inf: may not).

    Returns:
        fp32 probs `(batch, heads, queries, tokens)`, 0 to 1, summing to 1 over the tokens; zeros
        for a query whose tokens are all masked.
    """
    # Under autocast the product of two fp32 tensors would be rounded to bf16 again.
    with torch.autocast(device_type=query.device.type, enabled=False):
        scores = torch.matmul(query.float() * scale, key.float().transpose(-1, -2))
        if mask is None:
            return scores.softmax(dim=-1)
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        else:
            scores = scores + mask.float()
        # Only all-masked queries come out as NaN, and they have looked at nothing.
        nothing = scores.amax(dim=-1, keepdim=True) == float("-inf")
        return scores.softmax(dim=-1).masked_fill(nothing, 0.0)


class RecordingProcessor:
    """Wraps the processor that stands at a site and adds its probs to an accumulator.

    The output is the inner processor's own. There is no counting and no growing list in here, only
    an in-place add into a tensor, so that a compiled UNet stays one graph.

    Attributes:
        inner: the processor that computes the output.
        rows: the rows of the batch to record, a slice; set before each UNet call.
        accumulator: fp32 `(rows, queries, tokens)`, the sum of the head means over the UNet calls;
            None while nothing is to be recorded.
    """

    inner: Any
    rows: slice
    accumulator: Tensor | None

    def __init__(self, inner: Any) -> None:
        # `object.__setattr__`: in the Module form, plain assignment would make `inner` a child.
        object.__setattr__(self, "inner", inner)
        self.rows = slice(0)
        self.accumulator = None

    @staticmethod
    def around(inner: Any) -> RecordingProcessor:
        """The wrapper for a processor: a Module if it is one, a plain object if it is not.

        So taking the place of the processor, and giving it back, are plain assignments that keep
        the order of the attention layer's parts. The wrapper is called with the same arguments as
        the processor: diffusers drops the `cross_attention_kwargs` that a signature does not name.
        """
        form = _RecordingModuleProcessor if isinstance(inner, nn.Module) else RecordingProcessor
        kind: type = type(inner)
        return _called_like(form, kind)(inner)

    def take_out_of(self, outer: Any) -> None:
        """Takes this wrapper out of the chain of wrappers from `outer` on, if it is in there."""
        while isinstance(outer, RecordingProcessor):
            if outer.inner is self:
                object.__setattr__(outer, "inner", self.inner)
                return
            outer = outer.inner

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self.accumulator is not None:
            temb = args[0] if args else kwargs.get("temb")
            self._add_probs(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if args:
            return self.inner(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        return self.inner(
            attn,
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=attention_mask,
            **kwargs,
        )

    @torch.no_grad()
    def _add_probs(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any,
        attention_mask: Tensor | None,
        temb: Tensor | None,
    ) -> None:
        assert self.accumulator is not None
        # An IP-Adapter hands over `(text, [image, …])`. The text's attention is a softmax of its
        # own there, so the shares of the words still sum to 1.
        text = encoder_hidden_states
        if isinstance(text, tuple):
            text = text[0]
        rows = self.rows
        mask = None
        if attention_mask is not None:
            batch, tokens = hidden_states.shape[0], self.accumulator.shape[2]
            mask = attn.prepare_attention_mask(attention_mask, tokens, batch)
            mask = mask.view(batch, attn.heads, -1, mask.shape[-1])[rows]
        query, key = queries_and_keys(
            attn,
            hidden_states[rows],
            None if text is None else text[rows],
            None if temb is None else temb[rows],
        )
        seen = (query.shape[0], query.shape[2], key.shape[2])
        assert seen == tuple(self.accumulator.shape), (seen, self.accumulator.shape)
        self.accumulator.add_(attention_probs(query, key, attn.scale, mask).mean(dim=1))


class _RecordingModuleProcessor(RecordingProcessor, nn.Module):
    """The form for a processor with parameters of its own (an IP-Adapter's).

    It shows the inner Module's parameters, buffers and children as its own, under the same names:
    while recording, moves between devices still reach them and the state dict keeps its keys.
    """

    def __init__(self, inner: nn.Module) -> None:
        nn.Module.__init__(self)
        self._parameters = inner._parameters
        self._buffers = inner._buffers
        self._modules = inner._modules
        self.training = inner.training
        RecordingProcessor.__init__(self, inner)


@cache
def _called_like(form: type[RecordingProcessor], inner: type) -> type[RecordingProcessor]:
    """A subclass whose `__call__` shows the signature that the inner class's has.

    A class and not an attribute of the instance, which torch.compile cannot follow.
    """

    def call(self: RecordingProcessor, *args: Any, **kwargs: Any) -> Any:
        return form.__call__(self, *args, **kwargs)

    call.__signature__ = inspect.signature(inner.__call__)  # type: ignore[attr-defined]
    return type(form.__name__, (form,), {"__call__": call, "__module__": __name__})
