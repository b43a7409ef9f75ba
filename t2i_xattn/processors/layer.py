"""A whole attention layer but for its kernel: what comes before it, and what after.

diffusers' processors do it all in one function. Here it is in two, so that what stands between
them can be looked at and changed: `before_kernel` gives what the kernel gets, `after_kernel` makes
the layer's output of what it gave.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import normed_inputs, projected


class KernelInputs(NamedTuple):
    """What the fused kernel gets.

    Attributes:
        query: `(batch, heads, queries, d)`.
        key: `(batch, heads, tokens, d)`.
        value: `(batch, heads, tokens, d)`.
        mask: None, or `(batch, heads, 1 or queries, tokens)`: added to the scores (−inf: may not be
            looked at), or of bool (False: may not).
        scale: of the scores, usually 1 / √d.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float

    def fused(self) -> Tensor:
        """softmax(Q Kᵀ · scale + mask) V, `(batch, heads, queries, d)`, by the fused kernel."""
        return F.scaled_dot_product_attention(
            self.query, self.key, self.value, attn_mask=self.mask, scale=self.scale
        )

    def rows(self, rows: slice) -> Self:
        """The same of some rows of the batch."""
        mask = None if self.mask is None else self.mask[rows]
        return self._replace(
            query=self.query[rows], key=self.key[rows], value=self.value[rows], mask=mask
        )


def before_kernel(
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    temb: Tensor | None = None,
) -> KernelInputs:
    """Norms, projections, heads and mask of a layer; see `attention_forward` for the arguments.

    Raises:
        UserError: a joint layer; the inputs of an IP-Adapter.
    """
    single = getattr(attn, "pre_only", None) or not hasattr(attn, "spatial_norm")
    if single or getattr(attn, "add_q_proj", None) is not None:
        raise UserError(
            "expected an attention layer with one output, as in a UNet, but came a layer of a "
            "transformer with a build of its own (joint attention, rotary embeddings); leave its "
            "own processor there"
        )
    if isinstance(encoder_hidden_states, tuple):
        raise UserError(
            "expected the text as one tensor, but came text and pictures of an IP-Adapter; "
            "call pipe.unload_ip_adapter() first, or leave its processors where they are"
        )
    added = _has_added_keys(attn)
    if added:
        query, key, value = _with_added_keys(attn, hidden_states, encoder_hidden_states)
    else:
        picture, text = normed_inputs(attn, hidden_states, encoder_hidden_states, temb)
        query, key = projected(attn, picture, text)
        value = attn.head_to_batch_dim(attn.to_v(text), out_dim=4)
    mask = None
    if attention_mask is not None:
        mask = _prepared(attn, attention_mask, key.shape[0], key.shape[2] if added else 0)
    return KernelInputs(query, key, value, mask, attn.scale)


def after_kernel(attn: Any, taken: Tensor, hidden_states: Tensor) -> Tensor:
    """Projection, dropout, residual and rescaling of a layer.

    Args:
        attn: a diffusers `Attention`.
        taken: what the queries have taken, `(batch, heads, queries, d)`, in the kernel's dtype.
        hidden_states: what the layer was called with.

    Returns:
        The shape of `hidden_states`.
    """
    out = attn.to_out[1](attn.to_out[0](taken.transpose(1, 2).flatten(2)))
    added = _has_added_keys(attn)
    if added or hidden_states.ndim == 4:
        out = out.transpose(-1, -2).reshape(hidden_states.shape)
    if added:  # always with the residual and never rescaled, whatever the layer says
        return out + hidden_states
    if attn.residual_connection:
        out = out + hidden_states
    return out / attn.rescale_output_factor


def _has_added_keys(attn: Any) -> bool:
    return getattr(attn, "add_k_proj", None) is not None


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
