"""How a pipeline reads a prompt whose syntax it takes for letters: by what is heard of it."""

from __future__ import annotations

from typing import Any, Literal

from t2i_xattn.conditioning.reading import Reading, ReadToken, ReadWord
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text, kinds_of
from t2i_xattn.prompts.listening import Ears, can_listen
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL


def readings_heard(pipe: Any, prompt: str, negative: str | None = None) -> list[Reading]:
    """How each text encoder of a pipeline reads a prompt and a negative one, which are encoded.

    Raises:
        UserError: for a pipeline that encodes no prompts.
    """
    if not can_listen(pipe):
        raise UserError(
            f"expected a pipeline that encodes prompts, but came {type(pipe).__name__}; take a "
            "text-to-image pipeline"
        )
    ears, listener = Ears.of(pipe), _Listener()
    ears.join(listener)
    try:
        texts = [(CONDITIONAL, prompt, ears.encode(prompt))]
        if negative is not None:
            texts.append((UNCONDITIONAL, negative, ears.encode(negative)))
    finally:
        ears.leave(listener)
    return [each for branch, typed, text in texts for each in _of_text(branch, typed, text)]


class _Listener:
    def run_again(self) -> None: ...

    def heard(self) -> None: ...


def _of_text(branch: str, prompt: str, text: Text) -> list[Reading]:
    owners = {
        column: encoder
        for word in text.words
        for column, encoder in zip(word.columns, word.encoders, strict=False)
    }
    first = next(iter(owners.values()), "text_encoder")
    spans = {column: (word.start, word.stop) for word in text.words for column in word.columns}
    tokens: dict[str, list[ReadToken]] = {each: [] for each in dict.fromkeys(owners.values())}
    tokens = tokens or {first: []}
    encoder = first
    every = zip(text.tokens, text.ids or (), kinds_of(text), strict=False)
    for column, (spelling, one, kind) in enumerate(every):
        # What is no word's stands with the encoder of the word before it.
        encoder = owners.get(column, encoder)
        if kind != "padding":
            special: Literal["text", "special"] = "special" if kind == "special" else "text"
            span = spans.get(column, (0, 0))
            tokens[encoder].append(ReadToken(spelling, one, special, column, 0, 1.0, *span, 0))
    return [
        Reading(
            prompt,
            branch,
            0,
            0,
            name,
            tuple(of_encoder),
            tuple(_words(text, name, owners)),
            tuple(word.text for word in text.words if name in word.cut or not word.columns),
        )
        for name, of_encoder in tokens.items()
    ]


def _words(text: Text, encoder: str, owners: dict[int, str]) -> list[ReadWord]:
    """A text's words with their columns of one encoder."""
    found = []
    for word in text.words:
        own = tuple(column for column in word.columns if owners.get(column) == encoder)
        if own or not word.columns:
            names, ones, zeros = (encoder,) * len(own), (1.0,) * len(own), (0,) * len(own)
            found.append(
                ReadWord(
                    word.text,
                    word.start,
                    word.stop,
                    own,
                    word.source,
                    names,
                    weights=ones,
                    chunks=zeros,
                )
            )
    return found
