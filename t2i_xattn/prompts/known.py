"""What is known of embeddings that `condition` has made: it goes with them.

Kept by the tensor itself, as long as that lives, and found by value: pipelines repeat embeddings,
cast them and move them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.texts import same

_texts = WeakTensorKeyDictionary()
_lock = threading.Lock()


def remember(embeddings: Tensor, texts: Sequence[Text | None]) -> None:
    """Keeps what is known of embeddings `(texts, tokens, channels)`."""
    with _lock:
        _texts[embeddings] = tuple(texts)


def recall(embedding: Tensor) -> Text | None:
    """What is known of an embedding `(tokens, channels)`, whose role is open; None if nothing.

    Of several that were made alike it is the last, with the phases of one that has some: which of
    them a run is given, its embeddings do not say.
    """
    found: Text | None = None
    with _lock:
        known = [(tensor, texts) for tensor, texts in _texts.items()]
    for tensor, texts in reversed(known):
        if tensor.shape[1:] != embedding.shape:
            continue
        for row, text in zip(tensor, texts, strict=True):
            if text is None or (found is not None and not text.phases):
                continue
            if same(row, embedding):
                found = replace(found or text, embedding=embedding, phases=text.phases)
                if found.phases:
                    return found
    return found
