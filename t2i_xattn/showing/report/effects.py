"""What an explanation says of words, as a page holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.explaining.explanation import Explanation
from t2i_xattn.showing.report.quantised import SIDE, quantised, resized, size_within


@dataclass(frozen=True)
class Effects:
    """An explanation, and which of its pictures is shown."""

    explanation: Explanation
    number: int

    def add(self, words: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Writes into the words of a page what was found of them, and gives the maps: where taking
        a word away changes the making of the picture (`effect`), and where it acts (`region`).

        A word that stands several times was taken away everywhere at once, so all of its places
        have the same.
        """
        found = {each.word.casefold(): each for each in self.explanation.words}
        effects: dict[int, NDArray[np.float32]] = {}
        regions: dict[int, NDArray[np.float32]] = {}
        for place, word in enumerate(words):
            explained = found.get(word["text"].casefold())
            if explained is None or word["kind"] not in ("prompt", "phrase"):
                continue
            way = explained.evidence.found_by
            told = explained.as_json()
            del told["word"], told["share"]
            told["effect"] = explained.evidence.size
            word["explained"] = told
            effect = self.explanation.effect(explained.word, None, self.number).array
            effects[place] = resized(effect, size_within(_size(effect)))
            if way is not None:
                region = self.explanation.region(explained.word, self.number).array
                # It follows the edges of the picture.
                regions[place] = resized(region, size_within(_size(region), 2 * SIDE))
        made = []
        if regions:
            label = "where it acts"
            made.append(method("region", label, "none", list(regions), list(regions.values())))
        if effects:
            label = "effect of taking it away"
            made.append(method("effect", label, "effect", list(effects), list(effects.values())))
        return made


def method(
    name: str, label: str, unit: str, of: Sequence[int], maps: Sequence[NDArray[np.float32]]
) -> dict[str, Any]:
    """Maps of one kind as a page holds them.

    Args:
        name, label: of the kind; what the page calls it.
        unit: `"share"` of attention, `"effect"`, or `"none"` for what is for show.
        of: the numbers of their words.
        maps: of these, all of one size.
    """
    return {"name": name, "label": label, "unit": unit, "of": list(of), **quantised(maps)}


def _size(array: NDArray[np.float32]) -> tuple[int, int]:
    height, width = array.shape
    return height, width
