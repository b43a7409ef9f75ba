from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from t2i_xattn.kernel.reference import Weights, cross_attention, probs, scores


def test_a_case_by_hand() -> None:
    # One head of width 4, so √d is 2: scores 0 and ln 3, shares 1/4 and 3/4.
    q = torch.tensor([[[[2.0, 0, 0, 0]]]])
    k = torch.tensor([[[[0.0, 5, 5, 5], [math.log(3), 5, 5, 5]]]])
    assert torch.allclose(probs(scores(q, k)), torch.tensor([[[[0.25, 0.75]]]]))


def test_equals_torch() -> None:
    torch.manual_seed(0)
    picture, text = torch.randn(2, 6, 8).double(), torch.randn(2, 5, 12).double()
    layer = Weights(*(torch.randn(o, i).double() for o, i in [(8, 8), (8, 12), (8, 12), (8, 8)]))
    mask = torch.rand(2, 5) > 0.3
    out, p = cross_attention(picture, text, layer, heads=2, mask=mask)
    q, k, v = (
        (x @ w.T).unflatten(-1, (2, 4)).transpose(1, 2)
        for x, w in [(picture, layer.query), (text, layer.key), (text, layer.value)]
    )
    taken = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    assert torch.allclose(out, taken.transpose(1, 2).flatten(2) @ layer.out.T)
    assert torch.allclose(p.sum(-1), torch.ones(2, 2, 6).double())
    assert (p[~mask[:, None, None].expand_as(p)] == 0).all()


def test_all_masked_gives_zeros() -> None:
    p = probs(torch.randn(1, 1, 3, 4), torch.zeros(1, 4, dtype=torch.bool))
    assert (p == 0).all()


def test_large_scores_do_not_overflow() -> None:
    p = probs(torch.tensor([[[[1e4, 1e4 - math.log(3)]]]], dtype=torch.float64))
    assert torch.allclose(p, torch.tensor([[[[0.75, 0.25]]]], dtype=torch.float64))
