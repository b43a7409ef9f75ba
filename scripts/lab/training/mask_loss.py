"""Mask supervision of cross-attention, a named option of the recipe (off in the shipped one).

TokenCompose (Wang et al., CVPR 2024, arXiv 2312.03626), eq. 3 and 4: the attention of a noun is
pulled into the pixels of its object. A model trained with it shows what it was told to show, so a
model card must say that it was used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from lab.scenes import Description
from lab.training.sources import SceneSource
from t2i_xattn.denoisers.families.unet import size_of
from t2i_xattn.denoisers.sites import AttentionSite, walk_sites
from t2i_xattn.kernel.attention import attention_probs, queries_and_keys
from t2i_xattn.prompts.words import split_words

PIXEL_WEIGHT = 0.05
"""Weight of the pixel loss beside the token loss: the paper's 5e-5 to 1e-3."""


@contextmanager
def site_probs(unet: nn.Module) -> Iterator[list[tuple[AttentionSite, Tensor]]]:
    """Collects the head-mean probs ``(batch, queries, tokens)`` of each site, with gradients."""
    collected: list[tuple[AttentionSite, Tensor]] = []

    def collect(site: AttentionSite) -> Any:
        def hook(attn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False))
            given.update(kwargs)
            query, key = queries_and_keys(
                attn, given["hidden_states"], given["encoder_hidden_states"]
            )
            collected.append((site, attention_probs(query, key, attn.scale).mean(dim=1)))

        return hook

    handles = [
        attn.register_forward_pre_hook(collect(site), with_kwargs=True)
        for site, attn in walk_sites(unet)
        if site.kind == "cross"
    ]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def noun_targets(
    tokenizer: CLIPTokenizer,
    source: SceneSource[Any],
    scenes: list[Any],
    descriptions: list[Description],
    side: int,
) -> list[tuple[int, int, Tensor]]:
    """``(row of the batch, column, mask)`` of every noun token; masks ``(side, side)``, 0 or 1."""
    targets = []
    for row, (scene, said) in enumerate(zip(scenes, descriptions, strict=True)):
        columns = {word.start: word.columns for word in split_words(tokenizer, said.prompt)}
        for word, pixels in source.nouns(scene, said, side):
            mask = torch.from_numpy(pixels.astype(np.float32))
            targets += [(row, column, mask) for column in columns.get(word.start, ())]
    return targets


def mask_loss(
    probs: list[tuple[AttentionSite, Tensor]],
    targets: list[tuple[int, int, Tensor]],
    latent_size: tuple[int, int],
) -> Tensor:
    """Token loss plus weighted pixel loss, mean over sites and nouns. Zero without nouns.

    Token loss ``(1 − Σ_u∈M A_u / Σ_u A_u)²`` and pixel loss the binary cross-entropy of ``A`` with
    ``M``, where ``A`` is the map of a noun and ``M`` its mask at the size of the site.

    Args:
        probs: what :func:`site_probs` collected.
        targets: what :func:`noun_targets` gave.
        latent_size: height and width of the latents.
    """
    losses = []
    for site, each in probs:
        size = size_of(site, each.shape[1], latent_size)
        assert size is not None, each.shape
        for row, column, mask in targets:
            heat = each[row, :, column]
            target = functional.adaptive_avg_pool2d(mask[None], size).flatten()
            target = target.to(heat.device)
            inside = (heat * target).sum() / heat.sum().clamp(min=1e-9)
            pixel = functional.binary_cross_entropy(heat.clamp(1e-6, 1 - 1e-6), target)
            losses.append((1 - inside).square() + PIXEL_WEIGHT * pixel)
    return torch.stack(losses).mean() if losses else torch.zeros(())
