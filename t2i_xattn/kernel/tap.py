"""Sees the kernel calls of an attention module while its own forward runs.

A `TorchFunctionMode` sees `scaled_dot_product_attention` with the very tensors that the kernel
gets, whatever processor stands there and whatever adapters have done to them. In a compiled graph
the call is handed over by an operator that the compiler does not look into, so that what is done
with it is ordinary Python, and the graph is the same for every site and every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from t2i_xattn.kernel.call import Asked, KernelCall
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.kernel.logsumexp import fused
from t2i_xattn.kernel.unfused import COVERED, Unfused

_numbers = itertools.count()
_taps: WeakValueDictionary[int, SiteTap] = WeakValueDictionary()


def _as_it_is(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


def _as_ever(call: Asked) -> None:
    return None


class SiteTap:
    """Stands in for the `forward` of one attention module.

    Attributes:
        covers: on the module's `forward` and on the methods that unfused processors call.
    """

    def __init__(
        self,
        module: Any,
        ran: Callable[[], bool],
        receive: Callable[[KernelCall], Tensor],
        logsumexp: bool = False,
        around: Callable[..., Any] = _as_it_is,
        attend: Callable[[Asked], KernelCall | None] = _as_ever,
    ) -> None:
        """Changes nothing yet; `covers` are to be put on.

        Args:
            module: the attention module.
            ran: told that the module runs; whether its kernel calls are wanted.
            receive: given each kernel call; gives what is to stand for its output.
            logsumexp: whether the kernel is asked for that too.
            around: called in the place of the module's forward, with that and its arguments; not in
                a compiled graph.
            attend: answers a kernel call in the kernel's place, or gives None; not there either.
        """
        self.module, self._ran, self.receive = module, ran, receive
        self.logsumexp, self._around, self._attend = logsumexp, around, attend
        number = next(_numbers)
        _taps[number] = self
        # A tensor: a number would be compiled into the graph of each site.
        self.handle = torch.tensor(number)
        self.covers = [
            Cover(module, "forward", self.run),
            *(
                Cover(module, name, getattr(Unfused, name))
                for name in COVERED
                if hasattr(module, name)
            ),
        ]

    def run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The module's forward, seen."""
        if not torch.compiler.is_compiling():
            if not self._ran():
                return forward(*args, **kwargs)
            return self._around(partial(self._tapped, forward), *args, **kwargs)
        saw: list[bool] = []
        with _Mode(self, None, saw):
            output = forward(*args, **kwargs)
        if not saw and isinstance(output, Tensor):
            torch.ops.t2i_xattn.unseen(output.detach(), self.handle)
        return output

    def _tapped(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with Unfused(self.module, self.receive) as unfused, _Mode(self, unfused, []):
            return forward(*args, **kwargs)

    def answered(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """A call of the fused kernel that is answered in its place; None where it is not."""
        # Compiling first: nothing that differs from site to site is looked at in a graph.
        if torch.compiler.is_compiling() or self._attend is _as_ever:
            return None
        kernel = self._attend(asked(*args, **kwargs))
        return None if kernel is None else self.receive(kernel)

    def seen(self, output: Tensor, logsumexp: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """Hands a call of the fused kernel over; gives what is to stand for its output."""
        call = asked(*args, **kwargs)
        if torch.compiler.is_compiling():
            torch.ops.t2i_xattn.at_site(
                call.query.detach(),
                call.key.detach(),
                call.value.detach(),
                output.detach(),
                self.handle,
                call.mask,
                call.scale,
                None if logsumexp is None else logsumexp.detach(),
            )
            return output
        kernel = KernelCall(
            call.query, call.key, call.value, output, call.mask, call.scale, logsumexp
        )
        return self.receive(kernel)


def asked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Asked:
    """What `scaled_dot_product_attention` is asked for, with the same meaning and fewer ways to
    say it."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if is_causal:
        places = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool)
        attn_mask = places.tril().to(query.device)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(groups, dim=-3) for each in (key, value))
    return Asked(query, key, value, attn_mask, scale)


class _Mode(TorchFunctionMode):
    """Sees the functions of torch that are called while it is entered.

    Attributes:
        saw: has an entry for each call of the fused kernel.
    """

    def __init__(self, tap: SiteTap, unfused: Unfused | None, saw: list[bool]) -> None:
        super().__init__()
        self.tap, self.unfused, self.saw = tap, unfused, saw

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            self.saw.append(True)
            answer = self.tap.answered(*args, **kwargs)
            if answer is not None:
                return answer
            both = fused(*args, **kwargs) if self.tap.logsumexp else None
            output, logsumexp = (func(*args, **kwargs), None) if both is None else both
            return self.tap.seen(output, logsumexp, *args, **kwargs)
        if func is Tensor.unflatten:  # which torch.compile knows as a method alone
            return args[0].unflatten(*args[1:], **kwargs)
        output = func(*args, **kwargs)
        if func is torch.bmm and self.unfused is not None:
            self.unfused.multiplied(args)
        return output


@torch.library.custom_op("t2i_xattn::at_site", mutates_args=("output",))
def _at_site(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    handle: Tensor,
    mask: Tensor | None,
    scale: float,
    logsumexp: Tensor | None,
) -> None:
    tap = _taps.get(int(handle))
    if tap is None or not tap._ran():
        return
    made = tap.receive(KernelCall(query, key, value, output, mask, scale, logsumexp))
    if made is not output:
        output.copy_(made)


@_at_site.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    handle: Tensor,
    mask: Tensor | None,
    scale: float,
    logsumexp: Tensor | None,
) -> None:
    return None


@torch.library.custom_op("t2i_xattn::unseen", mutates_args=("output",))
def _unseen(output: Tensor, handle: Tensor) -> None:
    """A module ran in a compiled graph whose kernel is no call that can be handed over."""
    tap = _taps.get(int(handle))
    if tap is not None:
        tap._ran()


@_unseen.register_fake
def _(output: Tensor, handle: Tensor) -> None:
    return None
