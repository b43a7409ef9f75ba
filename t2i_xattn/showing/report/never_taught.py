"""Which words of a page the model was never taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2i_xattn.models.vocabulary import as_json, vocabulary_of_model


def mark_unknown(
    branches: Sequence[dict[str, Any]], model: str | None
) -> list[dict[str, Any]] | None:
    """Writes into the words of a page whether the model was never taught them (`unknown`), and
    gives those of all texts, each once.

    Args:
        branches: of one run, as the page holds them.
        model: the folder that the run's model came from.

    Returns:
        As JSON has them; None where it is not known which words the model knows, and then no word
        is marked.
    """
    vocabulary = vocabulary_of_model(model)
    words = [word for branch in branches for word in branch["words"]]
    # Those of a second prompt, and concepts, stand in no text.
    texts = [branch["text"] for branch in branches] + [word["text"] for word in words]
    unknown = None if vocabulary is None else vocabulary.unknown(*texts)
    folded = {each.word.casefold() for each in unknown or ()}
    for word in words:
        word["unknown"] = not folded.isdisjoint(word["text"].casefold().split())
    return as_json(unknown)
