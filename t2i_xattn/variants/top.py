"""Few keys of the text for each head: those that it looked at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.seen import Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked
from t2i_xattn.kernel.fewer_keys import FewerKeys
from t2i_xattn.variants.text_keys import fewer_keys, is_of_text, rows_with_texts
from t2i_xattn.variants.variant import Found, RunningVariant, Variant, reading_text


@dataclass(frozen=True, eq=False)
class TopKeys(Variant):
    """Each head of each site looks at the k columns of the text alone that got most in the first
    steps, summed over the places.

    So n · m · d becomes n · k · d, and the keys that are left out cost nothing. (The edit `TopK` is
    another thing: the largest shares of every place by itself, which all have to be formed.)

    Attributes:
        k: columns that stay, 1 or more.
        after: steps in which the shares are recorded and nothing is left out.
    """

    takes: ClassVar[str] = "which keys are looked at"
    error: ClassVar[str] = (
        "at most 2 s max|V| at a site, with s the share of the columns that were left out"
    )
    attends: ClassVar[bool] = True

    k: int
    after: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("k", self.k), ("after", self.after)):
            if value < 1:
                raise UserError(f"expected {name}=1 or more for TopKeys, but came {value}")

    @property
    def fits(self) -> str:
        return "sites where the picture looks at the text"

    def sites(self, found: Found) -> Found:
        return reading_text(found)

    def running(self, found: Found) -> RunningVariant:
        return _Choosing(self)


class _Choosing(RunningVariant):
    def __init__(self, variant: TopKeys) -> None:
        self._variant = variant
        self._shares: dict[tuple[str, str], Tensor] = {}
        self._calls: dict[tuple[str, str], int] = {}
        self._chosen: dict[tuple[str, tuple[str, ...], int], FewerKeys] = {}

    def _recorded(self, site: AttentionSite) -> bool:
        counts = [self._calls.get((site.name, branch), 0) for branch in self.now.branches]
        return min(counts) >= self._variant.after

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        key = site.name, self.now.branches, call.key.shape[2]
        if not self._recorded(site):
            return None
        about = reading()
        if not is_of_text(about, site, self._variant):
            return None
        if key not in self._chosen:
            columns: list[Tensor | None] = [None] * len(call.key)
            for branch, _, row in rows_with_texts(self.now):
                place = self.now.layout.rows[branch].index(row)
                shares = self._shares[site.name, branch][place]
                k = min(self._variant.k, shares.shape[-1])
                columns[row] = shares.topk(k, dim=-1).indices.sort(dim=-1).values
            self._chosen[key] = fewer_keys(call, about, columns)
        return self._chosen[key]

    def take(self, seen: Seen) -> None:
        if self._recorded(seen.site) or not is_of_text(seen.reading, seen.site, self._variant):
            return
        for branch, rows in self.now.layout.rows.items():
            shares = seen.probs(rows).mean(dim=2)  # (rows · frames, heads, columns)
            shares = shares.unflatten(0, (-1, seen.frames)).mean(dim=1)
            key = seen.site.name, branch
            self._shares[key] = self._shares.get(key, 0) + shares
            self._calls[key] = self._calls.get(key, 0) + 1
