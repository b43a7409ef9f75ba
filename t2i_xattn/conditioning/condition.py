"""`condition`: a prompt with weights, blends and schedules as arguments of a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2i_xattn.arguments import checked
from t2i_xattn.conditioning.encoders import Scheme, scheme_of
from t2i_xattn.conditioning.picture_tokens import PictureTokens
from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.reading import Reading
from t2i_xattn.conditioning.row import Row
from t2i_xattn.conditioning.schedule import Schedule
from t2i_xattn.denoisers.pictures import has_ip_adapter
from t2i_xattn.errors import UserError, shown
from t2i_xattn.pictures import MAX_PIXELS, check_aspect, checked_picture
from t2i_xattn.prompts.known import remember
from t2i_xattn.prompts.listening import unheard
from t2i_xattn.prompts.roles import CONDITIONAL, UNCONDITIONAL


class PromptPictures(NamedTuple):
    """Tokens of pictures `(prompts, tokens, channels)`, and those that stand for none."""

    own: Tensor
    none: Tensor


class Conditioning(dict[str, Any]):
    """Arguments of a pipeline's call, which know what was typed.

    Attributes:
        readings: how each text encoder reads each prompt: its tokens and words with their columns,
            weights and chunks, and what it cuts.
    """

    readings: tuple[Reading, ...]

    def __init__(self, arguments: dict[str, Any], readings: Sequence[Reading]) -> None:
        super().__init__(arguments)
        self.readings = tuple(readings)


@checked
def condition(
    pipe: Any,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    *,
    way: Way = "compel",
    clip_skip: int | None = None,
    max_sequence_length: int | None = None,
    picture: Any = None,
    picture_tokens: PictureTokens | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> Conditioning:
    """Embeds prompts with weights, blends, chunks and schedules, for any pipeline of diffusers with
    the text encoders of Stable Diffusion, SDXL, SD3 or FLUX.

    The syntax is that of `t2i_xattn.conditioning.syntax`. A text without it is embedded as the
    pipeline does, but read to its end: longer ones than the window of CLIP go into several windows.
    What is known of each column goes with the tensors: `record` and `edit` show the words as typed.
    (`explain` writes prompts of its own and takes no tensors; it reads the syntax while
    `prompts_read` is open.) Pooled texts have no weights, and one window, as the pipelines have
    them.

    Args:
        pipe: the pipeline; its text encoders are asked.
        prompt: one or several.
        negative_prompt: one for all or one each; by default what the pipeline takes.
        way: what a weight does: `"compel"` as the library compel does, `"lpw"` as diffusers'
            community pipelines of that name and the web UIs; see `weighting`.
        clip_skip: layers of CLIP to leave out, as the pipelines' own argument.
        max_sequence_length: tokens of T5's window; by default the pipeline's, 256 for SD3 and 512
            for FLUX.
        picture: a PIL picture, or the path of one, that stands beside the text as a prompt: one
            for all, or a list of one each.
        picture_tokens: what makes tokens of it, which are concatenated with the text's: one
            softmax over both, see `PictureTokens`. By default the picture goes to the pipeline's
            IP-Adapter, which has a softmax of its own and takes one picture for all prompts.
        max_pixels: width × height that a picture may have at most; None: any.

    Returns:
        Arguments for the pipeline's call, `prompt_embeds` `(prompts, tokens, channels)` and more;
        of one length, with the negative ones. With a schedule a `callback_on_step_end` too.

    Raises:
        UserError: for syntax that cannot be, with its place; for a textual inversion that is not
            loaded; for words that T5's window cuts off; for what is no picture, or is too large or
            narrow a one, or one without anything that takes it; or for another pipeline.

    Example:
        >>> image = pipe(**condition(pipe, "a (red:1.4) circle", "blur")).images[0]
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negative: list[str | None] = (
        [negative_prompt] * len(prompts)
        if negative_prompt is None or isinstance(negative_prompt, str)
        else list(negative_prompt)
    )
    if not prompts or len(negative) != len(prompts):
        raise UserError(
            f"expected one prompt or more, and as many negative prompts, but came {len(prompts)} "
            f"and {len(negative)}; give one negative prompt for all, or one each"
        )
    scheme = scheme_of(pipe, clip_skip, max_sequence_length)
    tokens, adapter = _pictures(pipe, picture, picture_tokens, len(prompts), max_pixels)
    rows = rows_of(scheme, prompts, negative, way, negative_prompt is not None, tokens)
    for row in rows:
        row.check_whole()
    starts = _starts(rows)
    if not scheme.negative and any(len(e.starts) > 1 for e in rows if e.branch == UNCONDITIONAL):
        raise UserError(
            f"expected a negative prompt without a schedule for {type(pipe).__name__}, which hands "
            f"it to no callback, but came {shown(negative_prompt)}; leave [before:after:step] out"
        )
    with unheard(pipe):
        phases = [_tensors(rows, start) for start in starts]
    arguments: dict[str, Any] = dict(phases[0])
    if len(starts) > 1:
        arguments |= _scheduled(pipe, starts, phases)
    arguments |= adapter
    known = inspect.signature(pipe.__call__).parameters
    if missing := [name for name in arguments if name not in known and "negative" not in name]:
        raise UserError(
            f"expected a pipeline that takes {' and '.join(missing)}, but "
            f"{type(pipe).__name__} does not; take another, or leave that out of the prompt"
        )
    taken = {name: each for name, each in arguments.items() if name in known}
    return Conditioning(taken, readings(rows))


def _pictures(
    pipe: Any,
    picture: Any,
    picture_tokens: PictureTokens | None,
    prompts: int,
    max_pixels: int | None,
) -> tuple[PromptPictures | None, dict[str, Any]]:
    """Tokens of pictures for the text's sequence, and arguments for an IP-Adapter.

    Raises:
        UserError: see `condition`.
    """
    if picture is None:
        if picture_tokens is not None:
            raise UserError("expected picture=… beside picture_tokens=…, but came none; give both")
        return None, {}
    pictures = list(picture) if isinstance(picture, list | tuple) else [picture]
    if len(pictures) not in (1, prompts):
        raise UserError(
            f"expected one picture, or one for each of {prompts} prompts, but came "
            f"{len(pictures)}; leave some out"
        )
    if picture_tokens is not None:
        tokens = picture_tokens(pictures, max_pixels=max_pixels)
        one_each = tokens.expand(prompts, -1, -1)
        return PromptPictures(one_each, picture_tokens.of_none(prompts)), {}
    if not has_ip_adapter(pipe):
        raise UserError(
            "expected a pipeline with an IP-Adapter for picture=…, or picture_tokens=…, but came "
            f"{type(pipe).__name__} with neither; call pipe.load_ip_adapter(…) first, or give "
            "picture_tokens=PictureTokens.from_pretrained(…)"
        )
    if len(pictures) > 1:
        raise UserError(
            f"expected one picture for all prompts of an IP-Adapter, but came {len(pictures)}; "
            "condition each prompt by itself, or give picture_tokens=…"
        )
    seen = checked_picture(pictures[0], max_pixels)
    check_aspect(seen.size)
    return None, {"ip_adapter_image": seen}


def rows_of(
    scheme: Scheme,
    prompts: Sequence[str],
    negative: Sequence[str | None],
    way: Way,
    given: bool,
    pictures: PromptPictures | None = None,
) -> list[Row]:
    """The prompts and the negative prompts of a call, `given` or not.

    Raises:
        UserError: see `condition`.
    """
    own, none = ([None] * len(prompts),) * 2 if pictures is None else pictures
    rows = [
        Row(scheme, each, CONDITIONAL, number, way, picture=own[number])
        for number, each in enumerate(prompts)
    ]
    if scheme.negative or given:
        other = scheme.of_negative
        for number, each in enumerate(negative):
            zeros = each is None and scheme.zeros
            own_zeros = (other, each or "", UNCONDITIONAL, number, way, zeros)
            rows.append(Row(*own_zeros, picture=none[number]))
    return rows


def readings(rows: Sequence[Row]) -> list[Reading]:
    """How each encoder reads each prompt of a call."""
    lengths = _lengths(rows)
    return [each for row in rows if not row.zeros for each in row.readings(lengths)]


def _lengths(rows: Sequence[Row]) -> list[int]:
    """Columns of each stream, the longest of all prompts."""
    return [max(each) for each in zip(*(row.lengths for row in rows), strict=True)]


def _starts(rows: Sequence[Row]) -> list[float]:
    """From which steps on some prompt says something else."""
    found = sorted({start for row in rows for start in row.starts if start})
    if len({type(each) for each in found}) > 1:
        raise UserError(
            "expected the schedules of all prompts in whole steps or all as fractions, but came "
            f"{', '.join(map(str, found))}; write them one way"
        )
    return [0, *found]


def _tensors(rows: Sequence[Row], start: float) -> dict[str, Tensor]:
    """The tensors of all prompts from a step on, which are remembered."""
    lengths = _lengths(rows)
    found: dict[str, Tensor] = {}
    for branch, before in ((CONDITIONAL, ""), (UNCONDITIONAL, "negative_")):
        own = [row for row in rows if row.branch == branch]
        if not own:
            continue
        embeds = torch.cat([row.embedding(start, lengths) for row in own])
        remember(embeds, [None if row.is_blank else row.text(start, lengths) for row in own])
        found[f"{before}prompt_embeds"] = embeds
        pooled = [each for row in own if (each := row.pooled(start)) is not None]
        if pooled:
            found[f"{before}pooled_prompt_embeds"] = torch.cat(pooled)
    return found


def _scheduled(
    pipe: Any, starts: Sequence[float], phases: Sequence[dict[str, Tensor]]
) -> dict[str, Any]:
    """The callback that changes the prompt on the way, with what it needs."""
    known = list(getattr(pipe, "_callback_tensor_inputs", []))
    # SDXL calls the pooled text otherwise while it runs; FLUX keeps the first one to the end.
    names = {"prompt_embeds": "prompt_embeds", "pooled_prompt_embeds": "pooled_prompt_embeds"}
    if "add_text_embeds" in known:
        names["pooled_prompt_embeds"] = "add_text_embeds"
    names = {name: own for name, own in names.items() if own in known and name in phases[0]}
    changing = [
        {own: (each[name], each.get(f"negative_{name}")) for name, own in names.items()}
        for each in phases
    ]
    return {
        "callback_on_step_end": Schedule(starts, changing),
        "callback_on_step_end_tensor_inputs": [*names.values()],
    }
