"""The figures of a cheaper way against the plain one, and what so many prompts can tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.benchmark.timing import Ratio, ratio
from lab.evaluation.figures import Difference, Mean, Share

PLAIN = "plain"


@dataclass(frozen=True)
class Painted:
    """What a way painted of a batch of prompts.

    Attributes:
        right: whether all that each prompt asks for is there.
        psnr: of each picture to the plain one, in dB; infinite for the same bytes.
        seconds: of the process's CPU clock.
    """

    right: tuple[bool, ...]
    psnr: tuple[float, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        near = [each if np.isfinite(each) else None for each in self.psnr]
        return {"right": self.right, "psnr": near, "cpu_seconds": self.seconds}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Painted:
        """From what `as_json` gave."""
        near = (float("inf") if each is None else each for each in told["psnr"])
        return cls(tuple(told["right"]), tuple(near), told["cpu_seconds"])


@dataclass(frozen=True)
class Counted:
    """What a run for one picture takes.

    Attributes:
        flops: of the denoiser.
        attention: of these, what its attention modules take.
        live: the most bytes of tensors that were alive at once in the denoiser's calls, what is
            kept over the steps among them, the weights not.
    """

    flops: int
    attention: int
    live: int


@dataclass(frozen=True)
class Found:
    """A way's figures.

    Attributes:
        right, psnr: see `Painted`, in the prompts' order.
        seconds: of each batch.
        cost: of one picture.
    """

    right: tuple[bool, ...]
    psnr: tuple[float, ...]
    seconds: tuple[float, ...]
    cost: Counted

    @classmethod
    def of(cls, parts: Sequence[Painted], cost: Counted) -> Found:
        """Of batches, one after the other."""
        right = tuple(each for part in parts for each in part.right)
        near = tuple(each for part in parts for each in part.psnr)
        return cls(right, near, tuple(part.seconds for part in parts), cost)

    @property
    def share(self) -> Share:
        return Share.of(self.right)

    @property
    def near(self) -> Mean:
        """PSNR where the bytes are not the same, in dB."""
        return Mean.of(each for each in self.psnr if np.isfinite(each))

    def against(self, plain: Found) -> Difference:
        """How much more often it is right than the plain way, of the same prompts."""
        return Difference.of(plain.right, self.right)

    def time(self, plain: Found) -> Ratio:
        """Of CPU times, batch by batch."""
        return ratio(self.seconds, plain.seconds)

    def as_json(self, plain: Found) -> dict[str, Any]:
        """The figures, and what they are against the plain way's."""
        return {
            "all right": self.share.as_json(),
            "against plain": self.against(plain).as_json(),
            "loses a point": loss(self, plain),
            "same bytes": len(self.psnr) - self.near.n,
            "psnr": self.near.as_json(),
            "cpu_ratio": vars(self.time(plain)),
            "cost": vars(self.cost),
            "flops_ratio": self.cost.flops / plain.cost.flops,
            "attention_flops_ratio": self.cost.attention / plain.cost.attention,
            "live_ratio": self.cost.live / plain.cost.live,
        }


def front(found: Mapping[str, Found]) -> list[str]:
    """The ways that no other beats: none is right as often for fewer FLOPs."""
    cost = {name: each.cost.flops for name, each in found.items()}
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


def loss(each: Found, plain: Found, points: float = 1.0) -> str:
    """Whether a way is right less often than the plain one by more than so many points.

    `"no"` and `"yes"` where the interval of the difference is all on one side, or every picture has
    the plain one's bytes; else the prompts `"cannot tell"`.
    """
    if not each.near.n:
        return "no"
    low, high = each.against(plain).interval
    if low >= -points / 100:
        return "no"
    return "yes" if high < -points / 100 else "cannot tell"


def best(found: Mapping[str, Found], points: float = 1.0, shown: bool = False) -> str:
    """The way with the fewest FLOPs among those that lose at most so many points of accuracy.

    Args:
        found: the figures of all ways.
        points: of accuracy.
        shown: only ways of which the prompts tell so (see `loss`), not those that merely lost no
            more on them.
    """
    plain = found[PLAIN]

    def fine(name: str) -> bool:
        each = found[name]
        if shown:
            return name == PLAIN or loss(each, plain, points) == "no"
        return each.share.value >= plain.share.value - points / 100 - 1e-9

    return min(filter(fine, found), key=lambda name: found[name].cost.flops)
