"""A trace of words alone: the columns of each word added up, as `record(words=…)` keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.denoisers.streams import OF_TEXT, OF_WORDS, Groups
from t2i_xattn.traces.chosen import columns_of
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace


def of_words(trace: Trace, phrases: Sequence[str]) -> Trace:
    """A trace of one picture, of the conditional branch, with the maps of some phrases only.

    Args:
        trace: with every column of the text.
        phrases: words or phrases of the prompt, wherever they stand.

    Raises:
        UserError: if the prompt does not have one.
    """
    run = trace.run
    groups: Groups = tuple(dict.fromkeys(columns_of(run, phrase, 0, None) for phrase in phrases))
    maps = {
        stream: {name: _added(run, stream, array, groups) for name, array in of_sites.items()}
        for stream, of_sites in run.maps.items()
        if stream in OF_TEXT
    }
    counts = {stream: run.counts[stream] for stream in maps}
    of_branches: dict[str, tuple[Groups, ...]] = dict.fromkeys(run.branches, (groups,))
    return Trace(replace(run, maps=maps, counts=counts, groups=of_branches, walked_columns=None))


def _added(
    run: RecordedRun, stream: str, array: NDArray[Any], groups: Groups
) -> NDArray[np.float32]:
    """`(…, tokens)` to `(…, groups)`."""
    kept = run.walked_columns if stream in OF_WORDS else None
    places = {column: n for n, column in enumerate(kept or range(array.shape[-1]))}
    sums = [array[..., [places[column] for column in group]].sum(axis=-1) for group in groups]
    return np.stack(sums, axis=-1)
