"""Attention processors that record: they wrap the processor at a site and leave its output alone.

A diffusers processor is called as `processor(attn, hidden_states, encoder_hidden_states=…,
attention_mask=…)` and does a whole attention layer. `RecordingProcessor` lets the processor that
stands at the site do exactly that, fused kernel and all, and forms the probs beside it from the
same queries and keys, for the recorded rows only.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def normed_inputs(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    temb: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What an attention layer projects: the picture's and the text's states after its norms.

    Args:
        attn: a diffusers `Attention`.
        hidden_states: `(batch, queries, channels)` or `(batch, channels, height, width)`.
        encoder_hidden_states: `(batch, tokens, text channels)`; None for self-attention.
        temb: time embedding, used by sites with a spatial norm.

    Returns:
        `(batch, queries, channels)`, and `(batch, tokens, text channels)`, which is the first again
        in self-attention.
    """
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    if hidden_states.ndim == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    if encoder_hidden_states is None:
        encoder_hidden_states = hidden_states
    elif attn.norm_cross:
        encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
    return hidden_states, encoder_hidden_states


def projected(attn: Any, picture: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Queries `(batch, heads, queries, d)` and keys `(batch, heads, tokens, d)` of normed states.

    The projections are called as modules, since LoRA replaces them by wrapped layers.
    """
    query, key = _heads(attn.to_q(picture), attn.heads), _heads(attn.to_k(text), attn.heads)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    return query, key


def queries_and_keys(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    temb: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The queries and keys that diffusers' `AttnProcessor2_0` would form.

    Takes what `normed_inputs` takes and gives what `projected` gives.
    """
    return projected(attn, *normed_inputs(attn, hidden_states, encoder_hidden_states, temb))


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
        # Filled before too: the gradient of a softmax over −inf alone would be NaN.
        return scores.masked_fill(nothing, 0.0).softmax(dim=-1).masked_fill(nothing, 0.0)


READABLE = {
    "AttnProcessor",
    "AttnProcessor2_0",
    "AttnProcessorNPU",
    "FusedAttnProcessor2_0",
    "IPAdapterAttnProcessor",
    "IPAdapterAttnProcessor2_0",
    "IPAdapterXFormersAttnProcessor",
    "SlicedAttnProcessor",
    "XFormersAttnProcessor",
    "XLAFlashAttnProcessor2_0",
}
"""Processors of diffusers whose queries and keys are those of `queries_and_keys`."""


def unrecordable(attn: Any) -> str | None:
    """Why the probs at a site cannot be read, as the end of a sentence; None if they can.

    A user's own processor is taken to use the layer's `to_q` and `to_k`, as diffusers' do.
    """
    if getattr(attn, "added_kv_proj_dim", None):
        return "adds the text's keys to those of self-attention"
    kind = type(_inmost(attn.processor))
    if kind.__module__.startswith("diffusers.") and kind.__name__ not in READABLE:
        return f"has the processor {kind.__name__}, which forms its own"
    return None


class Target(NamedTuple):
    """Where the probs of one block of rows are to be added.

    Attributes:
        stream: whose keys: 0 the text's, n the pictures' of the n-th IP-Adapter.
        rows: the rows of the batch.
        total: fp32 `(rows, heads, queries, kept)`; with one head in it, the heads' mean is added.
        calls: fp32 `(1,)`, counts what was added.
        selection: `(rows, tokens, kept)` of 0 and 1, the tokens that are summed into each place;
            None: every token by itself.
    """

    stream: int
    rows: slice
    total: Tensor
    calls: Tensor
    selection: Tensor | None = None


class RecordingProcessor:
    """Wraps the processor that stands at a site and adds its probs to what is kept.

    The output is the inner processor's own. There is no counting and no growing list in here, only
    in-place adds into tensors, so that a compiled UNet stays one graph.

    Attributes:
        inner: the processor that computes the output.
        targets: where to add the probs; set before each UNet call, empty while nothing is kept.
    """

    inner: Any
    targets: tuple[Target, ...]

    def __init__(self, inner: Any) -> None:
        # `object.__setattr__`: in the Module form, plain assignment would make `inner` a child.
        object.__setattr__(self, "inner", inner)
        self.targets = ()

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

    def is_around(self, outer: Any) -> bool:
        """Whether this wrapper is in the chain of wrappers from `outer` on."""
        while isinstance(outer, RecordingProcessor):
            if outer is self:
                return True
            outer = outer.inner
        return False

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
        if self.targets:
            temb = args[0] if args else kwargs.get("temb")
            masked = kwargs.get("ip_adapter_masks") is not None
            for target in self.targets:
                self._add_probs(
                    target, attn, hidden_states, encoder_hidden_states, attention_mask, temb, masked
                )
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
        target: Target,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any,
        attention_mask: Tensor | None,
        temb: Tensor | None,
        masked_pictures: bool,
    ) -> None:
        # An IP-Adapter hands over `(text, [pictures, …])`. The text's attention is a softmax of its
        # own there, so the shares of the words still sum to 1.
        text, pictures = encoder_hidden_states, ()
        if isinstance(text, tuple):
            text, pictures = text
        rows = target.rows
        mask = None
        if attention_mask is not None and target.stream == 0:
            batch = hidden_states.shape[0]
            tokens = hidden_states.shape[1] if text is None else text.shape[1]
            mask = attn.prepare_attention_mask(attention_mask, tokens, batch)
            mask = mask.view(batch, attn.heads, -1, mask.shape[-1])[rows]
        query, key = queries_and_keys(
            attn,
            hidden_states[rows],
            None if text is None else text[rows],
            None if temb is None else temb[rows],
        )
        if target.stream == 0:
            probs = attention_probs(query, key, attn.scale, mask)
        else:
            to_key = _inmost(self).to_k_ip[target.stream - 1]
            keys = to_key(pictures[target.stream - 1][rows])
            # (rows, pictures, tokens, heads · d); under masks each picture has its own softmax.
            keys = keys.flatten(1, 2)[:, None] if not masked_pictures else keys
            probs = torch.cat(
                [
                    attention_probs(query, _heads(one, attn.heads), attn.scale)
                    for one in keys.unbind(1)
                ],
                dim=-1,
            )
        if target.total.shape[1] == 1:
            probs = probs.mean(dim=1, keepdim=True)
        if target.selection is not None:
            probs = torch.matmul(probs, target.selection[:, None])
        seen, expected = tuple(probs.shape), tuple(target.total.shape)
        assert seen == expected, (seen, expected)
        target.total.add_(probs)
        target.calls.add_(1)


def _heads(projected: Tensor, heads: int) -> Tensor:
    """`(batch, n, heads · d)` to `(batch, heads, n, d)`."""
    return projected.unflatten(-1, (heads, -1)).transpose(1, 2)


def _inmost(processor: Any) -> Any:
    """The processor that computes, under all the wrappers."""
    while isinstance(processor, RecordingProcessor):
        processor = processor.inner
    return processor


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
