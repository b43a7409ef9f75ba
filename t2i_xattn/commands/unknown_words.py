"""Words that a model was never taught are told as it paints them."""

from __future__ import annotations

from typing import Any

import typer

from t2i_xattn.models.vocabulary import UnknownWord, vocabulary_of


def told_unknown(pipe: Any, *texts: str | None) -> tuple[UnknownWord, ...] | None:
    """The words of some texts that the pipeline's model does not know, which are told on the error
    stream; None where it is not known which words it knows."""
    vocabulary = vocabulary_of(pipe)
    if vocabulary is None:
        return None
    unknown = vocabulary.unknown(*texts)
    if unknown:
        typer.echo(f"t2i-xattn: {vocabulary.sentence(unknown)}", err=True)
    return unknown
