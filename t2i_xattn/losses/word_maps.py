"""Maps of words with gradients, as a guided pass has left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from t2i_xattn.edits.picture import box_coverage
from t2i_xattn.prompts.words import Word, find_phrase


@dataclass(frozen=True, eq=False)
class WordMaps:
    """The head mean over some sites of one resolution, for each image, with gradients.

    Attributes:
        shares: fp32 `(images, height, width, tokens)`: shares of attention, 0 to 1, summing to 1
            over the tokens.
        words: for each image, the words of its prompt.
        steps_done: the part of the run that lies behind, 0 to 1.
        prompts: each image's prompt as text; None where it was given as embeddings or in spans.
    """

    shares: Tensor
    words: tuple[tuple[Word, ...], ...]
    steps_done: float = 0.0
    prompts: tuple[str | None, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return self.shares.shape[1], self.shares.shape[2]

    def columns(self, phrase: str, image: int) -> tuple[int, ...]:
        """The columns of a word or phrase in an image's prompt.

        Raises:
            WordNotFoundError: if it is not there.
        """
        return find_phrase(self.words[image], phrase)

    def of(self, phrase: str) -> Tensor:
        """`(images, height, width)`: the shares of a word's columns, added up."""
        return torch.stack(
            [
                self.shares[image][..., list(self.columns(phrase, image))].sum(dim=-1)
                for image in range(len(self.words))
            ]
        )

    def prompt_columns(self, image: int) -> range:
        """The columns from the first to the last token of an image's prompt, without what stands in
        front of it (a start token) and behind it (padding, the tokens of a picture); of several
        encoders those of the last."""
        words = [word for word in self.words[image] if word.columns and word.source != "picture"]
        last = next((word.encoders[-1] for word in reversed(words) if word.encoders), None)
        columns = [
            column
            for word in words
            for column, encoder in zip(
                word.columns, word.encoders or [last] * len(word.columns), strict=True
            )
            if encoder == last
        ]
        if not columns:
            return range(0)
        several = len({encoder for word in words for encoder in word.encoders}) > 1
        first = min(columns)
        return range(first if several or first == 0 else 1, max(columns) + 1)


def normalised(maps: Tensor) -> Tensor:
    """Maps `(…, height, width)` as distributions over the places."""
    total = maps.sum(dim=(-2, -1), keepdim=True)
    return maps / total.clamp_min(torch.finfo(maps.dtype).tiny)


def mask_at(size: tuple[int, int], boxes: Sequence[Sequence[float]]) -> Tensor:
    """`(boxes, height, width)`: how much of each place a box (top, left, bottom, right; fractions
    of the picture) covers, 0 to 1."""
    return torch.stack([box_coverage(box, *size) for box in boxes])


def smoothed(maps: Tensor) -> Tensor:
    """Maps `(n, height, width)` under a Gaussian of 3 × 3, σ = 0.5."""
    line = torch.exp(-torch.tensor([-1.0, 0.0, 1.0]).square() / (2 * 0.5**2)).to(maps)
    kernel = torch.outer(line, line)
    kernel = kernel / kernel.sum()
    padded = functional.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, kernel[None, None])[:, 0]
