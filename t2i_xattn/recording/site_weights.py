"""How much a site's self-attention agrees with the layout of the picture: its weight in a mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.kernel.attention import attention_probs


def reference_site(sites: Sequence[AttentionSite]) -> AttentionSite:
    """The site whose queries say best what belongs together, where the user has named none.

    The middle one of the up sites that are half as fine as the latent: for Stable Diffusion 1.5
    the one that Meng et al. chose. Where there is none, the middle one of all.
    """
    chosen = [site for site in sites if site.place == "up" and site.level == 1] or list(sites)
    return chosen[len(chosen) // 2]


def reference_affinity(query: Tensor) -> Tensor:
    """softmax(Q Qᵀ / √c) over all heads' channels c together: which places are alike.

    Args:
        query: `(batch, heads, queries, d)` of the reference site.

    Returns:
        fp32 `(batch, queries, queries)`, summing to 1 over the last axis.
    """
    whole = query.transpose(1, 2).flatten(2)[:, None]
    return attention_probs(whole, whole, whole.shape[-1] ** -0.5)[:, 0]


def agreement(
    query: Tensor,
    key: Tensor,
    scale: float,
    size: tuple[int, int],
    reference: Tensor,
    reference_size: tuple[int, int],
) -> Tensor:
    """Σᵢⱼ Rᵢⱼ Sᵢⱼ of a reference affinity R and a site's self-attention S, the mean of its heads.

    The layer-wise half of auto aggregation (Meng et al., arXiv 2603.06178, the dot product of the
    authors' code): S is brought to the reference's size, its queries by the nearest place, its keys
    bilinearly. Its values stay as they are, as in their code, so that coarse sites, which have
    fewer places to share among, weigh more. Of a finer S only the queries taken are formed.

    Args:
        query: of the self-attention, `(batch, heads, queries, d)`.
        key: `(batch, heads, queries, d)`.
        scale: usually 1 / √d.
        size: height and width of the site's map.
        reference: fp32 `(batch, places, places)`.
        reference_size: height and width of the reference's map.

    Returns:
        fp32 `(batch,)`, at least 0.
    """
    rows, columns = (
        torch.arange(wanted, device=query.device) * there // wanted
        for wanted, there in zip(reference_size, size, strict=True)
    )
    nearest = (rows[:, None] * size[1] + columns).flatten()
    taken = query[:, :, nearest]
    heads = query.shape[1]
    total = torch.zeros(len(query), device=query.device)
    for head in range(heads):
        one = slice(head, head + 1)
        looks = attention_probs(taken[:, one], key[:, one], scale)[:, 0]
        maps = interpolate(
            looks.unflatten(-1, size), reference_size, mode="bilinear", align_corners=False
        )
        total += (maps.flatten(2) * reference).sum(dim=(1, 2))
    return total / heads
