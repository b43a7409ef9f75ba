"""Prompts without one of their words, as the pipeline encodes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.listening import Ears
from t2i_xattn.prompts.words import Word

_ALIKE = 0.02
"""How far two encodings of one prompt may differ, as a share of their length: by rounding, and by
how many prompts were encoded at once."""


_NUMBER = re.compile(r"[+-]?\.?\d")
_OF_WORD = re.compile(r"""[^\s()\[\]",.=:+\\-]$""")


def without(prompt: str, words: Sequence[Word], read: bool = False) -> str:
    """A prompt without some of its words, and without the white space behind them.

    Args:
        prompt: as typed.
        words: of it.
        read: whether its syntax is read; then an empty pair of brackets stands in their place.
    """
    if read:
        return emptied(prompt, [(word.start, word.stop) for word in words])
    rest, end = "", 0
    for word in sorted(words, key=lambda each: each.start):
        rest += prompt[end : word.start]
        behind = prompt[word.stop :]
        end = word.stop + len(behind) - len(behind.lstrip())
    return (rest + prompt[end:]).strip()


def emptied(prompt: str, places: Sequence[tuple[int, int]]) -> str:
    """A prompt whose syntax is read, with `()` in some places, which says nothing.

    What is written about a word stays syntax so: signs go on standing behind something, and there
    is a text beside each AND.
    """
    text = prompt
    for start, stop in sorted(places, reverse=True):
        before, behind = text[:start], text[stop:]
        # A number there is text, but behind a bracket it would be a weight; and signs behind
        # "and/or" count for both of its words.
        nothing = "" if _NUMBER.match(behind) or _OF_WORD.search(before) else "()"
        if (len(before) - len(before.rstrip("\\"))) % 2:  # would make the bracket a letter
            escaped = text[start:stop] in ("AND", "BREAK")
            before = before[:-1] if escaped else before + "\\"
        text = before + nothing + behind
    return text


def whole_part(text: Text) -> str:
    """The prompt as far as the window of the text encoder reaches: a word less would otherwise make
    room for words that the picture has never seen."""
    assert text.prompt is not None
    if all(word.columns for word in text.words):
        return text.prompt
    return text.prompt[: max((word.stop for word in text.words if word.columns), default=0)]


def encoded_without(ears: Ears, text: Text, taken: Sequence[Sequence[Word]]) -> list[Tensor]:
    """A prompt without these words, each time others: embeddings `(tokens, channels)`.

    The words are taken out of the prompt before it is encoded, so that nothing of them stands in
    the columns of the others either.

    Args:
        ears: that listen to the pipeline.
        text: as the run has it.
        taken: for each encoding, the words that are taken out; all of its `prompt`.

    Raises:
        UserError: if the text is not one that the pipeline encodes from the prompt.
    """
    assert text.prompt is not None
    if any(word.source not in ("prompt", "picture") for word in text.words):
        raise UserError(
            "expected one prompt for contributions=True, which encodes it without each of its "
            "words, but came a second one; leave prompt_2=… or contributions out"
        )
    encode = text.again or (lambda prompt: ears.encode(prompt).embedding)
    again = encode(text.prompt)
    own = text.embedding.to(again)
    alike = again.shape == own.shape and bool((again - own).norm() <= _ALIKE * own.norm())
    if not alike:
        raise UserError(
            f"expected the prompt {shown(text.prompt)} to be encoded as {type(ears.pipe).__name__} "
            "encodes it, for contributions=True, but the denoiser is given another embedding "
            "(weights, a blend); leave contributions out"
        )
    prompt = whole_part(text)
    with ears.deaf():
        return [encode(without(prompt, words, text.again is not None)) for words in taken]
