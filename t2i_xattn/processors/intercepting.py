"""One whole attention layer in the open, with one place to step in: between softmax and values.

diffusers' `AttnProcessor2_0` forms softmax(Q Kᵀ / √d) V inside a fused kernel, where the probs are
never seen. `attention_forward` does the same layer, branch for branch; given an `intercept`, it
forms the probs explicitly, hands them over, and multiplies what comes back with the values.
`InterceptingProcessor` is that as a processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import attention_probs, normed_inputs, projected


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
        own = getattr(self.intercept, "__func__", None) is not InterceptingProcessor.intercept
        used = own or self.function is not None
        intercept = (lambda probs: self.intercept(probs, attn)) if used else None
        return attention_forward(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb, intercept=intercept
        )


def attention_forward(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    temb: Tensor | None = None,
    *,
    intercept: Callable[[Tensor], Tensor] | None = None,
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
        intercept: from probs to probs, see `InterceptingProcessor.intercept`; a query whose tokens
            are all masked with −inf gets zeros. None: the fused kernel.

    Returns:
        The shape of `hidden_states`, with the residual and the rescaling that the layer asks for.

    Raises:
        UserError: `intercept` gave back another shape, or values that are not finite (the latter
            is not looked for in a compiled graph); a joint layer; the inputs of an IP-Adapter.
    """
    if getattr(attn, "add_q_proj", None) is not None:
        raise UserError(
            "expected an attention layer with one output, as in a UNet, but came a joint layer of "
            "a transformer; leave its own processor there"
        )
    if isinstance(encoder_hidden_states, tuple):
        raise UserError(
            "expected the text as one tensor, but came text and pictures of an IP-Adapter; "
            "call pipe.unload_ip_adapter() first, or leave its processors where they are"
        )
    added = getattr(attn, "add_k_proj", None) is not None
    if added:
        query, key, value = _with_added_keys(attn, hidden_states, encoder_hidden_states)
    else:
        picture, text = normed_inputs(attn, hidden_states, encoder_hidden_states, temb)
        query, key = projected(attn, picture, text)
        value = attn.head_to_batch_dim(attn.to_v(text), out_dim=4)
    mask = None
    if attention_mask is not None:
        mask = _prepared(attn, attention_mask, key.shape[0], key.shape[2] if added else 0)

    if intercept is None:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attn.scale)
    else:
        probs = attention_probs(query, key, attn.scale, mask)
        shape = probs.shape
        probs = _checked(intercept(probs), shape)
        out = torch.matmul(probs.to(value.dtype), value)
    out = out.transpose(1, 2).flatten(2).to(query.dtype)

    out = attn.to_out[1](attn.to_out[0](out))  # projection and dropout
    if added or hidden_states.ndim == 4:
        out = out.transpose(-1, -2).reshape(hidden_states.shape)
    if added:  # always with the residual and never rescaled, whatever the layer says
        return out + hidden_states
    if attn.residual_connection:
        out = out + hidden_states
    return out / attn.rescale_output_factor


def _with_added_keys(
    attn: Any, picture: Tensor, text: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, `(batch, heads, n, d)` each, as `AttnAddedKVProcessor2_0` forms
    them: no spatial norm, none of query and key."""
    picture = picture.flatten(2).transpose(1, 2)
    if text is None:
        text = picture  # before its group norm
    elif attn.norm_cross is not None:
        text = attn.norm_encoder_hidden_states(text)
    if attn.group_norm is not None:
        picture = attn.group_norm(picture.transpose(1, 2)).transpose(1, 2)
    query, key, value = attn.to_q(picture), attn.add_k_proj(text), attn.add_v_proj(text)
    if not attn.only_cross_attention:
        key = torch.cat([key, attn.to_k(picture)], dim=1)
        value = torch.cat([value, attn.to_v(picture)], dim=1)
    query, key, value = (attn.head_to_batch_dim(each, out_dim=4) for each in (query, key, value))
    return query, key, value


def _prepared(attn: Any, mask: Tensor, batch: int, keys: int) -> Tensor:
    """The mask as `(batch, heads, 1 or queries, tokens)`, with at least so many tokens.

    diffusers fills up a mask of the text only if it is not as long as the picture, and even if
    there are no other keys; here the picture's own keys are visible in any case.
    """
    mask = attn.prepare_attention_mask(mask, mask.shape[-1], batch)
    mask = mask.view(batch, attn.heads, -1, mask.shape[-1])
    visible = 1.0 if mask.dtype == torch.bool else 0.0
    return F.pad(mask, (0, max(0, keys - mask.shape[-1])), value=visible)


def _checked(probs: Any, expected: torch.Size) -> Tensor:
    """What an intercept gave back, if it can stand for probs."""
    came = tuple(probs.shape) if isinstance(probs, Tensor) else type(probs).__name__
    if came != tuple(expected):
        raise UserError(
            f"expected `intercept` to return probs of shape {tuple(expected)} (batch, heads, "
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
            f"expected `intercept` to return finite probs, but came {int(probs.isnan().sum())} NaN "
            f"and {int(probs.isinf().sum())} infinite of {probs.numel()}; is there a division by 0 "
            "(all shares of a query taken away), or a logarithm of 0?"
        )
    return probs
