"""Maps of words that are not in the prompt, from what an attention layer computes for the picture.

Everything here works on tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2i_xattn.kernel.attention import attention_probs
from t2i_xattn.kernel.modes import without_autocast
from t2i_xattn.kernel.room import roomy
from t2i_xattn.shapes import Float


def output_shares(
    picture: Float[Tensor, "rows heads places d"],
    concepts: Float[Tensor, "rows heads tokens d"],
    groups: Sequence[Sequence[int]],
) -> Float[Tensor, "rows 1 places concepts"]:
    """softmax over the concepts of ⟨oₓ, o_c⟩, in the output space of an attention layer.

    ConceptAttention (Helbling et al., arXiv 2502.04320): φ(oₓ, o_c) = softmax(oₓ o_cᵀ),
    where oₓ and o_c are what the layer gives to a place x of the picture and to a concept c, the
    heads behind each other, before its output projection. A concept of several tokens has the mean
    of theirs as its o_c.

    Args:
        picture: `(rows, heads, places, d)`.
        concepts: `(rows, heads, tokens, d)`.
        groups: for each concept, where its own tokens stand.

    Returns:
        fp32 `(rows, 1, places, concepts)`, 0 to 1, summing to 1 over the concepts.
    """
    _, heads, tokens, d = concepts.shape
    dtype = roomy(picture, concepts, times=heads * d * tokens)
    parts = [concepts[:, :, list(each)].to(dtype).mean(dim=2) for each in groups]
    with without_autocast(picture.device):
        scores = torch.einsum("rhpd,rhcd->rpc", picture.to(dtype), torch.stack(parts, dim=2))
    return scores.softmax(dim=-1)[:, None].float()


def text_shares(
    query: Float[Tensor, "rows heads places d"],
    key: Float[Tensor, "1 heads tokens d"],
    scale: float,
    columns: Sequence[int],
) -> Float[Tensor, "rows heads places 1"]:
    """What places would give to the words of a text that stood in the prompt's place.

    OVAM (Marcos-Manchón et al., arXiv 2403.14291): softmax(Q K′ᵀ · scale) with the picture's
    queries Q and the keys K′ of another text; the shares of its own tokens are added.

    Args:
        query: `(rows, heads, places, d)`.
        key: of the text, `(1, heads, tokens, d)`.
        scale: of the scores, usually 1 / √d.
        columns: of the words' tokens.

    Returns:
        fp32 `(rows, heads, places, 1)`, 0 to 1.
    """
    probs = attention_probs(query, key.expand(len(query), -1, -1, -1), scale)
    return probs[..., list(columns)].sum(dim=-1, keepdim=True)
