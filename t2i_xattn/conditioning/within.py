"""A pipeline that reads the syntax in the prompts themselves, and how prompts are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from t2i_xattn.conditioning.condition import condition, readings, rows_of
from t2i_xattn.conditioning.encoders import Scheme, scheme_of
from t2i_xattn.conditioning.reader import Way
from t2i_xattn.conditioning.reading import Reading
from t2i_xattn.conditioning.row import Row
from t2i_xattn.conditioning.syntax import Parsed, parse
from t2i_xattn.errors import UserError, shown
from t2i_xattn.kernel.cover import Cover, acts_of, restored
from t2i_xattn.prompts.known import recall, remember
from t2i_xattn.prompts.roles import CONDITIONAL
from t2i_xattn.prompts.words import Word, split_words

_METHOD = "encode_prompt"


@contextmanager
def prompts_read(pipe: Any, way: Way = "compel") -> Iterator[None]:
    """While it is open, the pipeline reads the syntax of `condition` in the prompts that it is
    given, and prompts of any length; so do `explain`, which writes prompts of its own, and
    `record(contributions=True)`.

    A prompt without syntax that fits into the window is encoded by the pipeline's own code.

    Args:
        pipe: of Stable Diffusion, SDXL, SD3 or FLUX; others are left alone.
        way: see `condition`.

    Raises:
        UserError: while it encodes, see `condition`; for a schedule, which needs arguments of the
            call; for a second prompt beside one with syntax.
    """
    if not reads_syntax(pipe):
        yield
        return
    cover = cover_of(pipe, way)
    with restored(cover.put, cover.take_off):
        yield


def cover_of(pipe: Any, way: Way = "compel") -> Cover:
    """What `prompts_read` puts on a pipeline."""
    return Cover(pipe, _METHOD, partial(_encode, pipe, way))


def is_reading(pipe: Any) -> bool:
    """Whether `prompts_read` is open for a pipeline."""
    acts = acts_of(pipe, _METHOD) if hasattr(pipe, "__dict__") else []
    return any(isinstance(each, partial) and each.func is _encode for each in acts)


def reads_syntax(pipe: Any) -> bool:
    """Whether the syntax can be read for a pipeline."""
    return _scheme(pipe) is not None and hasattr(pipe, _METHOD)


def _scheme(pipe: Any, clip_skip: int | None = None, length: int | None = None) -> Scheme | None:
    try:
        return scheme_of(pipe, clip_skip, length)
    except UserError:
        return None


def _encode(pipe: Any, way: Way, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """In the place of the pipeline's `encode_prompt`."""
    bound = inspect.signature(method).bind(*args, **kwargs)
    given = bound.arguments
    prompt = given.get("prompt")
    embeds = [each for name, each in given.items() if "embeds" in name and each is not None]
    if prompt is None or embeds:
        return method(*args, **kwargs)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negative = given.get("negative_prompt")
    guided = bool(given.get("do_classifier_free_guidance", False))
    options = {key: given.get(key) for key in ("clip_skip", "max_sequence_length")}
    scheme = scheme_of(pipe, *options.values())
    texts = [] if negative is None else [negative] if isinstance(negative, str) else [*negative]
    rows = [Row(scheme, each, CONDITIONAL, 0, way) for each in prompts + (texts if guided else [])]
    if all(row.is_plain and _in_one_window(row, scheme) for row in rows):
        return method(*args, **kwargs)
    for name, other in given.items():
        own = negative if name.startswith("negative") else prompt
        if name.removeprefix("negative_")[:-1] == "prompt_" and other not in (None, own, [own]):
            raise UserError(
                f"expected no {name} beside a prompt with weights or of several windows, but came "
                f"{shown(other)}; leave it out"
            )
    found = condition(pipe, prompts, texts or None, way=way, **options)
    if "callback_on_step_end" in found:
        raise UserError(
            "expected a prompt without a schedule, which changes it on the way and needs a "
            "callback of the pipeline's call; write pipe(**t2i_xattn.condition(pipe, prompt)), or "
            "leave the schedule out"
        )
    known = inspect.signature(method).parameters
    given["prompt"] = None
    for name, tensor in found.items():
        if name in known and (guided or not name.startswith("negative")):
            given[name] = tensor
    if guided and "negative_prompt" in known:
        given["negative_prompt"] = None
    # By name, since `arguments` may have come to stand in another order.
    result = method(**given)
    # The pipeline keeps copies, one for each picture, and these go.
    for each in result if isinstance(result, tuple | list) else [result]:
        if isinstance(each, Tensor) and each.ndim == 3:
            remember(each, [recall(row) for row in each])
    return result


def _in_one_window(row: Row, scheme: Scheme) -> bool:
    row.check_whole()
    windows = [stream[0].window for stream in scheme.streams]
    return list(row.lengths) == windows


def read(
    pipe: Any, prompt: str, negative: str | None = None, way: Way = "compel"
) -> list[Reading] | None:
    """How a pipeline's text encoders read a prompt and a negative one; None if it reads no syntax.
    Nothing is encoded.

    Raises:
        UserError: see `condition`.
    """
    scheme = _scheme(pipe)
    if scheme is None:
        return None
    given = negative is not None
    return readings(rows_of(scheme, [prompt], [negative], way, given))


def words_read(pipe: Any, tokenizer: Any, prompt: str, way: Way = "compel") -> tuple[Word, ...]:
    """The words of a prompt with their columns, as a pipeline reads it.

    Args:
        pipe: the pipeline.
        tokenizer: of one that reads no syntax.
        prompt: as typed.
        way: what bare brackets mean.

    Raises:
        UserError: see `condition`; for weights, blends and schedules that the pipeline does not
            read.
    """
    scheme = _scheme(pipe)
    if scheme is None:
        _check_without_weights(pipe, prompt, way)
        return split_words(tokenizer, prompt)
    row = Row(scheme, prompt, CONDITIONAL, 0, way)
    return row.text(0, row.lengths).words


def columns_read(pipe: Any, prompts: Sequence[str]) -> int:
    """How many columns the longest of some prompts takes; 0 where they are all alike."""
    scheme = _scheme(pipe)
    if scheme is None:
        return 0
    return max(sum(Row(scheme, each, CONDITIONAL, 0, "compel").lengths) for each in prompts)


def is_scheduled(pipe: Any, *prompts: str | None) -> bool:
    """Whether one of some prompts changes on the way."""
    return reads_syntax(pipe) and any(len(parse(each or "").phases) > 1 for each in prompts)


def _check_without_weights(pipe: Any, prompt: str, way: Way) -> None:
    try:
        parsed = parse(prompt, way)
    except UserError:
        return  # brackets are letters there
    if _says_more(parsed):
        raise UserError(
            "expected a pipeline of Stable Diffusion, SDXL, SD3 or FLUX for weights, blends and "
            f"schedules in a prompt, but came {type(pipe).__name__}, which reads them as letters; "
            "leave them out"
        )


def _says_more(parsed: Parsed) -> bool:
    pieces = [p for phase in parsed.phases for e in phase.parts for s in e.stretches for p in s]
    several = len(parsed.phases) > 1 or len(parsed.phases[0].parts) > 1
    return several or any(piece.weight != 1 for piece in pieces)
