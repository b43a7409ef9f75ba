"""What words give to each other in joint attention."""

from __future__ import annotations

import numpy as np

from t2i_xattn.denoisers.sites import Sites, choose_sites
from t2i_xattn.denoisers.streams import BETWEEN
from t2i_xattn.errors import UserError
from t2i_xattn.traces.chosen import columns_of, columns_within
from t2i_xattn.traces.recorded_run import RecordedRun, of_steps


def between(run: RecordedRun, phrase: str, other: str, image: int, sites: Sites | None) -> float:
    """See `Trace.between`."""
    if BETWEEN not in run.maps:
        raise UserError(
            "expected a trace of what the text's tokens give to each other, but this one has "
            "none; record joint attention with text_looks=True"
        )
    looking, looked_at = (columns_of(run, each, image, None) for each in (phrase, other))
    names = [site.name for site in choose_sites(run.sites, sites)]
    found = [of_steps(run, BETWEEN, name)[image] for name in names if name in run.maps[BETWEEN]]
    if not found:
        raise UserError(
            f"expected a site with the stream {BETWEEN!r}, but the choice leaves none of "
            f"{len(run.maps[BETWEEN])}; trace.sites lists them"
        )
    square = [each.reshape(len(each), -1, each.shape[-1]) for each in found]
    tokens = min(min(each.shape[1:]) for each in square)
    rows, columns = (columns_within(each, tokens) for each in (looking, looked_at))
    given = [each[:, rows][..., columns] for each in square]
    return float(np.mean([each.sum(axis=-1).mean() for each in given]))
