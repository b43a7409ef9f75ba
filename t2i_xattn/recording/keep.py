"""What of a run is kept, as the user asked for it and checked before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from t2i_xattn.denoisers.branches import BRANCHES, CONDITIONAL
from t2i_xattn.denoisers.steps import Window, checked_window, whole_steps
from t2i_xattn.denoisers.streams import Groups
from t2i_xattn.errors import UserError, nearest, shown
from t2i_xattn.prompts.words import Word, find_phrase

Heads = Literal["mean", "each", "auto"]
Steps = Literal["sum", "each"] | Sequence[Window]
Places = Sequence[tuple[float, float]] | Literal["all"]
"""Places of the picture as (down, right), 0 to 1; `"all"`: every place of each site's map."""


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
    walk_every: int = 4
    self_attention: Places | None = None
    reference: str | None = None
    text_looks: bool = False
    concepts: tuple[str, ...] = ()
    contributions: bool = False
    modalities: bool = False

    def __post_init__(self) -> None:
        if self.words is not None and self.columns is not None:
            raise UserError("expected words=… or columns=…, but came both; give just one of them")
        for name, chosen in (("words", self.words), ("columns", self.columns)):
            if isinstance(chosen, str) or (chosen is not None and not len(chosen)):
                raise UserError(
                    f"expected {name}=[…] with at least one entry, but came {shown(chosen)}"
                )
        if self.heads not in ("mean", "each", "auto"):
            raise UserError(f'expected heads="mean", "each" or "auto", but came {self.heads!r}')
        if self.reference is not None and self.heads != "auto":
            raise UserError('expected heads="auto" beside reference=…, which only that looks at')
        if self.walk < 0 or self.walk_every < 1:
            raise UserError(
                "expected walk=0 or more steps at every walk_every=1 or more calls, but came "
                f"{self.walk} and {self.walk_every}"
            )
        self._check_self_attention()
        if not self.branches:
            raise UserError("expected at least one branch to keep, but came none")
        for branch in self.branches:
            if branch not in BRANCHES:
                raise UserError(
                    f"expected a branch of {', '.join(BRANCHES)}, but came {shown(branch)}"
                    f"{nearest(branch, BRANCHES)}"
                )
        if self.concepts and CONDITIONAL not in self.branches:
            raise UserError(
                f"expected the branch {CONDITIONAL!r} among branches=… beside concepts=…, which "
                f"are read in it alone, but came {list(self.branches)!r}"
            )
        self._check_contributions()
        if isinstance(self.steps, str):
            if self.steps not in ("sum", "each"):
                raise UserError(
                    'expected steps="sum", "each" or windows such as [(0, 10), (10, 25)], but came '
                    f"{self.steps!r}"
                )
            return
        for window in self.steps:
            checked_window(window, "steps")
        if not self.steps:
            raise UserError("expected at least one window of steps, but came none")

    def _check_contributions(self) -> None:
        if self.contributions and CONDITIONAL not in self.branches:
            raise UserError(
                f"expected the branch {CONDITIONAL!r} among branches=… beside contributions=True, "
                f"which are read in it alone, but came {list(self.branches)!r}"
            )
        if self.contributions and self.columns is not None:
            raise UserError(
                "expected words=…, or neither words=… nor columns=…, beside contributions=True, "
                "which takes words out of the prompt, but came columns=…; name the words"
            )

    def _check_self_attention(self) -> None:
        places = self.self_attention
        if places is None:
            return
        if isinstance(places, str):
            if places != "all":
                raise UserError(
                    'expected self_attention="all" or places [(down, right), …] of the picture, '
                    f"but came {places!r}"
                )
            if self.budget is None:
                raise UserError(
                    'expected budget=… beside self_attention="all": the matrix of a site of '
                    "64 × 64 places takes 67 MB; say how many bytes it may be"
                )
            return
        inside = all(len(place) == 2 and all(0 <= each <= 1 for each in place) for place in places)
        if not inside or not len(places):
            raise UserError(
                "expected places [(down, right), …] of the picture, each from 0 to 1, but came "
                f"{list(places)!r}"
            )

    @property
    def needs_self_attention(self) -> bool:
        """Whether the self-attention beside a cross-attention site has to be read."""
        return bool(self.walk) or self.self_attention is not None or self.heads == "auto"

    def queries(self, size: tuple[int, int]) -> list[int] | None:
        """The queries of a site's map that the places of `self_attention` lie in; None: all."""
        assert self.self_attention is not None
        if isinstance(self.self_attention, str):
            return None
        height, width = size
        return [
            min(int(down * height), height - 1) * width + min(int(right * width), width - 1)
            for down, right in self.self_attention
        ]

    def windows(self, steps: int | None) -> list[tuple[int, int]] | None:
        """The windows that were asked for, in a run of so many steps; None: all or each.

        Raises:
            UserError: if fractions were asked for of a run whose steps are not known, or windows
                do not follow each other.
        """
        if isinstance(self.steps, str):
            return None
        settled, end = [], 0
        for window in self.steps:
            first, last = whole_steps(window, steps, "record")
            if not end <= first < last:
                raise UserError(
                    "expected windows of steps (first, end) that follow each other, such as "
                    f"[(0, 10), (10, 25)], but came {list(self.steps)!r}"
                )
            settled.append((first, last))
            end = last
        return settled

    def groups(self, words: Sequence[Sequence[Word]], tokens: int) -> tuple[Groups, ...] | None:
        """For each image, the columns that are kept; None: every column by itself.

        Args:
            words: the words of each image's prompt, in one branch.
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
