"""Few keys of the text for each head: those that it looked at most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.variants.leaving_out import LeavingOut, RunningLeavingOut
from t2i_xattn.variants.variant import Found, RunningVariant


@dataclass(frozen=True, eq=False)
class TopKeys(LeavingOut):
    """Each head of each site looks at the k columns of the text alone that got most in the first
    steps, summed over the places.

    So n · m · d becomes n · k · d, and the keys that are left out cost nothing. (The edit `TopK` is
    another thing: the largest shares of every place by itself, which all have to be formed.)

    Attributes:
        k: columns that stay, 1 or more.
        after: steps in which the shares are recorded and nothing is left out.
    """

    k: int
    after: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise UserError(f"expected k=1 or more for TopKeys, but came {self.k}")

    def running(self, found: Found) -> RunningVariant:
        return _Choosing(self)


class _Choosing(RunningLeavingOut):
    def __init__(self, variant: TopKeys) -> None:
        super().__init__(variant, variant.after)
        self._k = variant.k

    def summed_at(self, site: AttentionSite) -> str:
        return site.name

    def read(self, seen: Seen, rows: Rows) -> Tensor:
        return seen.probs(rows)

    def staying(self, text: Text | None, states: Tensor, shares: Tensor | None) -> Tensor:
        assert shares is not None, "the first steps are recorded"
        k = min(self._k, shares.shape[-1])
        return shares.topk(k, dim=-1).indices.sort(dim=-1).values
