"""Columns of the text that are left out of the keys, after some steps in which it was recorded what
they get: what `TopKeys` and `PrunedKeys` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

from torch import Tensor

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.fewer_keys import FewerKeys
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.variants.text_keys import fewer_keys, is_of_text, rows_with_texts, text_of_row
from t2i_xattn.variants.variant import Found, RunningVariant, Variant, reading_text

_Summed = tuple[str, str, tuple[Hashable, ...]]
"""What shares are summed up by: name of the sites, branch, what its texts are known by."""


class LeavingOut(Variant):
    """A variant that leaves columns of the text out.

    Attributes:
        after: steps in which the shares are recorded and nothing is left out by them.
    """

    takes: ClassVar[str] = "which keys are looked at"
    error: ClassVar[str] = (
        "at most 2 s max|V| at a site, with s the share of the columns that were left out"
    )
    attends: ClassVar[bool] = True

    after: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.after < 1:
            raise UserError(f"expected after=1 or more for {self.name}, but came {self.after}")

    @property
    def fits(self) -> str:
        return "sites where the picture looks at the text"

    def sites(self, found: Found) -> Found:
        return reading_text(found)


class RunningLeavingOut(RunningVariant):
    """Such a variant in one run.

    Shares are summed up by branch and its texts, and by what `summed_at` says of their sites: of
    another text the first steps are recorded anew.
    """

    def __init__(self, variant: LeavingOut, steps: int) -> None:
        """
        Args:
            variant: what it is.
            steps: in which shares are recorded; 0: none.
        """
        self._leaving, self._steps = variant, steps
        self._shares: dict[_Summed, Tensor] = {}
        self._recorded_in: dict[_Summed, set[int]] = {}
        self._fewer: dict[tuple[Any, ...], FewerKeys] = {}

    @abstractmethod
    def summed_at(self, site: AttentionSite) -> str:
        """The name under which a site's shares are summed up: those of one name choose together."""

    @abstractmethod
    def read(self, seen: Seen, rows: Rows) -> Tensor:
        """The probs of a kernel call, `(rows · frames, heads or 1, places, columns)`."""

    @abstractmethod
    def staying(self, text: Text | None, states: Tensor, shares: Tensor | None) -> Tensor:
        """The columns of a row's text that stay, int64 `(heads or 1, columns)`; never none.

        Args:
            text: the row's; None where only its states are known.
            states: what the row is given to look at, `(columns, channels)`; one or more.
            shares: what was recorded of the row, `(heads or 1, columns)`, summed up over calls and
                sites; None where nothing is recorded.
        """

    def _summed(self, name: str) -> dict[str, _Summed]:
        """For each branch of the call, under what its shares are summed up."""
        now = self.now
        return {
            branch: (name, known_as, tuple(now.text(branch, n) for n in range(now.layout.images)))
            for branch, known_as in zip(now.layout.rows, now.branches, strict=True)
        }

    def _is_recorded(self, name: str) -> bool:
        """Whether enough steps before this one have been."""
        steps = (self._recorded_in.get(key, set()) for key in self._summed(name).values())
        return min(len(each - {self.now.step}) for each in steps) >= self._steps

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        name = self.summed_at(site)
        if not self._is_recorded(name):
            return None
        about = reading()
        if not is_of_text(about, site, self._leaving):
            return None
        portion = about.portion and str(about.portion.keys)
        summed, layout = self._summed(name), self.now.layout
        key = *summed.values(), call.key.shape[2], portion
        if key not in self._fewer:
            staying: list[Tensor | None] = [None] * len(call.key)
            for branch, picture, row in rows_with_texts(self.now):
                columns = len(text_of_row(call, about, row))
                if not columns:
                    continue  # it has none
                of_branch, own = self._shares.get(summed[branch]), None
                if of_branch is not None:
                    # What a row has less than the longest text is nobody's.
                    own = of_branch[layout.rows[branch].index(row)][..., :columns]
                states = self.now.call.text[row // self.now.call.row_frames]
                staying[row] = self.staying(layout.texts[branch][picture], states[:columns], own)
            self._fewer[key] = fewer_keys(call, about, staying)
        return self._fewer[key]

    def take(self, seen: Seen) -> None:
        name = self.summed_at(seen.site)
        if self._is_recorded(name) or not is_of_text(seen.reading, seen.site, self._leaving):
            return
        summed = self._summed(name)
        for branch, rows in self.now.layout.rows.items():
            shares = self.read(seen, rows).mean(dim=2).unflatten(0, (-1, seen.frames)).mean(dim=1)
            key = summed[branch]
            self._shares[key] = self._shares.get(key, 0) + shares
            self._recorded_in.setdefault(key, set()).add(self.now.step)
