"""Which words of two prompts belong together."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def paired(one: Sequence[str], other: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Places of words in both prompts, in the order in which they stand.

    What is the same is paired; what stands in the other's place is too, where it is as many words
    ("a red circle", "a red star"); the rest stands alone, with None on the other side.
    """
    first, second = ([each.casefold() for each in words] for words in (one, other))
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    found: list[tuple[int | None, int | None]] = []
    for way, a, b, c, d in matcher.get_opcodes():
        if way == "equal" or b - a == d - c:
            found += zip(range(a, b), range(c, d), strict=True)
        else:
            found += [(n, None) for n in range(a, b)] + [(None, n) for n in range(c, d)]
    return found
