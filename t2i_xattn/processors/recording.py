"""A processor that is set by hand, draws what diffusers' own draws, and can be read afterwards."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.processors.intercepting import InterceptingProcessor, attention_forward

Heads = Literal["mean", "each"]


class RecordingProcessor(InterceptingProcessor):
    """Computes an attention layer as `AttnProcessor2_0` does, and adds its probs up beside it.

    The layer's output comes from the fused kernel, to the byte that of `AttnProcessor2_0`; the
    probs are formed beside it, in fp32 and without gradients. Kept is their sum over the calls, so
    memory does not grow with them. There is no context to enter: set one at each layer, run the
    pipeline, read.

    >>> recorders = {
    ...     name: RecordingProcessor()
    ...     for name in pipe.unet.attn_processors
    ...     if name.endswith("attn2.processor")  # the cross-attention
    ... }
    >>> pipe.unet.set_attn_processor(pipe.unet.attn_processors | recorders)
    >>> image = pipe("a red circle").images[0]
    >>> maps = recorders["mid_block.attentions.0.transformer_blocks.0.attn2.processor"].probs
    >>> maps.shape  # (batch, queries, tokens); with guidance, the first half is unconditional
    torch.Size([2, 4, 77])

    It cannot know a pipeline's words, branches and steps, nor which calls belong together:
    `t2i_xattn.record` does. At self-attention, where the tokens are the picture's places, the sum
    takes queries² numbers a row.

    In a compiled graph all this holds too; the first call after `reset()` has a graph of its own,
    since it makes the tensor to add to. With `torch.compile(fullgraph=True)`, torch wraps the
    errors below in one of its own. What gradient checkpointing computes again is counted again.

    Args:
        function: what is to stand in place of the probs, as of `InterceptingProcessor`. It is then
            what comes back that is recorded, and the output is not the fused kernel's.
        heads: `"mean"` to keep the mean over the heads, `"each"` to keep every head by itself.

    Raises:
        UserError: another `heads`; in a call, a second layer for one instance, or a batch or size
            that is not that of the calls before.
    """

    # On the class, so that a subclass need not call `super().__init__()`.
    heads: Heads = "mean"
    _total: Tensor | None = None  # fp32, the sum over the calls
    _count: Tensor | None = None  # int64, a tensor so that a compiled graph can count
    _layer: weakref.ref[Any] | None = None

    def __init__(
        self, function: Callable[[Tensor], Tensor] | None = None, *, heads: Heads = "mean"
    ) -> None:
        if heads not in ("mean", "each"):
            raise UserError(f'expected heads="mean" or "each", but came {heads!r}')
        super().__init__(function)
        self.heads = heads

    @property
    def probs(self) -> Tensor:
        """The mean over the calls: each row's shares, 0 to 1, summing to 1 over the tokens.

        fp32 `(batch, queries, tokens)`, or `(batch, heads, queries, tokens)` with `heads="each"`;
        a tensor of its own at each reading. With a `function`, what that makes of the shares.

        Raises:
            UserError: there has been no call yet.
        """
        if self._total is None or self._count is None:
            raise UserError(
                "expected a call to read the probs of, but this RecordingProcessor has had none; "
                "set it with unet.set_attn_processor and run the pipeline first"
            )
        return self._total / self._count

    @property
    def calls(self) -> int:
        """How many calls of the layer are in the mean; 0 before the first."""
        return 0 if self._count is None else int(self._count)

    def reset(self) -> None:
        """Forgets all calls, their sizes and the layer, as if newly made."""
        self._total = self._count = self._layer = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        return attention_forward(
            attn,
            hidden_states,
            encoder_hidden_states,
            attention_mask,
            temb,
            intercept=self._interception(attn),
            observe=lambda probs: self._add(attn, probs),
        )

    def _add(self, attn: Any, probs: Tensor) -> None:
        """Adds a call's probs `(batch, heads, queries, tokens)`."""
        if self.heads == "mean":
            probs = probs.mean(dim=1)
        if self._layer is None:
            self._layer = weakref.ref(attn)
        elif self._layer() is not attn:
            raise UserError(
                "expected one RecordingProcessor for each layer, but this one was called by a "
                "second layer; make one for each, or call its reset() before it is set elsewhere"
            )
        if self._total is None or self._count is None:
            # Made in inference mode, they could not be added to outside of it.
            with torch.inference_mode(False):
                self._total = torch.zeros(probs.shape, device=probs.device)
                self._count = torch.zeros((), dtype=torch.int64, device=probs.device)
        elif self._total.shape != probs.shape:
            axes = "batch, queries, tokens" if probs.ndim == 3 else "batch, heads, queries, tokens"
            raise UserError(
                f"expected probs of shape {tuple(self._total.shape)} ({axes}), as in the calls "
                f"before, but came {tuple(probs.shape)}; read what is there and call reset() "
                "before a run of another batch or size"
            )
        elif self._total.device != probs.device:
            self._total = self._total.to(probs.device)
            self._count = self._count.to(probs.device)
        self._total.add_(probs)
        self._count.add_(1)

    def __getstate__(self) -> dict[str, Any]:
        """For copies: they belong to the layer that calls them first, that of a copied UNet."""
        return self.__dict__ | {"_layer": None}

    def __repr__(self) -> str:
        name = f"{type(self).__name__}(heads={self.heads!r}"
        if self._total is None:
            return f"{name}, no calls yet)"
        return f"{name}, calls={self.calls}, probs={tuple(self._total.shape)})"
