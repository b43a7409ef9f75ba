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
    from t2i_xattn.denoisers.sites import AttentionSite, find_sites
    from t2i_xattn.denoisers.wrapping import RecordingProcessor
    from t2i_xattn.editing.edit import edit
    from t2i_xattn.edits.distribution import MaskPadding, Temperature, TopK
    from t2i_xattn.edits.edit import Edit, EditContext
    from t2i_xattn.edits.function import EditFunction
    from t2i_xattn.edits.local_blend import LocalBlend
    from t2i_xattn.edits.maps import InjectMap, SwapMaps
    from t2i_xattn.edits.prompt_to_prompt import Refine, Replace, SelfReplace
    from t2i_xattn.edits.regional import RegionalPrompts
    from t2i_xattn.edits.restrict import Restrict
    from t2i_xattn.edits.weights import Add, Drop, Reweight
    from t2i_xattn.errors import UserError
    from t2i_xattn.guidance import (
        AttendAndExcite,
        Binding,
        BoxDiff,
        GuidanceLoss,
        Layout,
        Segregation,
        guide,
    )
    from t2i_xattn.inversion import invert
    from t2i_xattn.models.default import load_default
    from t2i_xattn.processors.intercepting import InterceptingProcessor, attention_forward
    from t2i_xattn.recording.record import record
    from t2i_xattn.showing.render import contact_sheet
    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "Add",
    "AttendAndExcite",
    "AttentionSite",
    "Binding",
    "BoxDiff",
    "Drop",
    "Edit",
    "EditContext",
    "EditFunction",
    "GuidanceLoss",
    "HeatMap",
    "InjectMap",
    "InterceptingProcessor",
    "Layout",
    "LocalBlend",
    "MaskPadding",
    "RecordingProcessor",
    "Refine",
    "RegionalPrompts",
    "Replace",
    "Restrict",
    "Reweight",
    "Segregation",
    "SelfReplace",
    "SwapMaps",
    "Temperature",
    "TopK",
    "Trace",
    "UserError",
    "__version__",
    "attention_forward",
    "contact_sheet",
    "edit",
    "find_sites",
    "guide",
    "invert",
    "load_default",
    "record",
]

# Where each public name lives. They are imported when they are first asked for (PEP 562), since
# torch and diffusers take seconds.
_HOMES = {
    "Add": "edits.weights",
    "AttendAndExcite": "guidance",
    "AttentionSite": "denoisers.sites",
    "Binding": "guidance",
    "BoxDiff": "guidance",
    "Drop": "edits.weights",
    "Edit": "edits.edit",
    "EditContext": "edits.edit",
    "EditFunction": "edits.function",
    "GuidanceLoss": "guidance",
    "HeatMap": "traces.heat_map",
    "InjectMap": "edits.maps",
    "InterceptingProcessor": "processors.intercepting",
    "Layout": "guidance",
    "LocalBlend": "edits.local_blend",
    "MaskPadding": "edits.distribution",
    "RecordingProcessor": "denoisers.wrapping",
    "Refine": "edits.prompt_to_prompt",
    "RegionalPrompts": "edits.regional",
    "Replace": "edits.prompt_to_prompt",
    "Restrict": "edits.restrict",
    "Reweight": "edits.weights",
    "Segregation": "guidance",
    "SelfReplace": "edits.prompt_to_prompt",
    "SwapMaps": "edits.maps",
    "Temperature": "edits.distribution",
    "TopK": "edits.distribution",
    "Trace": "traces.trace",
    "UserError": "errors",
    "attention_forward": "processors.intercepting",
    "contact_sheet": "showing.render",
    "edit": "editing.edit",
    "find_sites": "denoisers.sites",
    "guide": "guidance",
    "invert": "inversion",
    "load_default": "models.default",
    "record": "recording.record",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
