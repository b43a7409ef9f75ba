"""A pipeline run for its pictures, which are looked at before anyone saves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


def painted(pipe: Any, **arguments: Any) -> list[Image.Image]:
    """The pictures of a run.

    Raises:
        UserError: see `pictures_of`.
    """
    return pictures_of(pipe(**arguments, output_type="np").images)


def pictures_of(given: Any) -> list[Image.Image]:
    """Pictures from a pipeline's numbers `(pictures, height, width, 3)`, 0 to 1.

    Raises:
        UserError: some are no numbers, which Pillow would make black.
    """
    import numpy as np
    from diffusers.image_processor import VaeImageProcessor

    arrays = np.asarray(given)
    if not np.isfinite(arrays).all():
        raise UserError(
            "expected a picture, but the model's numbers are not finite (NaN), which would be "
            "black; take a smaller --guidance or smaller weights, or check the model's files"
        )
    pictures: list[Image.Image] = VaeImageProcessor.numpy_to_pil(arrays)
    return pictures
