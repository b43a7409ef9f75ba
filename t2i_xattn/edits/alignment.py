"""Which tokens of one prompt stand for which tokens of another."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import Word, find_phrase


@dataclass(frozen=True)
class PromptTokens:
    """A prompt in its text sequence.

    Attributes:
        words: its words.
        ids: its tokens from the first to the end token, one a column, without the padding behind.
        length: of the text sequence, with padding.
        padding: the columns of padding, which stands between the texts of several encoders too;
            None: those behind `ids`.
    """

    words: tuple[Word, ...]
    ids: tuple[int, ...]
    length: int
    padding: tuple[int, ...] | None = None

    @property
    def filled(self) -> set[int]:
        """The columns of padding."""
        return {*range(len(self.ids), self.length), *(self.padding or ())}

    def by_encoder(self, columns: Sequence[int]) -> dict[str, list[int]]:
        """Columns by the text encoder that they are of, where several stand behind each other."""
        encoders = {
            column: encoder
            for word in self.words
            for column, encoder in zip(word.columns, word.encoders, strict=False)
        }
        found: dict[str, list[int]] = {}
        for column in columns:
            found.setdefault(encoders.get(column, ""), []).append(column)
        return found


@dataclass(frozen=True)
class _Unit:
    """A word, or a token that belongs to none (punctuation, start, end), with its columns."""

    key: Hashable
    columns: tuple[int, ...]
    is_word: bool


def matrix_of_pairs(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], source: int, target: int
) -> Tensor:
    """`(source, target)`: what of each source column goes to each target column.

    As many columns go one to one; otherwise every source column is spread evenly over the target
    columns, so that the word keeps its share (as in prompt-to-prompt's code).

    Args:
        pairs: source columns and the target columns that get their maps.
        source, target: lengths of the two sequences.
    """
    matrix = torch.zeros(source, target)
    for sources, targets in pairs:
        if len(sources) == len(targets):
            matrix[list(sources), list(targets)] = 1
        else:
            for column in sources:
                matrix[column, list(targets)] = 1 / len(targets)
    return matrix


def aligned_by_place(source: PromptTokens, target: PromptTokens) -> Tensor:
    """The matrix of two prompts of as many words, the n-th word for the n-th.

    Raises:
        UserError: if they have not as many words (and punctuation).
    """
    ours, theirs = _units(source, {}), _units(target, {})
    if [each.is_word for each in ours] != [each.is_word for each in theirs]:
        counts = [sum(each.is_word for each in units) for units in (ours, theirs)]
        raise UserError(
            f"expected prompts of as many words, standing alike, but came {counts[0]} words and "
            f'{counts[1]}; say which word stands for which with Replace({{"cat": "tiger"}}), or '
            "use Refine where words were added"
        )
    return _matrix(source, target, list(zip(ours, theirs, strict=True)))


def aligned_by_words(
    source: PromptTokens, target: PromptTokens, swaps: Mapping[str, str] | None = None
) -> Tensor:
    """The matrix of two prompts, each word for the same word.

    The words keep their order: of all ways to pair equal words, one with the most pairs is taken
    (Needleman and Wunsch's alignment with 1 for a match, 0 for a gap and no mismatches). Target
    columns that no source column goes to are all 0.

    Args:
        source, target: the prompts.
        swaps: phrases of the source and the phrases of the target that stand for them.

    Raises:
        UserError: if one of these phrases is not there, or they overlap or are in another order.
    """
    swaps = swaps or {}
    ours = _units(source, {phrase: n for n, phrase in enumerate(swaps)})
    theirs = _units(target, {phrase: n for n, phrase in enumerate(swaps.values())})
    common = longest_common([each.key for each in ours], [each.key for each in theirs])
    swapped = sum(isinstance(ours[one].key, _Swap) for one, _ in common)
    if swapped < len(swaps):
        raise UserError(
            f"expected swaps that stand in the same order in both prompts, but {swapped} of "
            f"{len(swaps)} do; leave out what has moved"
        )
    return _matrix(source, target, [(ours[one], theirs[other]) for one, other in common])


def longest_common(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence, ascending in both."""
    lengths = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in reversed(range(len(one))):
        for j in reversed(range(len(other))):
            if one[i] == other[j]:
                lengths[i][j] = lengths[i + 1][j + 1] + 1
            else:
                lengths[i][j] = max(lengths[i + 1][j], lengths[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


@dataclass(frozen=True)
class _Swap:
    """The key of a phrase that stands for another."""

    number: int


def _units(prompt: PromptTokens, swaps: Mapping[str, int]) -> list[_Unit]:
    """The words and other tokens of a prompt, in order; each phrase of a swap is one word."""
    units = []
    taken: set[int] = set()
    filled = prompt.filled
    for phrase, number in swaps.items():
        columns = find_phrase(prompt.words, phrase, None)
        if taken & set(columns):
            raise UserError(f"expected swaps of different words, but {phrase!r} stands in two")
        units.append(_Unit(_Swap(number), columns, True))
        taken |= set(columns)
    for word in prompt.words:
        columns = tuple(column for column in word.columns if column not in taken)
        if columns:
            units.append(_Unit(word.text.casefold(), columns, True))
            taken |= set(columns)
    units += [
        _Unit(token, (column,), False)
        for column, token in enumerate(prompt.ids)
        if column not in taken and column not in filled
    ]
    return sorted(units, key=lambda unit: unit.columns)


def _matrix(
    source: PromptTokens, target: PromptTokens, partners: Sequence[tuple[_Unit, _Unit]]
) -> Tensor:
    """The matrix of two prompts by their partners, the columns of each text encoder for those of
    the same, and each column of padding for the same column, where both prompts have it."""
    pairs: list[tuple[Sequence[int], Sequence[int]]] = []
    for one, other in partners:
        theirs = target.by_encoder(other.columns)
        for encoder, columns in source.by_encoder(one.columns).items():
            if encoder in theirs:
                pairs.append((columns, theirs[encoder]))
    both = sorted(source.filled & target.filled)
    pairs += [([column], [column]) for column in both]
    return matrix_of_pairs(pairs, source.length, target.length)
