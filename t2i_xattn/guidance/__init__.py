"""Latents moved by losses over the maps of words, while a picture is made."""

from t2i_xattn.guidance.guide import guide
from t2i_xattn.losses.binding import Binding
from t2i_xattn.losses.loss import AttendAndExcite, BoxDiff, GuidanceLoss, Layout
from t2i_xattn.losses.segregation import Segregation
from t2i_xattn.losses.word_maps import WordMaps

__all__ = [
    "AttendAndExcite",
    "Binding",
    "BoxDiff",
    "GuidanceLoss",
    "Layout",
    "Segregation",
    "WordMaps",
    "guide",
]
