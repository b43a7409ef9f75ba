"""Cross-attention left out in late steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.variants.variant import Found, RunningVariant, Variant, check_number, cross


@dataclass(frozen=True, eq=False)
class SkipLate(Variant):
    """Cross-attention gives in late steps what it gave in the first of them.

    T-GATE (Zhang et al. 2024, "Cross-Attention Makes Inference Cumbersome in Text-to-Image
    Diffusion Models", arXiv 2404.02747): its outputs converge in the first steps, in which the
    picture is planned. The paper also stops guidance after the gate and keeps the mean of both
    branches; here guidance goes on and each row keeps its own, so that nothing but cross-attention
    changes.

    Kept for each site and row: one output, `(rows, queries, channels)`.

    Attributes:
        after: the steps before the first that is kept, as an `int`, or as a `float`, the fraction
            of the run.
    """

    takes: ClassVar[str] = "late cross-attention"
    error: ClassVar[str] = "that cross-attention changes after the gate; measured on pictures"

    after: int | float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.after, int | float):  # a number of numpy's or torch's
            object.__setattr__(self, "after", self.after.item())
        check_number(
            "after of SkipLate", self.after, 0, 1 if isinstance(self.after, float) else 1e6
        )

    @property
    def fits(self) -> str:
        return "cross-attention"

    def sites(self, found: Found) -> Found:
        return cross(found)

    def running(self, found: Found) -> RunningVariant:
        return _Skipping(self.after)


class _Skipping(RunningVariant):
    def __init__(self, after: int | float) -> None:
        self._after = after
        self._kept: dict[tuple[str, tuple[str, ...], int], Tensor] = {}

    def _gate(self) -> int:
        """The first step whose outputs are kept; there may be none after it."""
        if isinstance(self._after, int):
            return self._after
        steps = self.now.steps
        if steps is None:
            raise UserError(
                "expected after in whole steps for SkipLate, since this pipeline does not say how "
                f"many it has, but came {self._after:g} of them; such as SkipLate(after=12)"
            )
        return int(self._after * steps + 1e-6)

    def around(
        self,
        site: AttentionSite,
        module: nn.Module,
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self.now.step < self._gate():
            return forward(*args, **kwargs)
        key = site.name, self.now.branches, self.now.number
        states = args[0] if args else kwargs.get("hidden_states")
        kept = self._kept.get(key)
        if kept is None or (isinstance(states, Tensor) and states.shape != kept.shape):
            kept = forward(*args, **kwargs)
            if not isinstance(kept, Tensor):
                raise UserError(
                    f"expected {site.name} to give one tensor, for SkipLate, but came "
                    f"{type(kept).__name__}; leave SkipLate out"
                )
            self._kept[key] = kept
        return kept.clone()  # who gets it may write into it (hooks)
