"""A grade of trust in where a word is said to act."""

from __future__ import annotations

from t2i_xattn.explaining.evidence import Evidence, Grade

LEAST_SIZE = 0.1
"""Least change of the denoiser's answer, as a part of it, that a trusted region has."""

LEAST_CORRELATION = 0.2
"""Least rank correlation of attention and effect."""

LARGEST = 0.5
"""Largest region, as a part of the picture: beyond it the picture as a whole has changed."""


def grade(evidence: Evidence) -> Grade:
    """How far to trust a word's region.

    - `"nothing"`: taking the word away changes nothing beyond the placebo. Whatever its attention
      map shows, it is no region in which the word acts.
    - `"trust"`: it changes much (`LEAST_SIZE`), where attention says so as well
      (`LEAST_CORRELATION`), and in a part of the picture (`LARGEST`).
    - `"doubt"`: it changes something, but one of these does not hold.

    The limits were chosen on pictures of the world whose regions are known, and are held against
    others by `scripts/evaluate.py trust` (docs/explanations.md); of models of photographs nothing
    is measured.
    """
    if evidence.found_by is None:
        return "nothing"
    trusted = (
        evidence.size >= LEAST_SIZE
        and evidence.rank_correlation >= LEAST_CORRELATION
        and evidence.area <= LARGEST
    )
    return "trust" if trusted else "doubt"
