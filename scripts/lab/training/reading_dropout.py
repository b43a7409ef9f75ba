"""Let a text encoder read with gaps while a denoiser learns from what it read.

What an adjective writes into its noun comes out weaker where the two were never read together. A
denoiser that always saw it at full strength takes the weaker writing for none, and paints what it
knows of the noun. With gaps it learns to follow weak writing too, and the key of the adjective. It
is dropout as in Vaswani et al. 2017 (arXiv 1706.03762, 5.4), of the shares of attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.models.clip.modeling_clip import CLIPAttention


@contextmanager
def reading_dropout(text_encoder: nn.Module, share: float, seed: int) -> Iterator[None]:
    """Within this context, a share of what each token reads of the others is dropped.

    Args:
        text_encoder: CLIP's; as it was afterwards.
        share: of the attention's entries, 0 (none) to below 1; the others grow by 1 / (1 - share).
        seed: what is dropped is a function of it alone.
    """
    if not share:
        yield
        return
    layers = [each for each in text_encoder.modules() if isinstance(each, CLIPAttention)]
    kept = [(each.dropout, each.training) for each in layers]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            for each in layers:
                each.dropout = share
                each.train()
            yield
        finally:
            for each, (dropout, training) in zip(layers, kept, strict=True):
                each.dropout = dropout
                each.train(training)
