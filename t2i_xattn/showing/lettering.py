"""Text in pictures: whatever a prompt is written in, no letter is lost without a word.

The font is DejaVu Sans, which lies beside this file: Latin with all its accents, Greek, Cyrillic,
Hebrew, Arabic and many symbols. What it does not have stands in a frame: most emoji by their name
in Unicode, such as "rocket", and letters (Chinese, Japanese) by their number. A font of emoji would
be as large as this one, and one that is there on some machines only would make other pictures.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from typing import Any

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Lettering:
    """Letters of one size.

    Attributes:
        size: in pixels.
    """

    size: int

    @property
    def line(self) -> int:
        """The height of a line, in pixels."""
        return round(self.size * 1.3)

    def width(self, text: str) -> float:
        """The width of text on one line, in pixels."""
        return sum(self._width(piece, known) for piece, known in self._pieces(_shaped(text, text)))

    def wrapped(self, text: str, width: float) -> list[str]:
        """Text in lines no wider than `width` pixels, in the order in which it is read; a word too
        long for a line is broken."""
        lines: list[str] = []
        for word in text.split():
            if lines and self.width(f"{lines[-1]} {word}") <= width:
                lines[-1] += f" {word}"
                continue
            lines.append("")
            for character in word:
                if lines[-1] and self.width(lines[-1] + character) > width:
                    lines.append("")
                lines[-1] += character
        return lines

    def write(
        self,
        draw: ImageDraw.ImageDraw,
        at: tuple[int, int],
        lines: Sequence[str],
        colour: Colour,
    ) -> int:
        """Writes lines below each other, from right to left where the script runs so.

        Args:
            draw: of the picture to write into.
            at: left and top of the first line, in pixels.
            lines: of one text, as `wrapped` parts it.
            colour: of the letters.

        Returns:
            Where the next line would begin.
        """
        left, top = at
        whole = " ".join(lines)
        for line in lines:
            x: float = left
            for piece, known in self._pieces(_shaped(line, whole)):
                if known:
                    draw.text((x, top), piece, font=_font(self.size), fill=colour)
                else:
                    self._frame(draw, (x, top), piece, colour)
                x += self._width(piece, known)
            top += self.line
        return top

    def _pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Runs of characters that the font has, and each other character by itself."""
        known = ""
        for character in text:
            if _has(character):
                known += character
                continue
            if known:
                yield known, True
                known = ""
            yield character, False
        if known:
            yield known, True

    def _width(self, piece: str, known: bool) -> float:
        if known:
            return float(_font(self.size).getlength(piece))
        return float(self._small().getlength(_in_frame(piece))) + 6

    def _small(self) -> Any:
        return _font(max(8, round(self.size * 0.65)))

    def _frame(
        self, draw: ImageDraw.ImageDraw, at: tuple[float, float], character: str, colour: Colour
    ) -> None:
        """A frame around the name or number of a character that the font does not have."""
        x, y = at
        width = self._width(character, False)
        box = (x + 1, y + 1, x + width - 2, y + self.size + 1)
        draw.rectangle(box, outline=colour)
        middle = (x + width / 2 - 0.5, y + 1 + self.size / 2)
        draw.text(middle, _in_frame(character), font=self._small(), fill=colour, anchor="mm")


def _shaped(text: str, whole: str) -> str:
    """Text from left to right as it is seen, in the letters' forms, without what has none.

    Args:
        text: a line.
        whole: the text that it is of, whose first letter says which way lines run.
    """
    # Joiners, marks of direction and selectors of variants are not seen.
    seen = (each for each in unicodedata.normalize("NFC", text) if not _is_unseen(each))
    text = "".join(seen)
    if not any(unicodedata.bidirectional(each) in ("R", "AL", "AN") for each in text):
        return text
    # Pillow does this with a library that not every system has.
    from arabic_reshaper import ArabicReshaper
    from bidi.algorithm import get_display  # the other one of the package leaves brackets be

    strong = (unicodedata.bidirectional(each) for each in whole)
    first = next((each for each in strong if each in ("L", "R", "AL")), "L")
    text = ArabicReshaper({"delete_harakat": False}).reshape(text)
    # What Unicode gives no direction (yet) stands as something from left to right meanwhile.
    without = sorted({each for each in text if unicodedata.bidirectional(each) not in _CLASSES})
    other = {each: chr(0xF0000 + number) for number, each in enumerate(without)}
    for each, put in other.items():
        text = text.replace(each, put)
    text = get_display(text, base_dir="L" if first == "L" else "R")
    for each, put in other.items():
        text = text.replace(put, each)
    return text


_CLASSES = {"L", "R", "AL", "EN", "ES", "ET", "AN", "CS", "NSM", "BN", "B", "S", "WS", "ON"}
"""The directions of characters that can be put in order."""


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


_LONGEST = 18
"""Characters of a name in a frame, which is no wider than a label then."""


def _in_frame(character: str) -> str:
    """What stands for a character that the font does not have."""
    name = unicodedata.name(character, "").lower().removeprefix("regional indicator symbol ")
    if unicodedata.category(character) != "So" or not name:
        return f"{ord(character):04X}"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…"


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    """Whether the font has a glyph of its own for a character."""
    font = _font(24)
    missing = font.getmask("\uffff")  # which is no character
    mask = font.getmask(character)
    same = mask.size == missing.size and bytes(mask) == bytes(missing)
    return not same and unicodedata.category(character) != "Cc"


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.truetype(
        BytesIO(_file()), size, layout_engine=ImageFont.Layout.BASIC
    )  # the same everywhere, whether or not a system has more


@lru_cache
def _file() -> bytes:
    return (files("t2i_xattn.showing") / "fonts" / "DejaVuSans.ttf").read_bytes()
