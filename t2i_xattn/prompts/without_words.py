"""Prompts without one of their words, as the pipeline encodes them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.listening import Ears
from t2i_xattn.prompts.words import Word

_ALIKE = 0.02
"""How far two encodings of one prompt may differ, as a share of their length: by rounding, and by
how many prompts were encoded at once."""


def without(prompt: str, words: Sequence[Word]) -> str:
    """A prompt without some of its words, and without the white space behind them."""
    rest, end = "", 0
    for word in sorted(words, key=lambda each: each.start):
        rest += prompt[end : word.start]
        behind = prompt[word.stop :]
        end = word.stop + len(behind) - len(behind.lstrip())
    return (rest + prompt[end:]).strip()


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
        return [encode(without(prompt, words)) for words in taken]
