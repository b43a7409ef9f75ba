"""A film of a picture's making: the picture after each step, and the maps of its words then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base

from t2i_xattn.errors import UserError
from t2i_xattn.showing.colours import Scale
from t2i_xattn.showing.grid import INK, PALE_INK, Cell, Measures, fitted, grid
from t2i_xattn.showing.legend import legend
from t2i_xattn.showing.percent import percent
from t2i_xattn.showing.render import overlay
from t2i_xattn.showing.sheet import side_of

if TYPE_CHECKING:
    from t2i_xattn.traces.heat_map import HeatMap

Format = Literal["gif", "webp", "mp4"]

HOLD = 1.5
"""Seconds for which the last frame stays."""

_COLOURS = 256

TOLD = (
    "Colours say how far a place stands above the word's lowest value at any step, in per cent of "
    "its highest. The picture is what the autoencoder makes of what is still noise in part."
)


def film_frames(
    pictures: Sequence[Image.Image],
    maps: Sequence[Sequence[HeatMap]],
    steps: Sequence[tuple[int, int]],
    prompt: str,
    colormap: str = "inferno",
    alpha: float = 0.7,
) -> Iterator[Image.Image]:
    """The frames, one after the other; none is held.

    Each word has one scale for the whole film, so that one sees its map grow: from its lowest value
    at any time by as much as its highest.

    Args:
        pictures: after each window of steps.
        maps: of the words in that window.
        steps: the windows, first and end.
        prompt: written on top.
        colormap, alpha: as for `overlay`.

    Raises:
        UserError: see `overlay`.
    """
    measures = Measures()
    text, small = measures.text, measures.small_text
    scales = [_over_time(each) for each in zip(*maps, strict=True)]
    last = steps[-1][1]
    foot = partial(legend, colormap=colormap, scale=None, told=TOLD, measures=measures)
    for picture, now, (_, end) in zip(pictures, maps, steps, strict=True):
        tile = fitted(picture, measures.of(side_of(len(now))))
        cells = [Cell(tile, [(f"step {end} of {last}", text, INK)])]
        for heat, scale in zip(now, scales, strict=True):
            told = f"mean {percent(heat.share)}, up to {percent(float(heat.array.max()))}"
            laid = overlay(tile, heat, colormap, alpha, scale=scale)
            cells.append(Cell(laid, [(heat.word, text, INK), (told, small, PALE_INK)]))
        yield grid(cells, measures, [(prompt, text, INK)], [foot])


def save_film(
    frames: Iterable[Image.Image], path: Path, form: Format, fps: float = 5, comment: str = ""
) -> None:
    """Writes a film; GIF and WebP go round and round.

    Args:
        frames: pictures; those that are smaller than the largest are laid on paper.
        path: the file.
        form: which kind of file.
        fps: frames a second, before the last one, which stays.
        comment: how it was made, which the file tells to whoever looks for it.

    Raises:
        UserError: for MP4, if imageio-ffmpeg or its ffmpeg is missing.
    """
    several = list(frames)
    size = max(each.width for each in several), max(each.height for each in several)
    several = [_on_paper(each, size) for each in several]
    if form == "mp4":
        _save_mp4(several, path, fps, comment)
        return
    durations = [round(1000 / fps)] * (len(several) - 1) + [round(1000 * HOLD)]
    options: dict[str, Any] = {"loop": 0, "duration": durations, "save_all": True}
    if form == "gif":
        # One table of colours for all, so that what stands still does not flicker.
        table = _side_by_side(several).quantize(_COLOURS, Image.Quantize.FASTOCTREE)
        several = [each.quantize(palette=table, dither=Image.Dither.NONE) for each in several]
        options |= {"optimize": False, "comment": comment.encode()}
    else:
        exif = Image.Exif()
        # As programs for Stable Diffusion write and read it.
        told = b"UNICODE\0" + comment.encode("utf-16-be")
        exif.get_ifd(IFD.Exif)[Base.UserComment] = told
        options |= {"quality": 85, "method": 4, "exif": exif}
    several[0].save(path, format=form.upper(), append_images=several[1:], **options)


def check_film(form: Format) -> None:
    """Raises `UserError` where this format cannot be written here."""
    if form == "mp4":
        _ffmpeg()


def _save_mp4(frames: Sequence[Image.Image], path: Path, fps: float, comment: str) -> None:
    writer = _ffmpeg().write_frames(
        str(path),
        frames[0].size,
        fps=fps,
        codec="libx264",
        quality=8,
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=[
            *("-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),  # the same bytes
            *("-metadata", "comment=" + comment.replace("\0", "")),
        ],
    )
    writer.send(None)
    try:
        for frame in [*frames, *[frames[-1]] * round(HOLD * fps)]:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "expected imageio-ffmpeg for a film as mp4, but it or its ffmpeg is not there; "
            "pip install 't2i-xattn[film]', or take gif or webp"
        ) from error
    return imageio_ffmpeg


def _on_paper(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A frame at a size whose sides are even, as videos need."""
    width, height = (each + each % 2 for each in size)
    paper = Image.new("RGB", (width, height), (255, 255, 255))
    paper.paste(frame, (0, 0))
    return paper


def _side_by_side(frames: Sequence[Image.Image]) -> Image.Image:
    """Some of the frames in one picture, whose colours are those of all."""
    some = [frames[round(at)] for at in np.linspace(0, len(frames) - 1, min(8, len(frames)))]
    width, height = some[0].size
    result = Image.new("RGB", (width, height * len(some)))
    for number, each in enumerate(some):
        result.paste(each, (0, number * height))
    return result


def _over_time(maps: Sequence[HeatMap]) -> Scale:
    lowest = min(float(heat.array.min()) for heat in maps)
    highest = max(float(heat.array.max()) for heat in maps)
    return lowest, lowest + max(highest, highest - lowest, 1e-12)
