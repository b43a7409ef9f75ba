"""Attention a block at a time, where no fused kernel keeps its memory small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from t2i_xattn.denoisers.computing import Kernel
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.chunked import chunked_attention
from t2i_xattn.variants.variant import Found, RunningVariant, Variant


@dataclass(frozen=True, eq=False)
class Chunked(Variant):
    """Computes each kernel call a block at a time with an online softmax, in fp32.

    The memory is linear in the picture, as that of torch's fused kernels is; so it helps where
    there is none (a device, a dtype or a mask that they do not take) and the scores would be formed
    whole. See `kernel.chunked` for the equations and their sources.

    Attributes:
        queries, keys: in a block.
    """

    takes: ClassVar[str] = "the kernel"
    error: ClassVar[str] = "rounding: within 1e-5 of the largest value in fp32"
    attends: ClassVar[bool] = True

    queries: int = 1024
    keys: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("queries", self.queries), ("keys", self.keys)):
            if value < 1:
                raise UserError(f"expected {name}=1 or more for Chunked, but came {value}")

    @property
    def fits(self) -> str:
        return "attention"

    def sites(self, found: Found) -> Found:
        return found

    def running(self, found: Found) -> RunningVariant:
        return _Chunking(partial(chunked_attention, queries=self.queries, keys=self.keys))


class _Chunking(RunningVariant):
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def kernel(self, site: AttentionSite) -> Kernel | None:
        return self._kernel
