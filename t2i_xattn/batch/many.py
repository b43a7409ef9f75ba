"""`record_many`: the pictures and traces of many prompts, one after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice, repeat
from numbers import Integral
from typing import Any, TypeVar

from t2i_xattn.arguments import checked
from t2i_xattn.errors import UserError, is_out_of_memory, shown
from t2i_xattn.traces.trace import Trace

Came = TypeVar("Came")

Call = Callable[[Sequence[str], Sequence[int], Sequence[str | None]], list[Came]]
"""Calls a pipeline with prompts, seeds and negative prompts, one a picture; gives what came of
each."""

_OWN = {
    "prompt": "prompts",
    "generator": "seeds=…",
    "num_images_per_prompt": "a prompt as often as it is wanted",
}
"""Arguments of a pipeline that are given another way, and how."""


@checked
def record_many(
    pipe: Any,
    prompts: Iterable[str],
    *,
    seeds: int | Iterable[int] = 0,
    batch_size: int = 1,
    words: Sequence[str] | None = None,
    walk: int = 0,
    **arguments: Any,
) -> Iterator[tuple[Any, Trace]]:
    """Paints and records prompts, any number of them, holding one batch at a time.

    The noise of a picture comes from a generator of its own on the CPU, so that it does not depend
    on the batch. With `batch_size=1` pictures are those of runs one by one, byte for byte; in
    larger batches the kernels may sum in another order, and the last bits differ. A batch for which
    memory runs out is halved, and so are those after it.

    Args:
        pipe: any loaded text-to-image pipeline.
        prompts: texts, taken as they are needed.
        seeds: one a prompt; or a number, the seed of the first, to which the next add 1.
        batch_size: prompts in one call of the pipeline.
        words: words or phrases to keep, which every prompt has; see `record`. By default every
            column.
        walk: see `record`.
        arguments: of the pipeline. `negative_prompt` may be one text, or one a prompt.

    Yields:
        The picture of each prompt, in their order, and a trace of it alone.

    Raises:
        UserError: at once, for what cannot be; while it goes, see `record`.

    Example:
        >>> for picture, trace in record_many(pipe, ["a red circle", "a blue star"], seeds=3):
        ...     print(trace.prompts, trace.words)
    """
    if isinstance(prompts, str):
        raise UserError(f"expected a list of prompts, but came one text; give [{prompts!r}]")
    check_batch_size(batch_size)
    for name, instead in _OWN.items():
        if name in arguments:
            raise UserError(f"expected {instead} instead of {name}=…; leave {name} out")
    options = {"words": words, "walk": walk}
    numbers = count(seeds) if isinstance(seeds, int) else seeds
    return _each(pipe, iter(prompts), iter(numbers), Batch(batch_size), options, arguments)


def check_batch_size(batch_size: Any) -> None:
    """Raises `UserError` unless it is a whole number from 1."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UserError(f"expected a batch size of at least 1, but came {batch_size!r}; give 1")


def _each(
    pipe: Any,
    prompts: Iterator[str],
    seeds: Iterator[int],
    batch: Batch,
    options: Mapping[str, Any],
    arguments: dict[str, Any],
) -> Iterator[tuple[Any, Trace]]:
    negative = arguments.pop("negative_prompt", None)
    negatives = repeat(negative) if isinstance(negative, str | None) else iter(negative)
    call = partial(recorded_call, pipe, options=options, arguments=arguments)
    while texts := list(islice(prompts, batch.size)):
        beside: dict[str, list[Any]] = {"seeds": list(islice(seeds, len(texts)))}
        beside["negative_prompt"] = list(islice(negatives, len(texts)))
        for name, given in beside.items():
            if len(given) < len(texts):
                raise UserError(
                    f"expected as many {name} as prompts, but they end before "
                    f"{texts[len(given)]!r}; give one for each prompt"
                )
        _check_texts(texts, beside["negative_prompt"])
        _check_seeds(beside["seeds"])
        yield from batch.in_parts(call, texts, beside["seeds"], beside["negative_prompt"])


def _check_texts(prompts: Sequence[Any], negatives: Sequence[Any]) -> None:
    for text in prompts:
        if not isinstance(text, str):
            raise UserError(f"expected texts as prompts, but came {text!r}; give texts")
    if any(each is None for each in negatives) and any(each is not None for each in negatives):
        raise UserError(
            "expected a negative_prompt for every prompt or for none, but some are None; give '' "
            "for them"
        )


def _check_seeds(seeds: Sequence[Any]) -> None:
    for seed in seeds:
        if not isinstance(seed, Integral) or isinstance(seed, bool) or abs(int(seed)) >= 2**63:
            raise UserError(f"expected whole numbers as seeds, but came {shown(seed)}; give such")


class Batch:
    """How many pictures fit in memory at once, which is found out on the way.

    Attributes:
        size: of the largest batch that is tried.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def in_parts(
        self,
        call: Call[Came],
        prompts: Sequence[str],
        seeds: Sequence[int],
        negative_prompt: Sequence[str | None],
    ) -> list[Came]:
        """What a call gives for each of the prompts, called for parts that fit; a single one that
        does not, raises."""
        found: list[Came] = []
        while len(found) < len(prompts):
            part = slice(len(found), len(found) + self.size)
            of_part = prompts[part], seeds[part], negative_prompt[part]
            try:
                found += call(*of_part)
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error) or len(of_part[0]) == 1:
                    raise
            # Out of the handler, so that what the failed run held is let go.
            self.size = len(of_part[0]) // 2
            _let_go()
        return found


def in_smaller_batches(ask: Callable[..., Came], size: int) -> Came:
    """What `ask(batch=…)` gives, with half the batch for as long as memory runs out."""
    while True:
        try:
            return ask(batch=size)
        except RuntimeError as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        # Out of the handler, so that what the failed run held is let go.
        size //= 2
        _let_go()


def recorded_call(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompt: Sequence[str | None],
    *,
    options: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> list[tuple[Any, Trace]]:
    """The pictures and traces of one call of the pipeline.

    Args:
        pipe: the pipeline.
        prompts, seeds, negative_prompt: one a picture; negatives all None or all texts.
        options: of `record`.
        arguments: of the pipeline.
    """
    from t2i_xattn.recording.record import record

    with record(pipe, **options) as trace:
        pictures = painted_call(pipe, prompts, seeds, negative_prompt, arguments=arguments)
    if len(prompts) == 1:
        return [(pictures[0], trace)]
    return [(picture, trace.select(images=n)) for n, picture in enumerate(pictures)]


def painted_call(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    negative_prompt: Sequence[str | None],
    *,
    arguments: Mapping[str, Any],
) -> list[Any]:
    """The pictures of one call of the pipeline; see `recorded_call`."""
    import torch

    given: dict[str, Any] = {
        "prompt": list(prompts),
        "generator": [torch.Generator().manual_seed(int(seed)) for seed in seeds],
    }
    if negative_prompt[0] is not None:
        given["negative_prompt"] = list(negative_prompt)
    if len(prompts) == 1:
        # As one prompt is given by hand.
        given = {name: value[0] for name, value in given.items()}
    result = pipe(**given, **arguments)
    return list(result.images if hasattr(result, "images") else result.frames)


def _let_go() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
