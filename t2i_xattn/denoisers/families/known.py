"""The families that are known, in the order in which they are asked."""

from __future__ import annotations

from t2i_xattn.denoisers.families import Family
from t2i_xattn.denoisers.families.by_row import ByRow
from t2i_xattn.denoisers.families.cross import Cross
from t2i_xattn.denoisers.families.picture_first import PictureFirst
from t2i_xattn.denoisers.families.text_first import TextFirst
from t2i_xattn.denoisers.families.unet import UNet

FAMILIES: tuple[Family, ...] = (UNet(), Cross(), TextFirst(), PictureFirst(), ByRow())
