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
    """What is known of an embedding `(tokens, channels)`, whose role is open; None if nothing."""
    with _lock:
        known = [(tensor, texts) for tensor, texts in _texts.items()]
    for tensor, texts in reversed(known):
        if tensor.shape[1:] != embedding.shape:
            continue
        for row, text in zip(tensor, texts, strict=True):
            if text is not None and same(row, embedding):
                return replace(text, embedding=embedding)
    return None
