"""Memory that is free goes back to the system."""

from __future__ import annotations

import ctypes
import sys

EVERY = 32
"""Batches between two times of giving back."""


def give_back() -> None:
    """Has the C library give back what it holds of freed memory, where it is glibc.

    Arrays that one thread makes and another lets go leave holes in its pools, so that a long run
    would seem to grow.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
