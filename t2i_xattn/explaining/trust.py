"""A grade of trust in where a word is said to act."""

from __future__ import annotations

import math

from t2i_xattn.explaining.evidence import Evidence, Grade

SPREAD = frozenset({"size", "length", "number", "side", "height", "depth"})
"""Kinds of words whose effect lies in no region of their own: they move outlines and places."""

CONSTANT, CORRELATION, AREA, SIZE, OF_SPREAD = 2.98, 0.63, -3.81, 0.87, -1.88
"""Of the logistic regression in `probability`: fitted to 465 words in 100 pictures of the world
(seeds from 50,001,000 on) whose regions are known, and held against others by
`scripts/evaluate.py trust`."""

TRUSTED = 0.85
"""Least probability of a region that is trusted: 92.2 % of 564 such words were right in pictures
that neither this limit nor the regression was chosen on (docs/explanations.md)."""


def probability(evidence: Evidence, kind: str | None) -> float:
    """How likely a word's region is right, as far as the evidence tells, 0 to 1.

    σ(2.98 + 0.63 ρ − 3.81 a + 0.87 log₁₀ s − 1.88 [spread]): ρ is the rank correlation of attention
    and effect, a the region's part of the picture, s the size of the effect, and a word of a spread
    kind is one of `SPREAD`. Right means: an IoU of 0.7 or more with what the word names, or half of
    the squared effect inside it. Of models of photographs nothing is measured.
    """
    score = (
        CONSTANT
        + CORRELATION * evidence.rank_correlation
        + AREA * evidence.area
        + SIZE * math.log10(max(evidence.size, 1e-3))
        + OF_SPREAD * (kind in SPREAD)
    )
    return 1 / (1 + math.exp(-score))


def grade(evidence: Evidence, kind: str | None = None) -> Grade:
    """How far to trust a word's region.

    - `"nothing"`: taking the word away changes nothing beyond the placebo. Whatever its attention
      map shows, it is no region in which the word acts.
    - `"trust"`: the region is right with a probability of `TRUSTED` or more.
    - `"doubt"`: it changes something, but all over, or little, or not where attention is.
    """
    if evidence.found_by is None:
        return "nothing"
    return "trust" if probability(evidence, kind) >= TRUSTED else "doubt"
