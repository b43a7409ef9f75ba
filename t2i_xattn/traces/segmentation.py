"""Which word each place of a picture belongs to: words that compete for it, and the background."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, nearest, shown
from t2i_xattn.traces import regions
from t2i_xattn.traces.competing import (
    VOID,
    connected_parts,
    labels_of,
    min_max_or_zeros,
    remove_small,
)
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.quality import Quality, qualities_of
from t2i_xattn.traces.regions import Box, Mask

__all__ = ["MOST_WORDS", "VOID", "Regions"]

MOST_WORDS = 254
"""Labels from 1 to 254; 0 is the background, 255 undecided."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Which word each place of a picture belongs to.

    Comes from `Trace.regions`, from heat maps by `Regions.of`, or from a file by `Regions.load`.

    Attributes:
        words: that have a region, or none if another word is above them everywhere.
        labels: uint8 `(height, width)`, read-only: 0 the background, 1 the first word, 2 the
            second …, 255 (`VOID`) undecided.
        maps: fp32 `(words and background, height, width)`, read-only: the map of each word, then
            of each word of the background, from 0 at its lowest place to 1 at its highest.
        cuts: for each map, the value that a place needs to belong to its word, 0 to 1.
        background: words that took part and whose places are background.
        crop: left, top, right and bottom, in pixels, of the part of a larger picture that this is
            of; None: all of the picture.
    """

    words: tuple[str, ...]
    labels: NDArray[np.uint8]
    maps: NDArray[np.float32]
    cuts: tuple[float, ...]
    background: tuple[str, ...] = ()
    crop: tuple[int, ...] | None = None

    @staticmethod
    def of(
        maps: Sequence[HeatMap],
        *,
        background: Sequence[HeatMap] = (),
        threshold: float | Literal["otsu"] = 0.5,
        smallest: float = 0.0,
        undecided: float = 0.0,
    ) -> Regions:
        """The regions of some heat maps of one picture.

        Shares of attention differ a lot from word to word, so each map is brought to 0 at its
        lowest place and 1 at its highest. A place belongs to the word whose map is the highest
        there, of those that reach their threshold; where none does, it is background. This is the
        rule of Nguyen et al. 2023, "Dataset Diffusion" (arXiv 2309.14303), whose threshold is 0.6
        and whose undecided places lie 0.1 below it.

        Args:
            maps: a map a word, all of one size.
            background: maps of words that take part, but whose places are background, such as the
                ground or the sky.
            threshold: 0 to 1, or `"otsu"` for the value that parts each map best; see
                `regions.threshold`.
            smallest: connected parts of less than this share of the picture become background.
            undecided: background places whose map lies at most this far below its threshold are
                `VOID`: training data does better without them than with wrong ones.

        Raises:
            UserError: if there are no maps, two of the same name, or of several sizes, or a number
                is not what it is to be.
        """
        of_words, of_background = (
            _checked_maps("maps", maps),
            _checked_maps("background", background),
        )
        names = _checked_names(of_words, of_background)
        for name, value in (("smallest", smallest), ("undecided", undecided)):
            if not regions.is_number(value) or not 0 <= value <= 1:
                raise UserError(f"expected {name}= from 0 to 1, but came {shown(value)}")
        every = np.stack([min_max_or_zeros(each.array) for each in (*of_words, *of_background)])
        cuts = tuple(_cut(each, threshold) for each in every)
        labels = labels_of(every, cuts, len(of_words), undecided)
        if smallest > 0:
            remove_small(labels, len(of_words), smallest * labels.size)
        for array in (labels, every):
            array.flags.writeable = False
        count = len(of_words)
        return Regions(names[:count], labels, every, cuts, names[count:], of_words[0].crop)

    def __repr__(self) -> str:
        height, width = self.labels.shape
        told = ", ".join(f"{word!r} {(self.mask(word)).mean():.1%}" for word in self.words[:5])
        more = f" and {len(self.words) - 5} more" if len(self.words) > 5 else ""
        return f"<Regions of {told}{more}, {height} × {width}>"

    def label(self, word: str) -> int:
        """The number of a word in `labels`; capitals do not matter.

        Raises:
            UserError: if no region was asked for such a word.
        """
        known = [each.casefold() for each in self.words]
        if not isinstance(word, str) or word.casefold() not in known:
            hint = nearest(word, self.words) if isinstance(word, str) else ""
            raise UserError(
                f"expected a word of {', '.join(map(repr, self.words[:9]))}, but came "
                f"{shown(word)}{hint}; ask for it when the regions are made"
            )
        return known.index(word.casefold()) + 1

    def mask(self, word: str) -> Mask:
        """The places that belong to a word, `(height, width)` of bool."""
        mask: Mask = self.labels == self.label(word)
        return mask

    def box(self, word: str) -> Box | None:
        """The box around the largest connected part of a word's region, in fractions of the
        picture; None if it has no region."""
        return regions.bounding_box(regions.largest_component(self.mask(word)))

    def parts(self, word: str, smallest: float = 0.0) -> list[Mask]:
        """The connected parts of a word's region, the largest first; see `each_part`."""
        return list(self.each_part(word, smallest))

    def each_part(self, word: str, smallest: float = 0.0) -> Iterator[Mask]:
        """The connected parts of a word's region, one after the other, the largest first.

        Pixels are connected by a side or a corner.

        Args:
            word: it.
            smallest: parts of less than this share of the picture are left out.

        Returns:
            Masks `(height, width)`; none if the word has no region.
        """
        if not regions.is_number(smallest) or not 0 <= smallest <= 1:
            raise UserError(f"expected smallest= from 0 to 1, but came {shown(smallest)}")
        parts, sizes = connected_parts(self.mask(word))
        order = 1 + np.argsort(-sizes[1:], kind="stable")
        for number in order[sizes[order] >= smallest * parts.size]:
            yield parts == number

    @cached_property
    def qualities(self) -> tuple[Quality, ...]:
        """How far each word's region is to be believed, in the order of the words."""
        return qualities_of(self.words, self.labels, self.maps, self.cuts)

    def quality(self, word: str) -> Quality:
        """How far a word's region is to be believed."""
        return self.qualities[self.label(word) - 1]

    def coco(
        self,
        *,
        image_id: int = 1,
        first_id: int = 1,
        file_name: str | None = None,
        smallest: float = 0.0,
    ) -> dict[str, Any]:
        """The regions as COCO has them, an annotation a connected part; see `traces.coco`."""
        from t2i_xattn.traces.coco import coco_of

        return coco_of(self, image_id, first_id, file_name, smallest)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the regions as `.png`, `.npz` or `.json` (COCO); see `traces.regions_file`.

        Raises:
            UserError: if the name ends in something else, or cannot be written to.
        """
        from t2i_xattn.traces.regions_file import write_regions

        write_regions(self, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> Regions:
        """Reads the `.npz` file that `save` wrote.

        Raises:
            UserError: if the file is missing, damaged, or none of regions.
        """
        from t2i_xattn.traces.regions_file import read_regions

        return read_regions(path)


def _cut(scaled: NDArray[np.float32], threshold: Any) -> float:
    if isinstance(threshold, str) and threshold == "otsu":
        return regions.otsu(scaled)
    if regions.is_number(threshold) and 0 <= threshold <= 1:
        return float(threshold)
    raise UserError(f"expected a threshold from 0 to 1 or 'otsu', but came {shown(threshold)}")


def _checked_maps(name: str, given: Any) -> list[HeatMap]:
    maps: list[Any] = [given]
    if isinstance(given, Iterable) and not isinstance(given, str):
        with suppress(TypeError):  # an array of numpy without axes
            maps = list(islice(given, 1000))  # more than may compete
    for each in maps:
        if not isinstance(each, HeatMap):
            raise UserError(
                f"expected {name}= as heat maps, but came {shown(each)}; give a list such as "
                "[trace.heatmap('red circle'), trace.heatmap('blue square')]"
            )
    return maps


def _checked_names(maps: list[HeatMap], background: list[HeatMap]) -> tuple[str, ...]:
    names = tuple(each.word for each in (*maps, *background))
    if not 1 <= len(maps) <= MOST_WORDS or len(background) > MOST_WORDS:
        raise UserError(
            f"expected 1 to {MOST_WORDS} words that compete for the picture, but came {len(maps)} "
            f"and {len(background)} of the background; give a list of words"
        )
    folded = [name.casefold() for name in names]
    if len(set(folded)) < len(folded):
        twice = next(name for name in names if folded.count(name.casefold()) > 1)
        raise UserError(f"expected each word once, but came {shown(twice)} twice; leave one out")
    first = maps[0]
    for each in (*maps, *background):
        if each.array.shape != first.array.shape or each.crop != first.crop:
            raise UserError(
                f"expected maps of one picture, but those of {shown(first.word)} and "
                f"{shown(each.word)} have the sizes {first.array.shape} and {each.array.shape}, or "
                "are of several parts; take them of one trace and image"
            )
    return names
