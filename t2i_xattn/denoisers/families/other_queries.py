"""Queries that stand in front of the picture's: what is learnt of the text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def gists(denoiser: Any, given: Mapping[str, Any]) -> int:
    """Those of the text's gists, of which a longer text has more. Where rows differ in their
    number, they stand behind the picture, and none in front."""
    text, mask = given["encoder_hidden_states"], given.get("encoder_attention_mask")
    lengths = [text.shape[2]] * len(text) if mask is None else mask.sum(dim=1).tolist()
    count = sys.modules[type(denoiser).__module__].compute_gist_count
    config = denoiser.config
    counts = count(
        lengths,
        min_gist=config.min_num_gist_tokens,
        max_gist=config.max_num_gist_tokens,
        gist_step=config.gist_step,
        min_text_len=config.gist_min_text_len,
        max_text_len=config.gist_max_text_len,
    )
    return int(counts[0]) if min(counts) == max(counts) else 0
