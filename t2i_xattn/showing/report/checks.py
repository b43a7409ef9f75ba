"""What a page is asked to show, held against what there is."""

from __future__ import annotations

from typing import Any

import PIL.Image

from t2i_xattn.errors import UserError, shown
from t2i_xattn.traces.asked import checked_image
from t2i_xattn.traces.broken_off import broken_off
from t2i_xattn.traces.recorded_run import RecordedRun
from t2i_xattn.traces.trace import Trace


def checked_trace(trace: Any, image: int) -> RecordedRun:
    """The data of a trace.

    Raises:
        UserError: if it is no trace, has no such image, or its run was cut off.
    """
    if not isinstance(trace, Trace):
        raise UserError(
            f"expected a trace, or what explain found, but came {shown(trace)}; record a run, or "
            "read one with Trace.load"
        )
    run = trace.run
    checked_image(run, image)
    if how := broken_off(run):
        raise UserError(
            f"expected a run that went to its end, but this one was {how}, so that its maps are of "
            "no finished picture; record it anew"
        )
    return run


def checked_picture(run: RecordedRun, picture: Any) -> PIL.Image.Image:
    """A picture of a run, in RGB.

    Raises:
        UserError: if there is none, or it is of another size.
    """
    if not isinstance(picture, PIL.Image.Image) or not min(picture.size):
        several = isinstance(picture, list | tuple)
        came = "none" if picture is None else "several" if several else shown(picture)
        what = "one of them, with image=…" if several else "report(trace, picture)"
        raise UserError(
            f"expected the picture of the trace as a PIL image, but came {came}; give {what}"
        )
    height, width = run.picture_size
    came = f"{picture.width} × {picture.height}"
    if run.crop is not None:
        left, top, right, bottom = run.crop
        if picture.size != (right - left, bottom - top):
            raise UserError(
                f"expected the part {tuple(run.crop)} of the picture (left, top, right, bottom) "
                f"that the maps are of, but came one of {came} pixels; give "
                "picture.crop(trace.run.crop)"
            )
    # Half a pixel of rounding is fine, a picture of another run is not.
    elif abs(picture.height * width - picture.width * height) > max(picture.size):
        raise UserError(
            f"expected a picture of {width} × {height} pixels or in that proportion, but came "
            f"{came}; give the one that this run painted"
        )
    # Its texts say how it was made.
    info, picture = picture.info, picture.convert("RGB")
    picture.info = info
    return picture
