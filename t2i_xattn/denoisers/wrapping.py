"""Attention processors that wrap the one at a site: to record, they leave its output alone.

A diffusers processor is called as `processor(attn, hidden_states, encoder_hidden_states=…,
attention_mask=…)` and does a whole attention layer. `RecordingProcessor` lets the processor that
stands at the site do exactly that, fused kernel and all, and forms the probs beside it from the
same queries and keys, for the recorded rows only.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from t2i_xattn.recording.targets import Action, LayerCall

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


class WrappingProcessor:
    """Stands around the processor at a site and calls it with what it was called with.

    There is no counting and no growing list in here, so that a compiled UNet stays one graph.

    Attributes:
        inner: the processor that computes the output.
        targets: what to do with a call; set before each UNet call, empty while there is nothing.
    """

    inner: Any
    targets: tuple[Any, ...]

    def __init__(self, inner: Any) -> None:
        if isinstance(self, nn.Module):
            # The form for a processor with parameters of its own (an IP-Adapter's). It shows them,
            # the buffers and the children as its own, under the same names: meanwhile, moves
            # between devices still reach them and the state dict keeps its keys.
            nn.Module.__init__(self)
            self._parameters = inner._parameters
            self._buffers = inner._buffers
            self._modules = inner._modules
            self.training = inner.training
        # `object.__setattr__`: in the Module form, plain assignment would make `inner` a child.
        object.__setattr__(self, "inner", inner)
        self.targets = ()

    @classmethod
    def around(cls, inner: Any) -> Self:
        """The wrapper for a processor: a Module if it is one, a plain object if it is not.

        So taking the place of the processor, and giving it back, are plain assignments that keep
        the order of the attention layer's parts. The wrapper is called with the same arguments as
        the processor: diffusers drops the `cross_attention_kwargs` that a signature does not name.
        """
        form: type = cls
        kind: type = type(inner)
        made: Self = _called_like(form, kind)(inner)
        return made

    def before(self, call: LayerCall) -> None:
        """What to do before the layer is computed."""

    def after(self, call: LayerCall, output: Any) -> Any:
        """What to do with the output of the layer; by default, to give it back."""
        return output

    def edited(self, probs: Tensor, rows: slice) -> Tensor:
        """The text's probs of these rows, as this wrapper changes them; by default, it does not."""
        return probs

    def is_around(self, outer: Any) -> bool:
        """Whether this wrapper is in the chain of wrappers from `outer` on."""
        return any(each is self for each in wrappers(outer))

    def take_out_of(self, outer: Any) -> None:
        """Takes this wrapper out of the chain of wrappers from `outer` on, if it is in there."""
        for each in wrappers(outer):
            if each.inner is self:
                object.__setattr__(each, "inner", self.inner)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        call = None
        if self.targets:
            # An IP-Adapter is given `(text, [pictures, …])`. The text's attention is a softmax of
            # its own there, so the shares of the words still sum to 1.
            text, pictures = encoder_hidden_states, ()
            if isinstance(text, tuple):
                text, pictures = text
            masks = kwargs.get("ip_adapter_masks")
            masks = [None] * len(pictures) if masks is None else masks
            call = LayerCall(
                attn=attn,
                processor=_inmost(self),
                hidden_states=hidden_states,
                text=text,
                pictures=tuple(pictures),
                attention_mask=attention_mask,
                temb=args[0] if args else kwargs.get("temb"),
                masked=tuple(mask is not None for mask in masks),
                wrappers=tuple(wrappers(attn.processor)),
            )
            self.before(call)
        if args:
            output = self.inner(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        else:
            output = self.inner(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
                **kwargs,
            )
        return output if call is None else self.after(call, output)


class RecordingProcessor(WrappingProcessor):
    """Wraps the processor that stands at a site and adds its probs to what is kept.

    The output is the inner processor's own, and keeping is in-place adds into tensors.
    """

    targets: tuple[Action, ...]

    def before(self, call: LayerCall) -> None:
        with torch.no_grad():
            for target in self.targets:
                target.take(call)


def wrappers(outer: Any) -> list[WrappingProcessor]:
    """The chain of wrappers from a processor on, the outermost first."""
    chain = []
    while isinstance(outer, WrappingProcessor):
        chain.append(outer)
        outer = outer.inner
    return chain


def _inmost(processor: Any) -> Any:
    """The processor that computes, under all the wrappers."""
    chain = wrappers(processor)
    return chain[-1].inner if chain else processor


@cache
def _called_like(form: type[WrappingProcessor], inner: type) -> Any:
    """A subclass whose `__call__` shows the signature that the inner class's has.

    A class and not an attribute of the instance, which torch.compile cannot follow.
    """

    def call(self: WrappingProcessor, *args: Any, **kwargs: Any) -> Any:
        return form.__call__(self, *args, **kwargs)

    call.__signature__ = inspect.signature(inner.__call__)  # type: ignore[attr-defined]
    bases = (form, nn.Module) if issubclass(inner, nn.Module) else (form,)
    return type(form.__name__, bases, {"__call__": call, "__module__": form.__module__})
