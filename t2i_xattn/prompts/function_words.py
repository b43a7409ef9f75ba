"""Words that name nothing by themselves: shown quietly."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files


def is_function_word(word: str) -> bool:
    """Whether it is an article, preposition, conjunction, pronoun or auxiliary of English."""
    return word.casefold() in _known()


@cache
def _known() -> frozenset[str]:
    text = (files("t2i_xattn.prompts") / "function_words.json").read_text("utf-8")
    return frozenset(json.loads(text))
