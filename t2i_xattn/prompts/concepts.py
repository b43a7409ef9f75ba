"""Concepts: words or phrases that need not be in the prompt, encoded each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from t2i_xattn.errors import UserError
from t2i_xattn.prompts.listening import Ears, can_listen, text_encoders
from t2i_xattn.prompts.words import word_spans


@dataclass(frozen=True, eq=False)
class Concept:
    """A concept as it was encoded.

    Attributes:
        name: as the user gave it.
        embedding: of the whole text that it was encoded as, `(tokens, channels)`.
        columns: where its own tokens stand in it: not those of a template, nor special tokens.
    """

    name: str
    embedding: Tensor
    columns: tuple[int, ...]


def checked_concepts(concepts: Sequence[str] | None) -> tuple[str, ...]:
    """The concepts, as given; none for None.

    Raises:
        UserError: for what is no list of words or phrases, each once.
    """
    if concepts is None:
        return ()
    if isinstance(concepts, str) or not isinstance(concepts, Sequence) or not len(concepts):
        raise UserError(
            "expected concepts=[…], a list of at least one word or phrase, such as "
            f"['sky', 'red ball'], but came {concepts!r}"
        )
    for concept in concepts:
        if not isinstance(concept, str) or not word_spans(concept):
            raise UserError(
                f"expected concepts of letters or digits, but came {concept!r}; give words or "
                "phrases, such as 'red ball'"
            )
    folded = [concept.casefold() for concept in concepts]
    twice = [concept for concept in concepts if folded.count(concept.casefold()) > 1]
    if twice:
        raise UserError(f"expected each concept once, but came {twice[0]!r} twice; leave one out")
    return tuple(concepts)


def check_can_encode(pipe: Any) -> None:
    """Raises `UserError` if a pipeline cannot encode other texts than its prompts."""
    if not can_listen(pipe):
        raise UserError(
            "expected a pipeline with `encode_prompt` to encode concepts=… with, but came "
            f"{type(pipe).__name__}; use a pipeline such as StableDiffusionXLPipeline"
        )
    if not text_encoders(pipe):
        raise UserError(
            "expected a pipeline with a text encoder to encode concepts=… with, but this "
            f"{type(pipe).__name__} has none; load it with its text encoders, or leave concepts out"
        )


def encoded_concepts(ears: Ears, names: Sequence[str]) -> tuple[Concept, ...]:
    """The concepts as the pipeline's own text encoders give them, unheard, each by itself.

    Raises:
        UserError: if one does not fit into the window of a text encoder, or where its tokens stand
            is not known.
    """
    return tuple(_encoded(ears, name) for name in names)


def _encoded(ears: Ears, name: str) -> Concept:
    try:
        text = ears.encode(name)
    except (AttributeError, TypeError) as error:
        parts = getattr(ears.pipe, "components", {})
        missing = [key for key in parts if key.startswith("text_enc") and parts[key] is None]
        if not missing:
            raise
        raise UserError(
            f"expected a pipeline with all of its text encoders to encode {name!r} with, but "
            f"{' and '.join(missing)} is not loaded; load it, or leave concepts=… out"
        ) from error
    if any(not word.columns or word.cut for word in text.words):
        raise UserError(
            f"expected concepts that fit into the window of the text encoder, but {name[:40]!r} "
            "goes beyond it; shorten it"
        )
    columns = sorted({column for word in text.words for column in word.columns})
    if not columns:
        raise UserError(
            f"expected a text encoder whose tokens are known, but not where those of {name!r} "
            f"stand in what {type(ears.pipe).__name__} encodes; leave concepts=… out"
        )
    return Concept(name, text.embedding, tuple(columns))


def as_given(own: Tensor, concepts: Sequence[Concept]) -> list[Tensor]:
    """The concepts' texts `(tokens, channels)`, where and as exact as the denoiser's own.

    Raises:
        UserError: if they are not of the kind that the denoiser is given.
    """
    for each in concepts:
        if each.embedding.shape[-1] != own.shape[-1]:
            raise UserError(
                f"expected concepts of {own.shape[-1]} channels, as the denoiser's text is, but "
                f"the pipeline encodes {each.name!r} in {each.embedding.shape[-1]}; leave "
                "concepts=… out"
            )
    return [each.embedding.to(own) for each in concepts]
