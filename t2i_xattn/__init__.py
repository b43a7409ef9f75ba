"""What every word of a prompt does inside a text-to-image diffusion model.

>>> import t2i_xattn as tx
>>> pipe = tx.load_default()
>>> with tx.record(pipe) as trace:
...     image = pipe("a red circle left of a blue square").images[0]
>>> trace.heatmap("red circle").overlay(image).save("red_circle.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2i_xattn import aggregation as aggregation
    from t2i_xattn import edits, losses, processors
    from t2i_xattn import variants as variants
    from t2i_xattn.batch.many import record_many
    from t2i_xattn.conditioning.condition import condition
    from t2i_xattn.conditioning.picture_tokens import PictureTokens as PictureTokens
    from t2i_xattn.denoisers.sites import AttentionSite as AttentionSite
    from t2i_xattn.denoisers.sites import find_sites as find_sites
    from t2i_xattn.editing.edit import edit
    from t2i_xattn.errors import UserError
    from t2i_xattn.explaining.explain import explain
    from t2i_xattn.guidance.guide import guide
    from t2i_xattn.inversion.methods import invert
    from t2i_xattn.models.default import load_default
    from t2i_xattn.processors.swap import swap
    from t2i_xattn.recording.record import record
    from t2i_xattn.showing.report.report import report
    from t2i_xattn.traces.heat_map import HeatMap as HeatMap
    from t2i_xattn.traces.trace import Trace
    from t2i_xattn.variants.cheaper import cheaper as cheaper

__version__ = "0.7.0"

__all__ = [
    "Trace",
    "UserError",
    "condition",
    "edit",
    "edits",
    "explain",
    "guide",
    "invert",
    "load_default",
    "losses",
    "processors",
    "record",
    "record_many",
    "report",
    "swap",
]

# Where each public name lives, and others that few need; modules are themselves.
# They are imported when they are first asked for (PEP 562), since torch and diffusers take seconds.
_HOMES = {
    "AttentionSite": "denoisers.sites",
    "HeatMap": "traces.heat_map",
    "PictureTokens": "conditioning.picture_tokens",
    "Trace": "traces.trace",
    "UserError": "errors",
    "cheaper": "variants.cheaper",
    "condition": "conditioning.condition",
    "edit": "editing.edit",
    "explain": "explaining.explain",
    "find_sites": "denoisers.sites",
    "guide": "guidance.guide",
    "invert": "inversion.methods",
    "load_default": "models.default",
    "record": "recording.record",
    "record_many": "batch.many",
    "report": "showing.report.report",
    "swap": "processors.swap",
}

_MODULES = ("aggregation", "variants")
"""That fewer need than those of `__all__`."""


def __getattr__(name: str) -> Any:
    if name not in {*__all__, *_HOMES, *_MODULES}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES, *_MODULES})
