"""Words apart: no two of them on the same places, as a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.losses.loss import GuidanceLoss
from t2i_xattn.losses.word_maps import WordMaps, normalised


@dataclass(frozen=True, eq=False)
class Segregation(GuidanceLoss):
    """Words look at different places, so that none takes the place of another.

    Agarwal et al., "A-STAR: Test-time Attention Segregation and Retention for Text-to-image
    Synthesis", arXiv 2306.14544, eq. 2: for two words Σ min(A_m, A_n) / Σ (A_m + A_n), of maps as
    distributions over the places, so 0 to 0.5. The largest of all pairs is taken.

    Attributes:
        words: two or more words or phrases of the prompt. Of one with several tokens, the last is
            taken.
    """

    words: Sequence[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.words, str) or len(self.words) < 2:
            raise UserError(f"expected words=[…] with at least two, but came {self.words!r}")

    def phrases(self) -> list[str]:
        return list(self.words)

    def __call__(self, maps: WordMaps) -> Tensor:
        losses = []
        for image in range(len(maps.words)):
            columns = [maps.columns(word, image)[-1] for word in self.words]
            words = normalised(maps.shares[image][..., columns].permute(2, 0, 1))
            overlaps = [torch.minimum(m, n).sum() / 2 for m, n in combinations(words, 2)]
            losses.append(torch.stack(overlaps).amax())
        return torch.stack(losses)
