"""The ways to make a word's heat map that are held against the drawn pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from t2i_xattn import aggregation
from t2i_xattn.aggregation import Aggregate
from t2i_xattn.denoisers.streams import TEXT, WALKED
from t2i_xattn.errors import UserError, nearest
from t2i_xattn.recording.record import record
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.trace import Trace

WALK = {"walk": 1}
CONTRIBUTIONS = {"contributions": True}


@dataclass(frozen=True)
class Way:
    """How a heat map is made of a recorded run.

    Attributes:
        recorded: what the run must be recorded with, as `record` takes it.
        aggregate: how sites are pooled; None: as `Trace.heatmap` does.
        stream: of which maps; None: what `Trace.heatmap` gives of such a run.
        finest: whether only the sites of the finest resolution are pooled.
        sharpened: whether the map is brought to the edges of the picture.
    """

    recorded: Mapping[str, Any] = field(default_factory=dict)
    aggregate: Aggregate | None = None
    stream: str | None = None
    finest: bool = False
    sharpened: bool = False

    def heatmap(
        self,
        trace: Trace,
        named: str | Sequence[int],
        image: int = 0,
        picture: Image.Image | None = None,
    ) -> HeatMap:
        """The map of a phrase, or of columns of the text, in one picture."""
        level = min(site.level or 0 for site in trace.sites)
        heat = trace.heatmap(
            named if isinstance(named, str) else None,
            columns=None if isinstance(named, str) else named,
            image=image,
            sites=(lambda site: site.level == level) if self.finest else None,
            aggregate=self.aggregate,
            stream=self.stream,
        )
        if not self.sharpened:
            return heat
        assert picture is not None, "to sharpen a map takes the picture"
        return heat.sharpened(picture)


WAYS = {
    "mean": Way(),
    "finest sites": Way(finest=True, stream=TEXT),
    "daam": Way({"heads": "each"}, aggregation.daam),
    "rescaled": Way(aggregate=aggregation.rescaled),
    "walked": Way(WALK, stream=WALKED),
    "agreed": Way(WALK),
    "auto": Way({"heads": "auto"}, aggregation.auto),
    "goca": Way({"heads": "auto"}, aggregation.goca),
    "contribution": Way(CONTRIBUTIONS),
    "carried": Way(WALK | CONTRIBUTIONS),
    "sharpened": Way(WALK | CONTRIBUTIONS, sharpened=True),
}
"""By name: the plain mean over all sites and over the finest, and the ways of
`t2i_xattn.aggregation`; `walked` is the mean of maps that one step along self-attention carried,
and `agreed` the plain mean held against it (`t2i_xattn.traces.agreement`). `contribution` spreads a
word's share by what the word contributes (`t2i_xattn.traces.contributed`), `carried` by that
carried along the finest self-attention, which is what `inspect` shows, and `sharpened` is the same
brought to the edges of the picture (`HeatMap.sharpened`)."""

USUAL = ("mean", "finest sites", "walked", "agreed", "contribution", "carried")


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


@contextmanager
def recorded(pipe: Any, ways: Mapping[str, Way], **options: Any) -> Iterator[dict[str, Trace]]:
    """Records one run as all of these ways need it; gives the trace of each.

    Args:
        pipe: the pipeline.
        ways: by name.
        options: of `record`, beside those of the ways.
    """
    traces: dict[tuple[tuple[str, Any], ...], Trace] = {}
    found: dict[str, Trace] = {}
    with ExitStack() as stack:
        for name, way in ways.items():
            key = tuple(sorted(way.recorded.items()))
            if key not in traces:  # ways that need the same share one; of one run, recordings nest
                wanted = {**options, **way.recorded}
                traces[key] = stack.enter_context(record(pipe, **wanted))
            found[name] = traces[key]
        yield found
