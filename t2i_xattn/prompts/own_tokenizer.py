"""The pipeline's tokenizers, and ones of our own like them.

The fast tokenizers of transformers keep padding and truncation as a state that every call sets, so
that a call of ours beside one of the pipeline's, in another thread, would change what is encoded.
"""

from __future__ import annotations

import copy
import threading
from typing import Any
from weakref import WeakKeyDictionary

_copies: WeakKeyDictionary[Any, tuple[int, Any]] = WeakKeyDictionary()
_lock = threading.Lock()


def own_tokenizer(tokenizer: Any) -> Any:
    """A copy of a tokenizer, made once and again when tokens were added to it."""
    with _lock:
        size, made = _copies.get(tokenizer, (-1, None))
        if size != len(tokenizer):
            made = copy.deepcopy(tokenizer)
            _copies[tokenizer] = (len(tokenizer), made)
        return made


def tokenizer_beside(pipe: Any, encoder: str = "text_encoder") -> Any:
    """The tokenizer that belongs to a text encoder; None if there is none.

    Encoders that see pictures too have a processor, with a tokenizer inside.
    """
    name = encoder.replace("text_encoder", "tokenizer")
    for other in ("tokenizer", "text_processor", "processor"):
        each = name.replace("tokenizer", other)
        found = getattr(pipe, each, None)
        if found is not None:
            return getattr(found, "tokenizer", found)
    return None


def main_tokenizer(pipe: Any) -> Any:
    """The first tokenizer of a pipeline; None if it has none."""
    first = tokenizer_beside(pipe)
    return tokenizer_beside(pipe, "text_encoder_2") if first is None else first
