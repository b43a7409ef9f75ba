"""Hide some words from the denoiser while it learns, so that each word's own key comes to count.

A causal text encoder writes what a word says into every later one. A denoiser that always sees all
of them may read the later ones alone: then the map of the word itself shows nothing that mattered,
and weighing it changes nothing. It is the dropout of Srivastava et al. 2014, of keys; no map is
told what to show.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEAST, MOST = 0.2, 0.8
"""The chance that a word of a prompt is hidden is drawn from this range, prompt by prompt."""

END = 0.7
"""The chance that the end of the text goes with them: it knows the whole prompt."""


def shown_keys(ids: Tensor, end: int, share: float, rng: np.random.Generator) -> Tensor:
    """Which keys of each prompt the denoiser sees; the first token always.

    Args:
        ids: of the prompts, `(batch, tokens)`, begun by the start token.
        end: the token that ends a prompt and fills it up.
        share: of the prompts of which words are hidden, 0 to 1.
        rng: where the choice comes from.

    Returns:
        bool `(batch, tokens)`.
    """
    batch, tokens = ids.shape
    chance = np.where(rng.random(batch) < share, rng.uniform(LEAST, MOST, batch), 0)
    words = rng.random((batch, tokens)) >= chance[:, None]
    ends = (chance == 0) | (rng.random(batch) >= END)
    words[:, 0] = True
    # Compared where the ids are: to fetch them would make an accelerator wait at every step.
    end_shown, word_shown = (torch.from_numpy(each).to(ids.device) for each in (ends, words))
    return torch.where(ids == end, end_shown[:, None], word_shown)
