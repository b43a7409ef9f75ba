"""What of a run is kept, as the user asked for it and checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2i_xattn.branches import BRANCHES, CONDITIONAL
from t2i_xattn.errors import UserError, nearest
from t2i_xattn.prompt import Word, find_phrase

Heads = Literal["mean", "each"]
Steps = Literal["sum", "each"] | Sequence[tuple[int, int]]
Groups = tuple[tuple[int, ...], ...]
"""The columns that each place of the token axis stands for."""

TEXT = "text"
"""The stream of the prompt's tokens. The n-th IP-Adapter's picture tokens are `picture n`, from 1;
their attention is a softmax of its own."""

WALKED = "walked"
"""The stream of the text's maps carried along the self-attention of their block."""

EDITED = "edited"
"""The stream of the text's maps after the edits that act on the pipeline; `text` is before them."""

OF_TEXT = (TEXT, WALKED, EDITED)
"""The streams whose token axis is the text's."""


@dataclass(frozen=True)
class Keep:
    """What to keep of each site in a run; see `record`, which takes these as its arguments."""

    words: Sequence[str] | None = None
    columns: Sequence[int] | None = None
    heads: Heads = "mean"
    steps: Steps = "sum"
    branches: tuple[str, ...] = (CONDITIONAL,)
    budget: int | None = None
    walk: int = 0

    def __post_init__(self) -> None:
        if self.words is not None and self.columns is not None:
            raise UserError("expected words=… or columns=…, but came both; give just one of them")
        for name, chosen in (("words", self.words), ("columns", self.columns)):
            if isinstance(chosen, str) or (chosen is not None and not len(chosen)):
                raise UserError(f"expected {name}=[…] with at least one entry, but came {chosen!r}")
        if self.heads not in ("mean", "each"):
            raise UserError(f'expected heads="mean" or "each", but came {self.heads!r}')
        if self.walk < 0:
            raise UserError(f"expected walk=0 or more steps, but came {self.walk}")
        if not self.branches:
            raise UserError("expected at least one branch to keep, but came none")
        for branch in self.branches:
            if branch not in BRANCHES:
                raise UserError(
                    f"expected a branch of {', '.join(BRANCHES)}, but came {branch!r}"
                    f"{nearest(branch, BRANCHES)}"
                )
        if isinstance(self.steps, str):
            if self.steps not in ("sum", "each"):
                raise UserError(
                    'expected steps="sum", "each" or windows such as [(0, 10), (10, 25)], but came '
                    f"{self.steps!r}"
                )
            return
        end = 0
        for window in self.steps:
            if len(window) != 2 or not end <= window[0] < window[1]:
                raise UserError(
                    "expected windows of steps (first, end) that follow each other, such as "
                    f"[(0, 10), (10, 25)], but came {list(self.steps)!r}"
                )
            end = window[1]
        if not self.steps:
            raise UserError("expected at least one window of steps, but came none")

    def window(self, step: int) -> int | None:
        """The place on the step axis that a step is summed into; None: it is not kept."""
        if self.steps == "sum":
            return 0
        if self.steps == "each":
            return step
        for index, window in enumerate(self.steps):
            assert not isinstance(window, str)
            if window[0] <= step < window[1]:
                return index
        return None

    def windows(self, steps: int | None) -> int | None:
        """Length of the step axis for a run of so many steps; None where that is not known."""
        if self.steps == "sum":
            return 1
        return steps if self.steps == "each" else len(self.steps)

    def groups(self, words: Sequence[Sequence[Word]], tokens: int) -> tuple[Groups, ...] | None:
        """For each image, the columns that are kept; None: every column by itself.

        Args:
            words: the words of each image's prompt.
            tokens: length of the text sequence.

        Raises:
            UserError: if a word is not in a prompt, or a column not in the sequence.
        """
        if self.words is not None:
            return tuple(
                tuple(find_phrase(of_image, phrase) for phrase in self.words) for of_image in words
            )
        if self.columns is None:
            return None
        for column in self.columns:
            if not 0 <= column < tokens:
                raise UserError(
                    f"expected columns from 0 to {tokens - 1}, but came {column}; the text "
                    f"sequence of this run has {tokens} columns"
                )
        return (tuple((column,) for column in self.columns),) * len(words)
