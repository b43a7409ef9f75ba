"""The ways to make a word's heat map that are held against the drawn pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2i_xattn import aggregation
from t2i_xattn.aggregation import Aggregate
from t2i_xattn.denoisers.streams import TEXT, WALKED
from t2i_xattn.errors import UserError, nearest
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class Way:
    """How a heat map is made of a recorded run.

    Attributes:
        aggregate: how sites are pooled; None: as `Trace.heatmap` does.
        stream: the maps themselves, or carried along self-attention; None: what `Trace.heatmap`
            gives of a run that was recorded with both.
        finest: whether only the sites of the finest resolution are pooled.
        auto: whether the run must be recorded with `heads="auto"`.
    """

    aggregate: Aggregate | None = None
    stream: str | None = TEXT
    finest: bool = False
    auto: bool = False

    @property
    def walk(self) -> int:
        """Steps along self-attention that the run must be recorded with."""
        return int(self.stream != TEXT)

    def heatmap(self, trace: Trace, named: str | Sequence[int], image: int = 0) -> HeatMap:
        """The map of a phrase, or of columns of the text, in one picture."""
        level = min(site.level or 0 for site in trace.sites)
        return trace.heatmap(
            named if isinstance(named, str) else None,
            columns=None if isinstance(named, str) else named,
            image=image,
            sites=(lambda site: site.level == level) if self.finest else None,
            aggregate=self.aggregate,
            stream=self.stream,
        )


WAYS = {
    "mean": Way(),
    "finest sites": Way(finest=True),
    "daam": Way(aggregation.daam),
    "rescaled": Way(aggregation.rescaled),
    "walked": Way(stream=WALKED),
    "agreed": Way(stream=None),
    "auto": Way(aggregation.auto, auto=True),
    "goca": Way(aggregation.goca, auto=True),
}
"""By name: the plain mean over all sites and over the finest, and the ways of
`t2i_xattn.aggregation`; `walked` is the mean of maps that one step along self-attention carried,
and `agreed` the plain mean held against it (`t2i_xattn.traces.agreement`), the default."""

USUAL = ("mean", "finest sites", "walked", "agreed")


def chosen_ways(names: Sequence[str]) -> dict[str, Way]:
    """The ways of these names.

    Raises:
        UserError: if one is not in `WAYS`.
    """
    for name in names:
        if name not in WAYS:
            raise UserError(
                f"expected a way of {', '.join(WAYS)}, but came {name!r}{nearest(name, WAYS)}"
            )
    return {name: WAYS[name] for name in names}
