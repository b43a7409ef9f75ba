"""A grade of trust in where a word is said to act."""

from __future__ import annotations

from t2i_xattn.explaining.evidence import Evidence, Grade

CONCENTRATED = 0.5
"""Least `concentration` of an effect map that is trusted."""


def grade(evidence: Evidence) -> Grade:
    """How far to trust a word's region.

    `"nothing"`: taking the word away changes nothing beyond the placebo, so whatever its attention
    map shows, it is no region in which the word acts. `"trust"`: it changes something, and mostly
    in one place. `"doubt"`: it changes something, but all over, or its attention says otherwise.
    """
    if evidence.found_by is None:
        return "nothing"
    return "trust" if evidence.concentration >= CONCENTRATED else "doubt"
