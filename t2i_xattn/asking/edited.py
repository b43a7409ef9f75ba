"""A picture painted before and after an edit, with the maps of its words."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.edits import edits_of
from t2i_xattn.asking.painting import painted
from t2i_xattn.asking.recording import recorded
from t2i_xattn.asking.request import paint
from t2i_xattn.traces.word_reports import heatmaps

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.trace import Trace

WALK = 1
"""As `inspect` has it, so that both show the same maps."""


@dataclass(frozen=True)
class Edited:
    """The pictures before and after.

    Attributes:
        before, after: the pictures.
        maps_before, maps_after: of their words, each word once.
        traces: of the two runs, each of one picture.
    """

    before: Image.Image
    after: Image.Image
    maps_before: list[HeatMap]
    maps_after: list[HeatMap]
    traces: tuple[Trace, Trace]


def paint_edited(pipe: Any, asked: EditRequest) -> Edited:
    """The picture before the edit and after it, from the same noise.

    Raises:
        UserError: the picture that is to be edited has a size that the model cannot take.
    """
    from t2i_xattn.editing.edit import edit
    from t2i_xattn.guidance.guide import guide
    from t2i_xattn.losses import AttendAndExcite, GuidanceLoss, Layout

    if asked.boxes or asked.attend:
        losses: list[GuidanceLoss] = []
        if asked.boxes:
            losses.append(Layout(asked.boxes))
        if asked.attend:
            losses.append(AttendAndExcite(list(asked.attend)))
        with recorded(pipe, WALK) as plain:
            (before,) = paint(pipe, asked.request)
        edits = edits_of(asked, images=None)
        with ExitStack() as stack:
            stack.enter_context(guide(pipe, *losses))
            if edits:
                stack.enter_context(edit(pipe, *edits))
            trace = stack.enter_context(recorded(pipe, WALK))
            (after,) = paint(pipe, asked.request)
        return Edited(before, after, heatmaps(plain), heatmaps(trace), (plain, trace))

    arguments = _two_rows(pipe, asked)
    with edit(pipe, *edits_of(asked, images=[1])), recorded(pipe, WALK) as trace:
        before, after = painted(pipe, **arguments)
    traces = trace.select(images=0), trace.select(images=1)
    return Edited(before, after, heatmaps(trace, 0), heatmaps(trace, 1), traces)


def _two_rows(pipe: Any, asked: EditRequest) -> dict[str, Any]:
    """Arguments for a run of the prompt and its target in one batch, from the same noise."""
    import torch

    from t2i_xattn.inversion.flow import guidance_of

    request = asked.request
    prompts = [request.prompt, asked.target]
    if asked.image is not None:
        from t2i_xattn.inversion import invert

        inversion = invert(
            pipe,
            asked.image,
            request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            negative_prompt=request.negative or "",
            max_pixels=None,  # fitted, or of a --size within the limits
        )
        return inversion.arguments(prompts)
    width, height = request.size or (None, None)
    return {
        "prompt": prompts,
        "width": width,
        "height": height,
        "num_inference_steps": request.steps,
        guidance_of(pipe).argument: request.guidance,
        "negative_prompt": None if request.negative is None else [request.negative] * 2,
        "generator": [torch.Generator().manual_seed(request.seed) for _ in prompts],
    }
