"""What the maps of words are to be like, as losses; `t2i_xattn.guide` moves latents along them."""

from t2i_xattn.losses.attend_and_excite import AttendAndExcite
from t2i_xattn.losses.binding import Binding
from t2i_xattn.losses.layout import BoxDiff, Layout
from t2i_xattn.losses.loss import GuidanceLoss
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
]
