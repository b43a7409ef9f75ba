"""One whole attention layer in the open, with one place to step in: between softmax and values.

diffusers' `AttnProcessor2_0` forms softmax(Q Kᵀ / √d) V inside a fused kernel, where the probs are
never seen. `attention_forward` does the same layer, branch for branch; given an `intercept`, it
forms the probs beside it, hands them over, and adds what that changes to what the kernel gave.
`InterceptingProcessor` is that as a processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import attention_probs, mixed_values, plus
from t2i_xattn.processors.layer import after_kernel, before_kernel


class InterceptingProcessor:
    """A diffusers attention processor with one method to override, or one function to give.

    It equals diffusers' own (see `attention_forward`); left as it is, fused kernel and all. One
    that intercepts costs memory for the probs, much of it at self-attention of large pictures, so
    it is best set where it is needed only. Here, every place of the picture looks twice as much
    at the token in column 3:

    >>> class Louder(InterceptingProcessor):
    ...     def intercept(self, probs, attn):
    ...         probs = probs.clone()
    ...         probs[..., 3] *= 2
    ...         return probs / probs.sum(-1, keepdim=True)
    >>> processors = {
    ...     name: Louder() if "attn2" in name else processor  # attn2: the cross-attention
    ...     for name, processor in pipe.unet.attn_processors.items()
    ... }
    >>> pipe.unet.set_attn_processor(processors)
    >>> image = pipe("a red circle").images[0]

    A function will do where the layer need not be known:
    `InterceptingProcessor(lambda probs: probs / probs.sum(-1, keepdim=True))`.

    Attributes:
        function: from probs to probs, or None.
    """

    # On the class, so that a subclass need not call `super().__init__()`.
    function: Callable[[Tensor], Tensor] | None = None

    def __init__(self, function: Callable[[Tensor], Tensor] | None = None) -> None:
        self.function = function

    def intercept(self, probs: Tensor, attn: Any) -> Tensor:
        """What is to stand in place of the probs; by default what `function` says, or the same.

        Args:
            probs: fp32 `(batch, heads, queries, tokens)`, 0 to 1, summing to 1 over the tokens.
                The batch has all branches: with guidance, the unconditional rows too. They may be
                changed in place only where no gradients are taken.
            attn: the diffusers `Attention` at work; `attn.is_cross_attention` tells its kind.

        Returns:
            The same shape, all finite. Nothing makes them sum to 1 again.
        """
        return probs if self.function is None else self.function(probs)

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
        )

    def _interception(self, attn: Any) -> Callable[[Tensor], Tensor] | None:
        """From probs to probs at this layer; None if there is nothing to intercept."""
        # Not by the bound method's `__func__`, which torch.compile takes for another function.
        overridden = type(self).intercept is not InterceptingProcessor.intercept
        if overridden or "intercept" in self.__dict__ or self.function is not None:
            return lambda probs: self.intercept(probs, attn)
        return None


def attention_forward(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    temb: Tensor | None = None,
    *,
    intercept: Callable[[Tensor], Tensor] | None = None,
    observe: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """A whole attention layer, as diffusers' `AttnProcessor2_0` does it.

    A layer with added keys is done as by `AttnAddedKVProcessor2_0`: the keys of the text and the
    picture's own stand in one softmax, the text's columns first. Where diffusers' fused processors
    leave `attn.scale` out of account (`scale_qk=False`), this follows `AttnProcessor`.

    Args:
        attn: a diffusers `Attention`; not a joint one, of a transformer, which has two outputs.
        hidden_states: `(batch, queries, channels)` or `(batch, channels, height, width)`; with
            added keys `(batch, channels, …)`.
        encoder_hidden_states: `(batch, tokens, text channels)`; None for self-attention.
        attention_mask: `(batch, 1, tokens)`, or with the queries or with batch · heads in their
            places; added to the scores (−inf: may not be looked at), or of bool (False: may not).
            Of added keys, a mask that is too short for all is the text's.
        temb: for layers with a spatial norm, `(batch, its channels, height, width)`.
        intercept: from probs P to P′, see `InterceptingProcessor.intercept`; (P′ − P) V is added to
            what the fused kernel gives, so that what does not change keeps its bytes.
        observe: is shown the probs, fp32 `(batch, heads, queries, tokens)` without gradients, those
            that `intercept` gave back if there is one. They are not to be changed. Without an
            `intercept`, they are formed beside the fused kernel, whose output stays the same.

    Returns:
        The shape of `hidden_states`, with the residual and the rescaling that the layer asks for.

    Raises:
        UserError: `intercept` gave back another shape, or values that are not finite (the latter
            is not looked for in a compiled graph); a joint layer; the inputs of an IP-Adapter.
    """
    inputs = before_kernel(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
    query, key, value, mask, scale = inputs
    # The fused kernel in any case: who records or edits the layer sees it there.
    taken = inputs.fused()
    probs = None
    if intercept is not None:
        probs = attention_probs(query, key, scale, mask)
        came = checked(intercept(probs.clone()), probs.shape, "`intercept`")
        taken, probs = plus(taken, mixed_values(came.float() - probs, value)), came
    if observe is not None:
        with torch.no_grad():
            if probs is None:
                probs = attention_probs(query, key, scale, mask)
            observe(probs.detach().float())
    return after_kernel(attn, taken.to(query.dtype), hidden_states)


def checked(probs: Any, expected: torch.Size, name: str) -> Tensor:
    """What a function gave back, if it can stand for probs.

    Args:
        probs: what came.
        expected: the shape that it was to have, `(batch, heads, queries, tokens)`.
        name: the function, as a sentence names it.

    Raises:
        UserError: another shape, no tensor, or values that are not finite (these are not looked
            for in a compiled graph).
    """
    came = tuple(probs.shape) if isinstance(probs, Tensor) else type(probs).__name__
    if came != tuple(expected):
        raise UserError(
            f"expected {name} to return probs of shape {tuple(expected)} (batch, heads, "
            f"queries, tokens), but came {came}; return them with no axis added or dropped"
        )
    # A sum over anything that is not finite is not finite: one pass, and no mask the probs' size.
    # Large values can overflow in it, so only then is each looked at.
    if (
        not torch.compiler.is_compiling()
        and not probs.detach().sum().isfinite()
        and not probs.isfinite().all()
    ):
        raise UserError(
            f"expected {name} to return finite probs, but came {int(probs.isnan().sum())} NaN "
            f"and {int(probs.isinf().sum())} infinite of {probs.numel()}; is there a division by 0 "
            "(all shares of a query taken away), or a logarithm of 0?"
        )
    return probs
