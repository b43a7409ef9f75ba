"""Pictures of the user's: the one door through which they come in."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from t2i_xattn.errors import UserError, shown, shown_path
from t2i_xattn.files import is_file

MAX_PIXELS = 100_000_000
"""Of a file: more than cameras have. Its pixels are held in memory, four bytes each."""

MAX_ASPECT = 16
"""How many times as long as the other one side may be; a model makes nothing of a thread."""

_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""Those that Pillow reads by itself; for some others it starts programs."""

_STILL = ("MPO",)
"""Formats whose further pictures are previews of the first or its depth, as phones save them."""

_own_limit = threading.Lock()


def read_picture(path: str | PathLike[str], max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """A picture file as RGB, upright as its EXIF says, what is transparent on white.

    Of 16 bits a colour the upper 8 are taken.

    Args:
        path: a PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF, JPEG 2000 or PPM file of one picture.
        max_pixels: width × height that it may have at most; None: any.

    Raises:
        UserError: there is no such file, it is no picture, damaged or cut off, too large, has
            several pictures, or colours that have no reading in RGB.
    """
    file, name = Path(path), shown_path(path)
    if not is_file(file):
        raise UserError(f"expected a picture file at {name}, but there is none; check the path")
    with _without_pillow_s_limit():
        try:
            Image.init()
            formats = [each for each in _FORMATS if each in Image.OPEN]
            with Image.open(file, formats=formats) as picture:
                _check(picture, name, max_pixels)
                return upright_rgb(picture)
        except UserError:
            raise
        # What Pillow's readers raise depends on the format and on what is damaged.
        except Exception as error:
            raise UserError(
                f"expected a picture that can be read at {name}, but it cannot; give a PNG or "
                "JPEG file that opens elsewhere"
            ) from error


def checked_picture(given: Any, max_pixels: int | None = MAX_PIXELS) -> Image.Image:
    """A picture, or the one at a path, as RGB.

    Args:
        given: a PIL picture, or a path as `read_picture` takes them.
        max_pixels: as there.

    Raises:
        UserError: if it is neither, or as `read_picture` does.
    """
    if isinstance(given, str | PathLike):
        return read_picture(given, max_pixels)
    if not isinstance(given, Image.Image):
        raise UserError(
            f"expected a picture of PIL or the path of one, but came {shown(given)}; open it with "
            "PIL.Image.open"
        )
    check_pixels(given.size, max_pixels, "a picture", "max_pixels=…")
    return upright_rgb(given)


def upright_rgb(picture: Image.Image) -> Image.Image:
    """A picture as RGB, turned as its EXIF says, what is transparent on white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        array = np.asarray(picture).astype(np.uint16)
        return Image.fromarray((array >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise UserError(
            f"expected a picture of 8 or 16 bits a colour, but came one of 32 (mode {picture.mode})"
            "; save it as PNG or JPEG"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def check_pixels(size: tuple[int, int], max_pixels: int | None, what: str, lift: str) -> None:
    """Raises `UserError` for a picture of more pixels than `max_pixels`; None: any.

    Args:
        size: width and height in pixels.
        max_pixels: the limit.
        what: the picture, as the message calls it.
        lift: how the limit is raised, as the message says it.
    """
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise UserError(
            f"expected {what} of at most {max_pixels} pixels, but came {width} × {height}; make it "
            f"smaller, or raise the limit with {lift}"
        )


def check_aspect(size: tuple[int, int]) -> None:
    """Raises `UserError` for a width and height of which one is more than `MAX_ASPECT` times the
    other; brought to a model's size by its shorter side, a thread would take gigabytes."""
    width, height = size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(
            f"expected a picture whose one side is at most {MAX_ASPECT} times as long as the "
            f"other, but came {width} × {height}; cut it to the part that matters"
        )


def fitted(pipe: Any, picture: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture in a size that a pipeline's model can take.

    Args:
        pipe: the pipeline.
        picture: any.
        size: width and height, for which what sticks out on two sides is cut off; by default about
            as many pixels as the model paints by itself, in the picture's own proportion.

    Raises:
        UserError: one side is more than `MAX_ASPECT` times as long as the other.
    """
    if size is None:
        check_aspect(picture.size)
        width, height = picture.size
        factor = (own_area(pipe) / (width * height)) ** 0.5
        side = side_of(pipe)
        size = tuple(max(side, round(each * factor / side) * side) for each in picture.size)
    if picture.size == size:
        return picture
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def side_of(pipe: Any) -> int:
    """The pixels that the sides of a pipeline's pictures are multiples of."""
    # SD3 says the size of its patches, FLUX its processor how large the packed ones are.
    side = int(getattr(pipe, "vae_scale_factor", 8)) * int(getattr(pipe, "patch_size", 1))
    config = getattr(getattr(pipe, "image_processor", None), "config", None)
    return max(side, int(getattr(config, "vae_scale_factor", 1)))


def own_area(pipe: Any) -> int:
    """The pixels of a picture that a pipeline paints when no size is said."""
    width, height = own_size(pipe) or (64 * _scale(pipe),) * 2
    return width * height


def own_size(pipe: Any) -> tuple[int, int] | None:
    """Width and height of such a picture, as the pipeline's parts tell; None if they do not."""
    from t2i_xattn.denoisers.of_pipeline import main_denoiser

    config = getattr(main_denoiser(pipe), "config", None)
    found = getattr(pipe, "default_sample_size", None) or getattr(config, "sample_size", None)
    sides = tuple(found) if isinstance(found, list | tuple) else (found, found)
    if not found or len(sides) != 2:
        return None
    height, width = sides
    return int(width) * _scale(pipe), int(height) * _scale(pipe)


def _scale(pipe: Any) -> int:
    return int(getattr(pipe, "vae_scale_factor", 8))


def _check(picture: Image.Image, name: str, max_pixels: int | None) -> None:
    what = f"a picture at {name}"
    check_pixels(picture.size, max_pixels, what, "max_pixels=… (--no-limits in commands)")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format not in _STILL:
        raise UserError(
            f"expected one picture at {name}, but the file has {frames}; save the one you mean as "
            "a PNG file"
        )


@contextmanager
def _without_pillow_s_limit() -> Iterator[None]:
    """Pillow holds files against a limit of the whole process, and warns; here the caller's limit
    counts."""
    with _own_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says of damage is said in the sentence
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
