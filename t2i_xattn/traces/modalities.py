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
        UserError: if the run was recorded without them.
    """
    streams = [stream for stream in run.maps if stream.startswith(GIVEN_BY)]
    if not streams:
        raise UserError(
            "expected a run recorded with modalities=True, but this one has the streams "
            f"{', '.join(run.maps)}; record(pipe, modalities=True) keeps them"
        )
    parts = []
    for site in choose_sites(run.sites, sites):
        # Where a picture's scale is 0 at a site it gives nothing there.
        lengths = [
            float(of_steps(run, stream, site.name)[image].mean(dtype=np.float64))
            if site.name in run.maps[stream]
            else 0.0
            for stream in streams
        ]
        parts.append(np.array(lengths) / max(sum(lengths), np.finfo(np.float64).tiny))
    mean = np.mean(parts, axis=0)
    found = {
        stream.removeprefix(GIVEN_BY): float(part)
        for stream, part in zip(streams, mean, strict=True)
    }
    return dict(sorted(found.items(), key=lambda each: (each[0] != TEXT, each[0])))
