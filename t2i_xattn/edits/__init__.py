"""The edits of attention: pure functions `(probs, context) -> probs`, one idea a file."""

from t2i_xattn.edits.distribution import MaskPadding, Temperature, TopK
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.edits.function import EditFunction
from t2i_xattn.edits.local_blend import LocalBlend
from t2i_xattn.edits.maps import InjectMap, SwapMaps
from t2i_xattn.edits.picture_prompt import ScalePicture
from t2i_xattn.edits.prompt_to_prompt import Refine, Replace, SelfReplace
from t2i_xattn.edits.regional import RegionalPrompts
from t2i_xattn.edits.restrict import Restrict
from t2i_xattn.edits.weights import Add, Drop, Reweight

__all__ = [
    "Add",
    "Drop",
    "Edit",
    "EditContext",
    "EditFunction",
    "InjectMap",
    "LocalBlend",
    "MaskPadding",
    "Refine",
    "RegionalPrompts",
    "Replace",
    "Restrict",
    "Reweight",
    "ScalePicture",
    "SelfReplace",
    "SwapMaps",
    "Temperature",
    "TopK",
]
