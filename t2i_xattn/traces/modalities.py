"""How much of what the picture's places take comes from the text, and from pictures as prompts."""

from __future__ import annotations

import numpy as np

from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.denoisers.streams import GIVEN_BY, TEXT
from t2i_xattn.errors import UserError
from t2i_xattn.traces.recorded_run import RecordedRun, of_steps


def modalities_of(run: RecordedRun, image: int, sites: Sites | None) -> dict[str, float]:
    """See `Trace.modalities`.

    Raises:
        UserError: if the run was recorded without them, or is a difference of two.
    """
    streams = [stream for stream in run.maps if stream.startswith(GIVEN_BY)]
    if not streams:
        raise UserError(
            "expected a run recorded with modalities=True, but this one has the streams "
            f"{', '.join(run.maps)}; record(pipe, modalities=True) keeps them"
        )
    if "minus" in run.settings:
        raise UserError(
            "expected a recorded run for modalities, but came the difference of two, whose lengths "
            "are no parts of a whole; ask each of the two traces, and take one from the other"
        )
    parts = []
    for site in choose_sites(run.sites, sites):
        lengths = [_length(run, stream, site.name, image) for stream in streams]
        parts.append(np.array(lengths) / max(sum(lengths), np.finfo(np.float64).tiny))
    mean = np.mean(parts, axis=0)
    found = {
        stream.removeprefix(GIVEN_BY): float(part)
        for stream, part in zip(streams, mean, strict=True)
    }
    return dict(sorted(found.items(), key=lambda each: (each[0] != TEXT, each[0])))


def _length(run: RecordedRun, stream: str, site: str, image: int) -> float:
    """The mean length of what the places take from a stream, over all the calls of the site."""
    calls = run.counts[GIVEN_BY + TEXT][site][0].sum()
    own = run.counts[stream][site][0].sum() if site in run.maps[stream] else 0
    if not own and calls:
        return 0.0
    mean = of_steps(run, stream, site)[image].mean(dtype=np.float64)
    # While a picture's scale is 0 diffusers' processors leave its call out: it gives nothing then.
    return float(mean) * float(own / calls)
