"""From a picture back to the noise that makes it, so that a user's picture can be inspected and
edited like one that the model painted."""

from t2i_xattn.inversion.checks import Method
from t2i_xattn.inversion.methods import Inversion, invert

__all__ = ["Inversion", "Method", "invert"]
