"""How what is asked for is recorded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2i_xattn.asking.request import Request
    from t2i_xattn.traces.trace import Trace


def recorded(
    pipe: Any, walk: int, negative: bool = False, **options: Any
) -> AbstractContextManager[Trace]:
    """Records with what gives the best maps of words: carried along self-attention, and by what
    words contribute where that can be read.

    Args:
        pipe: the pipeline.
        walk: steps along self-attention; 0: the plain shares of attention.
        negative: whether the words of the negative prompt are recorded too, as a second branch.
        options: further ones of `record`.
    """
    from t2i_xattn.denoisers.branches import CONDITIONAL, UNCONDITIONAL
    from t2i_xattn.recording.contributions import can_contribute
    from t2i_xattn.recording.record import record

    branches = [CONDITIONAL, UNCONDITIONAL] if negative else [CONDITIONAL]
    contributions = walk > 0 and can_contribute(pipe)
    return record(pipe, branches=branches, walk=walk, contributions=contributions, **options)


def with_negative(pipe: Any, request: Request) -> bool:
    """Whether a request's negative prompt is sure to run as a branch of its own: in a UNet that is
    guided. Some transformers take guidance as a number, and leave the negative prompt out."""
    config = getattr(getattr(pipe, "unet", None), "config", None)
    plain = config is not None and getattr(config, "time_cond_proj_dim", None) is None
    return bool(request.negative) and plain and request.guidance > 1
