"""Pages of the app as a browser reads them."""

from __future__ import annotations

from html.parser import HTMLParser

TAGS = {"figure", "figcaption", "div", "img", "i", "p", "button", "label", "input"}


class Read(HTMLParser):
    """A page as a browser reads it.

    Attributes:
        text, prompt: all of its text, and that of the prompt.
        tags: the names of its elements.
        words: how many light something.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = self.prompt = ""
        self.tags: set[str] = set()
        self.words, self._within = 0, False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.words += ("class", "word") in attrs
        self._within |= ("class", "prompt") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._within &= tag != "p"

    def handle_data(self, data: str) -> None:
        self.text += data
        self.prompt += data if self._within else ""
