"""Cheaper ways to compute attention, to switch on with `t2i_xattn.cheaper`."""

from t2i_xattn.variants.chunked import Chunked
from t2i_xattn.variants.kept import KeptKeys
from t2i_xattn.variants.late import SkipLate
from t2i_xattn.variants.merged import MergedPlaces
from t2i_xattn.variants.pruned import PrunedKeys
from t2i_xattn.variants.top import TopKeys
from t2i_xattn.variants.variant import Variant

__all__ = [
    "Chunked",
    "KeptKeys",
    "MergedPlaces",
    "PrunedKeys",
    "SkipLate",
    "TopKeys",
    "Variant",
]
