"""The versions of what makes a picture."""

from __future__ import annotations

import importlib.metadata

import t2i_xattn


def versions() -> dict[str, str]:
    """By package: t2i-xattn, torch, diffusers and transformers."""
    others = ("torch", "diffusers", "transformers")
    found = {name: importlib.metadata.version(name) for name in others}
    return {"t2i-xattn": t2i_xattn.__version__} | found
