"""Columns of the text that are left out of the keys, after some steps in which it was recorded what
they get: what `TopKeys` and `PrunedKeys` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.fewer_keys import FewerKeys
from t2i_xattn.variants.text_keys import fewer_keys, is_of_text, rows_with_texts
from t2i_xattn.variants.variant import Found, RunningVariant, Variant, reading_text


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

    Shares are summed up by branch, and by what `summed_at` says of their sites.
    """

    def __init__(self, variant: LeavingOut, steps: int) -> None:
        """
        Args:
            variant: what it is.
            steps: in which shares are recorded; 0: none.
        """
        self._leaving, self._steps = variant, steps
        self._shares: dict[tuple[str, str], Tensor] = {}
        self._calls: Counter[tuple[str, str]] = Counter()
        self._taken: set[tuple[str, str]] = set()
        self._fewer: dict[tuple[Any, ...], FewerKeys] = {}

    @abstractmethod
    def summed_at(self, site: AttentionSite) -> str:
        """The name under which a site's shares are summed up: those of one name choose together."""

    @abstractmethod
    def read(self, seen: Seen, rows: Rows) -> Tensor:
        """The probs of a kernel call, `(rows · frames, heads or 1, places, columns)`."""

    @abstractmethod
    def staying(self, branch: str, picture: int, shares: Tensor | None, columns: int) -> Tensor:
        """The columns of a row's text that stay, int64 `(heads or 1, columns)`; never none.

        Args:
            branch, picture: whose row it is.
            shares: what was recorded of the row, `(heads or 1, columns)`, summed up over calls and
                sites; None where nothing is recorded.
            columns: how many the text has.
        """

    def _recorded(self, name: str) -> bool:
        return min(self._calls[name, branch] for branch in self.now.branches) >= self._steps

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        name = self.summed_at(site)
        if not self._recorded(name):
            return None
        about = reading()
        if not is_of_text(about, site, self._leaving):
            return None
        portion = about.portion and str(about.portion.keys)
        key = name, self.now.branches, call.key.shape[2], portion
        if key not in self._fewer:
            staying: list[Tensor | None] = [None] * len(call.key)
            for branch, picture, row in rows_with_texts(self.now):
                of_branch, own = self._shares.get((name, branch)), None
                if of_branch is not None:
                    own = of_branch[self.now.layout.rows[branch].index(row)]
                staying[row] = self.staying(branch, picture, own, self.now.call.tokens)
            self._fewer[key] = fewer_keys(call, about, staying)
        return self._fewer[key]

    def take(self, seen: Seen) -> None:
        name = self.summed_at(seen.site)
        if self._recorded(name) or not is_of_text(seen.reading, seen.site, self._leaving):
            return
        for branch, rows in self.now.layout.rows.items():
            shares = self.read(seen, rows).mean(dim=2).unflatten(0, (-1, seen.frames)).mean(dim=1)
            self._shares[name, branch] = self._shares.get((name, branch), 0) + shares
            self._taken.add((name, branch))

    def end(self) -> None:
        self._calls.update(self._taken)
        self._taken.clear()
