"""What one call of a denoiser costs, seen by running it: without numbers where that can be done.

A copy of the denoiser is made of fake tensors, which have shapes and no memory, and run on fake
inputs: every operator is called, none computes. So sizes that no machine has room for can be asked
about. Where the shapes depend on the numbers (some denoisers pack texts by their masks) the call is
run as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from t2i_xattn.costs.counter import flop_counter
from t2i_xattn.costs.fake_copy import CANNOT, without_numbers
from t2i_xattn.costs.live_bytes import LiveBytes
from t2i_xattn.costs.site_cost import KernelSize, LayerSize, SiteCost
from t2i_xattn.denoisers.sites import AttentionSite, walk_sites
from t2i_xattn.kernel.call import KernelCall
from t2i_xattn.kernel.cover import restored
from t2i_xattn.kernel.tap import SiteTap


@dataclass(frozen=True)
class CallCost:
    """One call of a denoiser.

    Attributes:
        sites: its attention sites that ran, in their order.
        flops: of the whole call, by torch's counter.
        weight_bytes: of the denoiser.
        live_bytes: the most that tensors of the call held at once, beside the weights.
        computed: whether it had to be run with numbers.
    """

    sites: tuple[SiteCost, ...]
    flops: int
    weight_bytes: int
    live_bytes: int
    computed: bool = False

    def kernel_flops(self, kind: str) -> int:
        """Of the kernel calls at the sites of a kind."""
        return sum(each.kernel_flops for each in self.sites if each.site.kind == kind)

    @property
    def attention(self) -> int:
        """FLOPs of all sites."""
        return sum(each.predicted for each in self.sites)


def seen_call(denoiser: nn.Module, given: Mapping[str, Any]) -> tuple[CallCost, Any]:
    """The cost of a call, and what it gives: tensors that are fake unless it had to be computed.

    Args:
        denoiser: the module itself.
        given: the arguments of the call, by name.
    """
    try:
        if _is_plain(given):
            found, output = without_numbers(denoiser, dict(given), counted_call)
            if _is_plain(output):
                return found, output
    except CANNOT:
        pass  # a fault of the call itself comes again now
    return counted_call(denoiser, given, computed=True)


def _is_plain(values: Any) -> bool:
    """Whether there is no object of the pipeline's own among them, in which a call may keep
    something for the next, such as keys."""
    leaves = pytree.tree_leaves(dict(values) if isinstance(values, Mapping) else values)
    return all(isinstance(each, Tensor | bool | int | float | str | None) for each in leaves)


def counted_call(
    denoiser: nn.Module, given: Mapping[str, Any], computed: bool = False
) -> tuple[CallCost, Any]:
    """The same of a call as it is."""
    counter, live = flop_counter(), LiveBytes()
    meters = [_Meter(site, module, counter) for site, module in walk_sites(denoiser)]
    trained = [each for each in denoiser.parameters() if each.requires_grad]

    def put() -> None:
        for weight in trained:  # the counter stumbles over those that are given to a module
            weight.requires_grad_(False)
        for each in meters:
            each.put()

    def undo() -> None:
        for each in reversed(meters):
            each.take_off()
        for weight in trained:
            weight.requires_grad_(True)

    with torch.no_grad(), restored(put, undo), counter, live:
        output = denoiser(**given)
    weights = sum(each.nbytes for each in (*denoiser.parameters(), *denoiser.buffers()))
    sites = tuple(each.cost for each in meters if each.ran)
    flops = counter.get_total_flops()
    return CallCost(sites, flops, weights, live.most, computed), output


class _Meter:
    """Sees what one attention module does in the thread that made it."""

    def __init__(self, site: AttentionSite, module: nn.Module, counter: FlopCounterMode) -> None:
        self.site, self.module, self.ran, self._runs = site, module, False, False
        self._counter, self._flops, self._flops_of_layers = counter, 0, 0
        self._kernels: list[KernelSize] = []
        self._layers: list[LayerSize] = []
        self._thread = threading.get_ident()
        self._tap = SiteTap(module, self._is_ours, self._receive, around=self._around)
        self._handles: list[Any] = []

    def put(self) -> None:
        for cover in self._tap.covers:
            cover.put()
        for name, each in self.module.named_modules():
            if isinstance(each, nn.Linear):
                before: list[int] = []
                begin, end = partial(self._begin, before), partial(self._end, name, before)
                self._handles.append(each.register_forward_pre_hook(begin))
                self._handles.append(each.register_forward_hook(end))

    def take_off(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        for cover in reversed(self._tap.covers):
            cover.take_off()

    @property
    def cost(self) -> SiteCost:
        kernels, layers = tuple(self._kernels), tuple(self._layers)
        return SiteCost(self.site, kernels, layers, self._flops, self._flops_of_layers)

    def _is_ours(self) -> bool:
        return threading.get_ident() == self._thread

    def _around(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before, self.ran, self._runs = self._counter.get_total_flops(), True, True
        output = forward(*args, **kwargs)
        self._runs = False
        self._flops += self._counter.get_total_flops() - before
        return output

    def _receive(self, call: KernelCall) -> Tensor:
        rows, heads, queries, width = call.query.shape
        keys, values, number = call.key.shape[2], call.value.shape[-1], call.query.element_size()
        size = KernelSize(rows, heads, queries, keys, width, values, number)
        self._kernels.append(size)
        return call.output

    def _begin(self, before: list[int], layer: Any, args: tuple[Any, ...]) -> None:
        if self._is_ours():
            before.append(self._counter.get_total_flops())

    def _end(
        self, name: str, before: list[int], layer: Any, args: tuple[Any, ...], output: Tensor
    ) -> None:
        if not self._is_ours():
            return
        flops = self._counter.get_total_flops() - before.pop()
        if not self._runs:
            return  # a block may call layers of its attention itself (Lumina)
        self._flops_of_layers += flops
        inside, outside = layer.in_features, layer.out_features
        weights = sum(each.nbytes for each in layer.parameters(recurse=False))
        vectors = output.numel() // outside
        self._layers.append(LayerSize(name, vectors, inside, outside, weights))
