"""The versions of what makes a picture."""

from __future__ import annotations

import functools
import importlib.metadata

import t2i_xattn


def versions() -> dict[str, str]:
    """By package: t2i-xattn, torch, diffusers and transformers."""
    others = ("torch", "diffusers", "transformers")
    return {"t2i-xattn": t2i_xattn.__version__} | {name: _version(name) for name in others}


# Asked of the disk, and every run asks.
_version = functools.cache(importlib.metadata.version)
