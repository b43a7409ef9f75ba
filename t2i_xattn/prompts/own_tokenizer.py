"""A tokenizer of our own, like the pipeline's.

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
