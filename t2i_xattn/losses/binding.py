"""Adjectives and their nouns at the same places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from t2i_xattn.errors import UserError, shown
from t2i_xattn.losses.loss import GuidanceLoss
from t2i_xattn.losses.noun_phrases import modifier_pairs
from t2i_xattn.losses.word_maps import WordMaps, normalised

Columns = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Binding(GuidanceLoss):
    """An adjective looks where its noun does, and not where other words do.

    Rassin et al., "Linguistic Binding in Diffusion Models: Enhancing Attribute Correspondence
    through Attention Map Alignment" (SynGen), arXiv 2306.08877, eq. 2 to 4: the symmetric
    Kullback-Leibler distance of the two maps as distributions over the places, minus the mean
    distance to the words of the other nouns' pairs.

    Attributes:
        pairs: adjectives with their nouns. By default those that `noun_phrases.modifier_pairs`
            finds in each prompt, by a rule on English words (the paper has a parser), which says
            what it misses.

    Raises:
        UserError: at once, for what are no pairs; before the first step, for words that are not
            there, a prompt in which no pair is found, and prompts as embeddings without pairs.
    """

    pairs: Sequence[tuple[str, str]] | None = None
    _: KW_ONLY
    enough: float = float("-inf")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs is not None and (
            isinstance(self.pairs, str)
            or not len(self.pairs)
            or any(isinstance(pair, str) or len(pair) != 2 for pair in self.pairs)
        ):
            raise UserError(
                "expected pairs=[(adjective, noun), …] with at least one, but came "
                f"{shown(self.pairs)}"
            )

    def phrases(self) -> list[str]:
        return [word for pair in self.pairs or () for word in pair]

    def check(self, maps: WordMaps) -> None:
        for image in range(len(maps.words)):
            self._columns(maps, image)

    def __call__(self, maps: WordMaps) -> Tensor:
        return torch.stack([self._of_image(maps, image) for image in range(len(maps.words))])

    def _of_image(self, maps: WordMaps, image: int) -> Tensor:
        pairs = self._columns(maps, image)
        flat = {
            columns: normalised(maps.shares[image][..., list(columns)].sum(dim=-1)).flatten()
            for pair in pairs
            for columns in pair
        }
        total = maps.shares.new_zeros(())
        for pair in pairs:
            adjective, noun = (flat[columns] for columns in pair)
            total = total + _distance(adjective, noun)
            # What belongs to the same noun, or has the same adjective, is not to be kept apart.
            near = {columns for other in pairs if set(other) & set(pair) for columns in other}
            others = [each for columns, each in flat.items() if columns not in near]
            if others:
                apart = [
                    (_distance(adjective, each) + _distance(noun, each)) / 2 for each in others
                ]
                total = total - torch.stack(apart).mean()
        return total

    def _columns(self, maps: WordMaps, image: int) -> list[tuple[Columns, Columns]]:
        """The columns of each adjective and noun."""
        if self.pairs is not None:
            return [
                (maps.columns(adjective, image), maps.columns(noun, image))
                for adjective, noun in self.pairs
            ]
        prompt = maps.prompts[image] if maps.prompts else None
        if prompt is None:
            raise UserError(
                "expected a prompt as text, in which Binding() can look for pairs, but came "
                "embeddings; name them with Binding([(adjective, noun), …])"
            )
        found = modifier_pairs(prompt, maps.words[image])
        if not found:
            raise UserError(
                f"expected a prompt with an adjective before its noun, but found none in "
                f"{prompt!r}; name the pairs with Binding([(adjective, noun), …])"
            )
        return [(adjective.columns, noun.columns) for adjective, noun in found]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler distance of distributions `(places,)`."""
    log_one, log_other = one.clamp_min(1e-12).log(), other.clamp_min(1e-12).log()
    forth = (one * (log_one - log_other)).sum()
    back = (other * (log_other - log_one)).sum()
    return (forth + back) / 2
