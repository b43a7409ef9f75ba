"""Tiny pipelines whose blocks have the text in a stream of its own; and any one by its name."""

from __future__ import annotations

import importlib
from typing import Any

from tiny.case import Case

_NAMES = {
    "text_first": (
        "FluxPipeline",
        "FluxPipeline with true guidance",
        "FluxKontextPipeline with a reference",
        "Flux2KleinPipeline",
    ),
    "picture_first": (
        "StableDiffusion3Pipeline",
        "StableDiffusion3Pipeline, skip-layer guidance",
        "StableDiffusion3Pipeline, dual attention",
    ),
    "llm": ("QwenImagePipeline, guided", "QwenImagePipeline, two prompts, guided"),
    "text_first_more": ("ChromaPipeline",),
}


def case_of(module: str, name: str) -> Case:
    """One of a file of tiny pipelines."""
    cases: Any = importlib.import_module(f"tiny.{module}").CASES
    (found,) = [case for case in cases if case.name == name]
    return found


CASES = {name: case_of(module, name) for module, names in _NAMES.items() for name in names}
