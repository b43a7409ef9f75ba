"""What made a page, which stands in it as JSON."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

ID = "t2i-xattn-made"
"""Of the element that holds it."""


def made_in_page(path: Path, largest: int) -> str | None:
    """The JSON in a page of at most so many bytes; None if there is none."""
    try:
        if path.stat().st_size > largest:
            return None
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        return None
    reader = _Reader()
    reader.feed(text)
    return reader.found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", ID) in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found = (self.found or "") + data
