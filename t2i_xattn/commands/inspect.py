"""What each word did in a picture: the numbers of a table, and the files of a folder."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from t2i_xattn.showing.render import contact_sheet
from t2i_xattn.traces.agreement import agreed_heatmap

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.regions import Box
    from t2i_xattn.traces.trace import Trace


@dataclass(frozen=True)
class WordReport:
    """One row of the table.

    Attributes:
        word: the word or phrase.
        share: its share of attention, 0 to 1, mean over the picture.
        box: where it looked: the box of the map's mask, in pixels; None for a flat map.
        peak: row and column of the highest value.
        peakedness: 0 the same everywhere, 1 a single point.
    """

    word: str
    share: float
    box: Box | None
    peak: tuple[int, int]
    peakedness: float


def heatmaps(
    trace: Trace, image: int = 0, phrases: tuple[str, ...] = (), *, agreed: bool = False
) -> list[HeatMap]:
    """The maps of some phrases, or of every word of the prompt once, in its order.

    With ``agreed`` they are held against those carried along self-attention (`agreement`).
    """
    if not phrases:
        # A word that stands several times is shown once, where it stands first.
        once: dict[str, str] = {}
        for word in trace.words_of(image):
            if word.columns:
                once.setdefault(word.text.casefold(), word.text)
        phrases = tuple(once.values())
    heatmap = partial(agreed_heatmap, trace) if agreed else trace.heatmap
    return [heatmap(phrase, image=image) for phrase in phrases]


def word_reports(maps: list[HeatMap]) -> list[WordReport]:
    """The rows of the table, in the order of the maps."""
    return [
        WordReport(
            word=heat.word,
            share=heat.share,
            box=heat.box(),
            peak=heat.peak(),
            peakedness=heat.peakedness,
        )
        for heat in maps
    ]


def write_inspection(
    folder: Path, picture: Image.Image, maps: list[HeatMap], prompt: str
) -> list[WordReport]:
    """Write the picture, an overlay a word, the sheet of all words, and the table as JSON."""
    reports = word_reports(maps)
    picture.save(folder / "picture.png")
    for number, heat in enumerate(maps, start=1):
        name = re.sub(r"[^\w-]+", "-", heat.word.casefold()).strip("-")[:40]
        heat.overlay(picture).save(folder / f"word-{number:02d}-{name}.png")
    contact_sheet(picture, maps, prompt=prompt).save(folder / "words.png")
    table = {"prompt": prompt, "words": [asdict(report) for report in reports]}
    (folder / "words.json").write_text(json.dumps(table, indent=2, ensure_ascii=False), "utf-8")
    return reports
