"""A word's share of attention, spread by what the word contributes to each place."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from t2i_xattn.aggregation import FloatMap
from t2i_xattn.denoisers.branches import CONDITIONAL
from t2i_xattn.denoisers.streams import CARRIED, CONTRIBUTION
from t2i_xattn.traces.recorded_run import RecordedRun


def spread(plain: FloatMap, contribution: FloatMap) -> FloatMap:
    """A word's share of attention, spread as the word's contribution is.

    Attention says how much places look at a word; what the word does may come through the columns
    of others, such as a colour through its noun's. So how much is taken from the one, and where
    from the other: m(x) = c(x) · mean of a / mean of c.

    Args:
        plain: a, the share of attention, `(height, width)`.
        contribution: c, 0 or more, `(height, width)`; see `kernel.contribution`.

    Returns:
        A map whose mean is the word's share of attention; its places alone are no shares, and over
        all tokens they do not sum to 1. The plain map where the word contributes nothing at all.
    """
    total = float(contribution.mean(dtype=np.float64))
    if total <= 0:
        return plain
    share = float(plain.mean(dtype=np.float64))
    return np.asarray(contribution * (share / total), dtype=np.float32)


def contribution_stream(
    run: RecordedRun, columns: Collection[int], image: int, of_sites: bool
) -> str | None:
    """The stream of contributions that there is for columns of a text; None where there is none.

    The carried one is of all sites together; of some sites it is their own. Contributions are of
    the conditional branch, of words, and of a run itself: the difference of two may be 0 or less.
    """
    known = (CONTRIBUTION,) if of_sites else (CARRIED, CONTRIBUTION)
    found = next((stream for stream in known if stream in run.maps), None)
    if found is None or run.branches[0] != CONDITIONAL or "minus" in run.settings:
        return None
    every, others = run.words[CONDITIONAL][image], ("spans", "picture")
    words = [word for word in every if word.source not in others]
    if any(word.source == "picture" and set(columns) & {*word.columns} for word in every):
        return None
    if run.groups is None and not set(columns) <= {c for word in words for c in word.columns}:
        return None
    return found
