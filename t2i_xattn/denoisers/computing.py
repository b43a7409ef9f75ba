"""What computes attention in another way than the denoiser does by itself, in one call of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.denoisers.families import Reading
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.call import Asked, KernelCall
from t2i_xattn.kernel.fewer_keys import FewerKeys

Kernel = Callable[[Asked], Tensor]
"""Answers a kernel call: `(rows, heads, queries, d)`."""


@runtime_checkable
class Computing(Protocol):
    """An `Acting` that computes as well; what others see is what it makes of a call."""

    def around(
        self, site: AttentionSite, module: nn.Module, forward: Callable[..., Any], *args: Any
    ) -> Any:
        """In the place of a site's forward, with that and its arguments (and keywords)."""
        ...

    def attends(self, site: AttentionSite) -> bool:
        """Whether it answers kernel calls of a site."""
        ...

    def fewer(
        self, site: AttentionSite, call: Asked, reading: Callable[[], Reading]
    ) -> FewerKeys | None:
        """Which keys are looked at; None: all. `reading` says what the call is about."""
        ...

    def kernel(self, site: AttentionSite) -> Kernel | None:
        """What answers the calls of a site; None: the fused kernel."""
        ...


def run_around(
    computing: list[Computing],
    site: AttentionSite,
    module: nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, bool]:
    """A site's output, and whether its own forward ran for it."""
    ran: list[bool] = []

    def own(*args: Any, **kwargs: Any) -> Any:
        ran.append(True)
        return forward(*args, **kwargs)

    run: Callable[..., Any] = own
    for each in computing:
        run = partial(each.around, site, module, run)
    return run(*args, **kwargs), bool(ran)


def attended(
    computing: list[Computing], site: AttentionSite, call: Asked, reading: Callable[[], Reading]
) -> KernelCall | None:
    """A kernel call as it is answered in the kernel's place; None where nobody does.

    The call that is given on has all keys, and a mask that hides those that were left out: so what
    is recorded, and what edits change, are the shares that really were.
    """
    fewer = next((keys for e in computing if (keys := e.fewer(site, call, reading))), None)
    kernel = next((found for e in computing if (found := e.kernel(site))), None)
    if fewer is None and kernel is None:
        return None
    less = call if fewer is None else fewer.of(call)
    output = (kernel or _fused)(less)
    mask = call.mask if fewer is None else fewer.mask(call)
    return KernelCall(call.query, call.key, call.value, output, mask, call.scale)


def _fused(call: Asked) -> Tensor:
    return scaled_dot_product_attention(
        call.query, call.key, call.value, call.mask, scale=call.scale
    )


def check_computed(site: AttentionSite, module: nn.Module, entered: bool, attended: bool) -> None:
    """Raises `UserError` where a kernel call has come that nobody could answer.

    Args:
        site: where.
        module: its attention module.
        entered: whether its forward was gone round.
        attended: whether its kernel could be answered.
    """
    if not entered:
        raise UserError(
            "expected a denoiser that is not compiled under `cheaper`, since a compiled graph "
            f"computes {site.name} as it did when it was made; use the pipeline as it was before "
            "torch.compile"
        )
    if not attended:
        kind = type(getattr(module, "processor", module)).__name__
        raise UserError(
            f"expected a processor that asks torch's scaled_dot_product_attention at {site.name} "
            f"for a cheaper kernel or fewer keys, but {kind} forms the probs by itself; put "
            "AttnProcessor2_0 there, or leave the variant out"
        )
