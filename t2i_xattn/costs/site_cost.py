"""What one attention site costs in one call of the denoiser."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from t2i_xattn.denoisers.sites import AttentionSite


@dataclass(frozen=True)
class KernelSize:
    """The sizes of one kernel call.

    Attributes:
        rows: of the batch.
        heads: number of heads.
        queries, keys: n and m.
        width, value_width: of a head, d; of a head's values.
        number_bytes: of one number.
    """

    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    number_bytes: int

    @property
    def flops(self) -> int:
        """2 · rows · heads · n · m · (d + d_v): a product and a sum for each term of Q Kᵀ and of
        P V. What the softmax takes is not counted, as torch's counter does not."""
        across = self.rows * self.heads * self.queries * self.keys
        return 2 * across * (self.width + self.value_width)

    @property
    def moved_bytes(self) -> int:
        """Queries, keys, values and output, once each: what a fused kernel reads and writes."""
        of_query = self.queries * (self.width + self.value_width)
        of_key = self.keys * (self.width + self.value_width)
        return self.rows * self.heads * (of_query + of_key) * self.number_bytes

    @property
    def score_bytes(self) -> int:
        """The scores, rows · heads · n · m numbers, which a fused kernel does not form."""
        return self.rows * self.heads * self.queries * self.keys * self.number_bytes


@dataclass(frozen=True)
class LayerSize:
    """One call of a linear layer inside an attention module.

    Attributes:
        name: within the attention module, such as `"to_k"`.
        vectors: how many it was given.
        inside, outside: channels of what goes in and comes out.
        weight_bytes: of its weight and bias.
    """

    name: str
    vectors: int
    inside: int
    outside: int
    weight_bytes: int

    @property
    def flops(self) -> int:
        """2 · vectors · inside · outside, as torch counts it: without the bias."""
        return 2 * self.vectors * self.inside * self.outside


@dataclass(frozen=True)
class SiteCost:
    """One attention module in one call of the denoiser.

    Attributes:
        site: which.
        kernels: its kernel calls.
        layers: the linear layers that ran inside it, such as those that make Q, K and V.
        measured: FLOPs that torch's counter saw while it ran.
        measured_layers: those of them that it saw in these layers.
    """

    site: AttentionSite
    kernels: tuple[KernelSize, ...]
    layers: tuple[LayerSize, ...]
    measured: int
    measured_layers: int

    @property
    def kernel_flops(self) -> int:
        """Predicted, of all its kernel calls."""
        return sum(each.flops for each in self.kernels)

    @property
    def layer_flops(self) -> int:
        """Predicted, of its linear layers."""
        return sum(each.flops for each in self.layers)

    @property
    def predicted(self) -> int:
        """FLOPs by its sizes."""
        return self.kernel_flops + self.layer_flops

    @property
    def moved_bytes(self) -> int:
        """What its kernels read and write."""
        return sum(each.moved_bytes for each in self.kernels)

    @property
    def score_bytes(self) -> int:
        """Of the largest scores that an unfused kernel would form here."""
        return max((each.score_bytes for each in self.kernels), default=0)

    @property
    def weight_bytes(self) -> int:
        """Of its linear layers."""
        return sum(each.weight_bytes for each in self.layers)

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "site": self.site.name,
            "kind": self.site.kind,
            "kernels": [dataclasses.asdict(each) for each in self.kernels],
            "layers": [dataclasses.asdict(each) for each in self.layers],
            "flops": {
                "kernel": self.kernel_flops,
                "projections": self.layer_flops,
                "predicted": self.predicted,
                "measured": self.measured,
            },
            "bytes": {
                "moved": self.moved_bytes,
                "scores": self.score_bytes,
                "weights": self.weight_bytes,
            },
        }


def fitted_exponent(sizes: list[float], costs: list[float]) -> float:
    """The slope of log cost over log size, by least squares; NaN of fewer than two sizes."""
    points = [(math.log(s), math.log(c)) for s, c in zip(sizes, costs, strict=True) if s and c]
    if len({x for x, _ in points}) < 2:
        return math.nan
    mean_x, mean_y = (sum(each) / len(points) for each in zip(*points, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return above / sum((x - mean_x) ** 2 for x, _ in points)
