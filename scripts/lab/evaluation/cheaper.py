"""What cheaper attention costs in quality: each way paints the same prompts from the same noise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lab.evaluation.cheaper_figures import PLAIN, Counted, Found, Painted
from lab.evaluation.pictures import paint
from lab.evaluation.report import write_json
from lab.evaluation.world_prompts import WorldPrompt
from lab.judge.segmenter import Segmenter
from lab.judge.world import judge_world
from lab.judge.world_verdict import world_verdict
from t2i_xattn.costs.counter import flop_counter
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.errors import UserError
from t2i_xattn.variants import (
    Chunked,
    KeptKeys,
    MergedPlaces,
    PrunedKeys,
    SkipLate,
    TopKeys,
    Variant,
)
from t2i_xattn.variants.cheaper import cheaper

FILLERS = ("a", "an", "the", "of", "on", "in", "at", "and", "with", "to")

WAYS: Mapping[str, Sequence[Variant]] = {
    PLAIN: (),
    "kept": (KeptKeys(),),
    "blocks": (Chunked(),),
    "late 0.8": (SkipLate(after=0.8),),
    "late 0.6": (SkipLate(after=0.6),),
    "late 0.4": (SkipLate(after=0.4),),
    "late 0.2": (SkipLate(after=0.2),),
    "no padding": (PrunedKeys(),),
    "no fillers": (PrunedKeys(padding=False, words=FILLERS),),
    "share 0.01": (PrunedKeys(padding=False, share=0.01),),
    "share 0.05": (PrunedKeys(padding=False, share=0.05),),
    "share 0.2": (PrunedKeys(padding=False, share=0.2),),
    "top 32": (TopKeys(32),),
    "top 16": (TopKeys(16),),
    "top 8": (TopKeys(8),),
    "merged 0.25": (MergedPlaces(ratio=0.25),),
    "merged 0.5": (MergedPlaces(ratio=0.5),),
    "kept, late 0.6": (KeptKeys(), SkipLate(after=0.6)),
}
"""What is compared, each against the plain pipeline."""


def in_turn(
    groups: Mapping[str, Sequence[WorldPrompt]], limit: int | None = None
) -> list[WorldPrompt]:
    """The prompts of some groups, one of each in turn, so that the first ones are of all kinds."""
    rows = zip_longest(*(group[:limit] for group in groups.values()))
    return [each for each in chain.from_iterable(rows) if each is not None]


def compare_ways(
    pipe: Any,
    prompts: Sequence[WorldPrompt],
    segmenter: Segmenter,
    ways: Sequence[str],
    *,
    batch: int,
    about: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    **settings: Any,
) -> Iterator[dict[str, Found]]:
    """The figures of the plain way and of others; after each batch those so far.

    Args:
        pipe: a model of the world.
        prompts: what is painted.
        segmenter: of the judge.
        ways: names of `WAYS`.
        batch: pictures painted at once.
        about: what else the figures depend on, such as the model's name.
        folder: keeps what each batch gave, so that a run that was stopped goes on where it was.
        settings: see `lab.evaluation.pictures.paint`.

    Raises:
        UserError: the folder holds what was measured otherwise.
    """
    names = [PLAIN, *(way for way in ways if way != PLAIN)]
    if folder is not None:
        measured = {**(about or {}), **settings, "batch": batch, "ways": names}
        _check_same(folder, measured)
    costs = {}
    for name in names:
        count = partial(counted, pipe, prompts[:1], WAYS[name], batch=batch, **settings)
        costs[name] = Counted(**_kept(folder and folder / f"cost-{name}.json", count))
    parts: dict[str, list[Painted]] = {name: [] for name in names}
    with tqdm(total=len(prompts), unit="prompt", disable=None) as bar:
        for number, start in enumerate(range(0, len(prompts), batch)):
            some = prompts[start : start + batch]
            # Another begins each time, so that none is always the one that finds things cold.
            turned = [*names[number % len(names) :], *names[: number % len(names)]]
            kept = _kept(
                folder and folder / f"{start:04d}-{start + len(some):04d}.json",
                partial(_painted, pipe, some, segmenter, turned, batch=batch, **settings),
            )
            for name in names:
                parts[name].append(Painted.read(kept[name]))
            bar.update(len(some))
            yield {name: Found.of(parts[name], costs[name]) for name in names}


def _kept(file: Path | None, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, or else what is measured and goes into it."""
    if file is None:
        return measure()
    if not file.exists():
        write_json(file, measure())
    told: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return told


def _check_same(folder: Path, measured: Mapping[str, Any]) -> None:
    """Raises `UserError` unless what a folder holds was measured so; an empty one gets it told."""
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, measured)
        return
    before = json.loads(file.read_text("utf-8"))
    other = [name for name in measured if measured[name] != before.get(name)]
    if other:
        raise UserError(
            f"expected a folder measured with the same settings, but {folder} has other "
            f"{', '.join(other)}; choose another folder"
        )


def _painted(
    pipe: Any,
    prompts: Sequence[WorldPrompt],
    segmenter: Segmenter,
    names: Sequence[str],
    **settings: Any,
) -> dict[str, Any]:
    """What each way paints of a batch of prompts, as JSON has it."""
    pictures: dict[str, list[Image.Image]] = {}
    seconds: dict[str, float] = {}
    for name in names:
        began = time.process_time()
        with opened(pipe, WAYS[name]):
            pictures[name] = list(paint(pipe, prompts, **settings))
        seconds[name] = time.process_time() - began
    near = {
        name: tuple(map(psnr, of, pictures[PLAIN]))  # as many each
        for name, of in pictures.items()
    }
    plain = [_right(*each, segmenter) for each in zip(prompts, pictures[PLAIN], strict=True)]
    right = {
        name: tuple(
            was if close == float("inf") else _right(prompt, picture, segmenter)
            for prompt, picture, close, was in zip(prompts, of, near[name], plain, strict=True)
        )
        for name, of in pictures.items()
    }
    return {name: Painted(right[name], near[name], seconds[name]).as_json() for name in pictures}


def _right(prompt: WorldPrompt, picture: Image.Image, segmenter: Segmenter) -> bool:
    return world_verdict(judge_world(picture, segmenter), prompt.asked).all_right


def opened(pipe: Any, variants: Sequence[Variant]) -> AbstractContextManager[None]:
    """`cheaper`, or nothing for the plain way."""
    return cheaper(pipe, *variants) if variants else nullcontext()


def psnr(one: Image.Image, other: Image.Image) -> float:
    """In dB, of 8-bit pictures; infinite where they are the same."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = float(np.square(difference).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def counted(
    pipe: Any, prompts: Sequence[WorldPrompt], variants: Sequence[Variant], **settings: Any
) -> dict[str, int]:
    """What a run takes, by torch's counter and by the tensors that were alive; see `Counted`."""
    counter, live = flop_counter(), LiveBytes()
    totals = {"denoiser": 0, "attention": 0}
    most = 0

    def adding(to: str) -> tuple[Callable[..., None], Callable[..., None]]:
        before: list[int] = []

        def begin(*_: Any) -> None:
            before.append(counter.get_total_flops())

        def end(*_: Any) -> None:
            totals[to] += counter.get_total_flops() - before.pop()

        return begin, end

    def begin_live(*_: Any) -> None:
        live.most = live.now  # what decoding a picture takes is no cost of attention

    def end_live(*_: Any) -> None:
        nonlocal most
        most = max(most, live.most)

    layers = [m for m in pipe.unet.modules() if hasattr(m, "to_q") and hasattr(m, "to_k")]
    hooks = [(pipe.unet, *adding("denoiser")), *((each, *adding("attention")) for each in layers)]
    handles = []
    for module, begin, end in [*hooks, (pipe.unet, begin_live, end_live)]:
        handles.append(module.register_forward_pre_hook(begin))
        handles.append(module.register_forward_hook(end))
    try:
        with opened(pipe, variants), counter, live, torch.no_grad():
            list(paint(pipe, prompts, **settings))
    finally:
        for handle in handles:
            handle.remove()
    return {"flops": totals["denoiser"], "attention": totals["attention"], "live": most}
