"""No word is left out, as a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from t2i_xattn.errors import UserError, shown
from t2i_xattn.losses.loss import GuidanceLoss
from t2i_xattn.losses.word_maps import WordMaps, smoothed


@dataclass(frozen=True, eq=False)
class AttendAndExcite(GuidanceLoss):
    """Every subject gets a place that looks at it: max over words of 1 − max over places.

    Chefer et al., "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
    Models", arXiv 2301.13826, eq. 1 and algorithm 1. The maps are taken without the start and the
    end token, brought to shares of the words alone by a softmax (of 100 times them, as in the
    authors' code), and smoothed by a Gaussian of 3 × 3 and σ = 0.5. At the beginning, after a fifth
    and after two fifths of the run the update is repeated until the weakest word has reached 0.05,
    0.5 and 0.8.

    Attributes:
        words: words or phrases of the prompt. Of one with several tokens, the last is taken.
        softmax: whether the softmax is taken. Where words get large shares of the attention it is
            1 for all of them, and nothing moves; without it the shares themselves are to rise.
    """

    words: Sequence[str]
    _: KW_ONLY
    softmax: bool = True
    checks: Sequence[tuple[float, float]] = ((0.0, 0.95), (0.2, 0.5), (0.4, 0.2))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.words, str) or not len(self.words):
            raise UserError(f"expected words=[…] with at least one, but came {self.words!r}")

    def phrases(self) -> list[str]:
        return list(self.words)

    def check(self, maps: WordMaps) -> None:
        for image in range(len(maps.words)):
            self._columns(maps, image)

    def __call__(self, maps: WordMaps) -> Tensor:
        losses = []
        for image in range(len(maps.words)):
            prompt, columns = self._columns(maps, image)
            words = maps.shares[image]
            if self.softmax:
                words = (100 * words[..., prompt.start : prompt.stop]).softmax(dim=-1)
                columns = [column - prompt.start for column in columns]
            smooth = smoothed(words[..., columns].permute(2, 0, 1))
            losses.append(1 - smooth.amax(dim=(1, 2)).amin())
        return torch.stack(losses)

    def _columns(self, maps: WordMaps, image: int) -> tuple[range, list[int]]:
        """Those that the softmax is over, and the last of each word.

        Raises:
            UserError: if a word is not there, or not among those of the softmax.
        """
        prompt = maps.prompt_columns(image)
        columns = [maps.columns(word, image)[-1] for word in self.words]
        outside = [w for w, c in zip(self.words, columns, strict=True) if c not in prompt]
        if outside and self.softmax:
            raise UserError(
                "expected words of the prompt for AttendAndExcite, whose softmax is over these "
                f"alone, but came {shown(outside[0])}; leave it out, or give softmax=False"
            )
        return prompt, columns
