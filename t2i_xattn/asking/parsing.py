"""Options that are written as text, read: sizes, lists of words, pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from t2i_xattn.errors import UserError, shown

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "„": "“", "«": "»"}
# A part in quotes may hold commas; a quote within a word is an apostrophe.
_PART = re.compile(
    r"\s*(?:"
    + "|".join(f"{first}[^{last}]*{last}(?=\\s*(?:,|$))" for first, last in _QUOTES.items())
    + r"|[^,]*)(?:,|$)"
)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"128"`` or ``"160x128"`` as width and height."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})(?:[x×](\d{1,9}))?", text.strip().lower())
    if not match:
        raise UserError(f"expected a --size like 128 or 160x128, but came {shown(text)}")
    width = int(match[1])
    return width, int(match[2] or width)


def parse_list(text: str | None) -> tuple[str, ...]:
    """``'red circle, "a, b"'`` as its parts, each once, without the quotes around them."""
    parts = (unquoted(match[0].rstrip(",")) for match in _PART.finditer(text or ""))
    return tuple(dict.fromkeys(part for part in parts if part))


def unquoted(text: str) -> str:
    """A text without the blanks and the pair of quotes around it."""
    text = text.strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    return text


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """`["cat=dog", …]` as a mapping.

    Raises:
        UserError: a text without an equals sign, or with nothing beside it, or twice the same
            phrase before it.
    """
    pairs: dict[str, str] = {}
    once: set[str] = set()
    for text in texts:
        name, _, value = (unquoted(part) for part in text.partition("="))
        if not (name and value):
            raise UserError(f"expected --{option} word=…, but came {shown(text)}")
        folded = " ".join(name.casefold().split())
        if folded in once:
            raise UserError(
                f"expected one --{option} a phrase, but came {shown(name)} twice; leave one out"
            )
        once.add(folded)
        pairs[name] = value
    return pairs
