"""What there is to say of the words of a picture, a row each: what `inspect` and `batch` tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.regions import Box
    from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class WordReport:
    """A word and where it looked.

    Attributes:
        word: the word or phrase.
        share: its share of attention, 0 to 1, mean over the picture.
        box: where it looked: the box of the map's mask (top, left, bottom, right), in fractions of
            the picture; None for a flat map.
        peak: row and column of the highest value, in pixels.
        lowest, highest: the share at the places that give it least and most.
        peakedness: 0 the same everywhere, 1 a single point.
    """

    word: str
    share: float
    box: Box | None
    peak: tuple[int, int]
    peakedness: float
    lowest: float
    highest: float


def heatmaps(trace: Trace, image: int = 0, phrases: Sequence[str] = ()) -> list[HeatMap]:
    """The maps of some phrases, or of every word of the prompt once, in its order."""
    if not phrases:
        # A word that stands several times is shown once, where it stands first.
        once: dict[str, str] = {}
        for word in trace.words_of(image):
            if word.columns:
                once.setdefault(word.text.casefold(), word.text)
        phrases = tuple(once.values())
    return [trace.heatmap(phrase, image=image) for phrase in phrases]


def word_reports(maps: Sequence[HeatMap]) -> list[WordReport]:
    """The rows of the table, in the order of the maps."""
    return [
        WordReport(
            word=heat.word,
            share=heat.share,
            box=heat.box(),
            peak=heat.peak(),
            peakedness=heat.peakedness,
            lowest=float(heat.array.min()),
            highest=float(heat.array.max()),
        )
        for heat in maps
    ]
