"""What cheaper attention costs in quality: each way paints the same prompts from the same noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lab.evaluation.figures import Mean, Share
from lab.evaluation.pictures import paint
from lab.evaluation.world_prompts import WorldPrompt
from lab.judge.segmenter import Segmenter
from lab.judge.world import judge_world
from lab.judge.world_verdict import world_verdict
from t2i_xattn.costs.counter import flop_counter
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

PLAIN = "plain"
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


@dataclass(frozen=True)
class Found:
    """A way's figures.

    Attributes:
        right: whether all that each prompt asks for is there, in their order.
        psnr: of each picture to the plain one, in dB; infinite for the same bytes.
        seconds: of the process's CPU clock, for all pictures.
        flops: of the denoiser in a run for one picture.
        attention: of these, what its attention modules take.
    """

    right: tuple[bool, ...]
    psnr: tuple[float, ...]
    seconds: float
    flops: int
    attention: int

    @property
    def share(self) -> Share:
        return Share.of(self.right)

    def as_json(self, plain: Found) -> dict[str, Any]:
        """The figures, and what they are against the plain way's."""
        near = [each for each in self.psnr if np.isfinite(each)]
        return {
            "all right": self.share.as_json(),
            "gained": sum(b > a for a, b in zip(plain.right, self.right, strict=True)),
            "lost": sum(b < a for a, b in zip(plain.right, self.right, strict=True)),
            "same bytes": len(self.psnr) - len(near),
            "psnr": Mean.of(near).as_json(),
            "cpu_seconds": self.seconds,
            "cpu_ratio": self.seconds / plain.seconds,
            "flops": self.flops,
            "flops_ratio": self.flops / plain.flops,
            "attention_flops_ratio": self.attention / plain.attention,
        }


def compare_ways(
    pipe: Any,
    prompts: Sequence[WorldPrompt],
    segmenter: Segmenter,
    ways: Sequence[str],
    **settings: Any,
) -> Iterator[dict[str, Found]]:
    """The figures of the plain way and of others; after each way those so far.

    Args:
        pipe: a model of the world.
        prompts: what is painted.
        segmenter: of the judge.
        ways: names of `WAYS`.
        settings: see `lab.evaluation.pictures.paint`.
    """
    found: dict[str, Found] = {}
    plain: list[Image.Image] = []
    for name in [PLAIN, *(way for way in ways if way != PLAIN)]:
        began = time.process_time()
        with opened(pipe, WAYS[name]):
            bar = tqdm(total=len(prompts), desc=name, unit="picture", leave=False, disable=None)
            with bar:
                pictures = []
                for picture in paint(pipe, prompts, **settings):
                    pictures.append(picture)
                    bar.update()
        seconds = time.process_time() - began
        plain = plain or pictures
        right = tuple(
            world_verdict(judge_world(picture, segmenter), prompt.asked).all_right
            for prompt, picture in zip(prompts, pictures, strict=True)
        )
        near = tuple(psnr(one, other) for one, other in zip(pictures, plain, strict=True))
        flops = counted_flops(pipe, prompts[:1], WAYS[name], **settings)
        found[name] = Found(right, near, seconds, *flops)
        yield found


def opened(pipe: Any, variants: Sequence[Variant]) -> AbstractContextManager[None]:
    """`cheaper`, or nothing for the plain way."""
    return cheaper(pipe, *variants) if variants else nullcontext()


def psnr(one: Image.Image, other: Image.Image) -> float:
    """In dB, of 8-bit pictures; infinite where they are the same."""
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = float(np.square(difference).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def counted_flops(
    pipe: Any, prompts: Sequence[WorldPrompt], variants: Sequence[Variant], **settings: Any
) -> tuple[int, int]:
    """FLOPs of the denoiser in a run by torch's counter, and those of its attention modules."""
    counter, total, inside = flop_counter(), [0], [0]

    def adding(to: list[int]) -> tuple[Callable[..., None], Callable[..., None]]:
        before: list[int] = []

        def begin(*_: Any) -> None:
            before.append(counter.get_total_flops())

        def end(*_: Any) -> None:
            to[0] += counter.get_total_flops() - before.pop()

        return begin, end

    layers = [m for m in pipe.unet.modules() if hasattr(m, "to_q") and hasattr(m, "to_k")]
    handles = []
    for module, to in [(pipe.unet, total), *((layer, inside) for layer in layers)]:
        begin, end = adding(to)
        handles.append(module.register_forward_pre_hook(begin))
        handles.append(module.register_forward_hook(end))
    try:
        with opened(pipe, variants), counter, torch.no_grad():
            list(paint(pipe, prompts, **settings))
    finally:
        for handle in handles:
            handle.remove()
    return total[0], inside[0]


def front(found: Mapping[str, Found]) -> list[str]:
    """The ways that no other beats: none is right as often for fewer FLOPs."""
    cost = {name: each.flops for name, each in found.items()}
    good = {name: each.share.right for name, each in found.items()}
    return [
        name
        for name in found
        if not any(
            cost[other] <= cost[name]
            and good[other] >= good[name]
            and (cost[other], good[other]) != (cost[name], good[name])
            for other in found
        )
    ]


def best(found: Mapping[str, Found], points: float = 1.0) -> str:
    """The way with the fewest FLOPs among those that lose at most so many points of accuracy."""
    least = found[PLAIN].share.value - points / 100
    fine = [name for name, each in found.items() if each.share.value >= least - 1e-9]
    return min(fine, key=lambda name: found[name].flops)
