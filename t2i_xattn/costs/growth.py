"""How attention's cost grows: exponents fitted to what is seen, beside the theory's.

Of n places, m tokens and heads of width d a kernel takes 4 · rows · heads · n · m · d FLOPs in
cross-attention, 4 · rows · heads · n² · d in self-attention and 4 · rows · heads · (n + m)² · d in
joint attention (Vaswani et al. 2017, arXiv 1706.03762, table 1, for one head).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from t2i_xattn.costs.cost import KINDS, Cost, Known, cost_with
from t2i_xattn.costs.counter import flop_counter
from t2i_xattn.costs.site_cost import KernelSize, fitted_exponent
from t2i_xattn.denoisers.of_pipeline import denoisers_of
from t2i_xattn.denoisers.registry import Registry
from t2i_xattn.kernel.module_calls import uncompiled

FACTORS = (1, 2, 3)
"""By which the side of the picture, the tokens and the steps are multiplied."""

_LENGTHS = (64, 128, 256)
"""Values of `max_sequence_length`, where a pipeline has that."""

_THEORY = {
    ("cross", "places"): 1,
    ("self", "places"): 2,
    ("joint", "places"): 2,
    ("cross", "tokens"): 1,
    ("joint", "tokens"): 2,
}


@dataclass(frozen=True)
class Growth:
    """How the FLOPs of one thing grow with another.

    Attributes:
        of: such as `"cross-attention"`.
        by: what was varied, such as `"places"`.
        sizes: of that, as they were seen; in joint attention of places and tokens together.
        flops: at each, by torch's counter where the kernels' own are asked for, else by the sizes
            that equal it.
        theory: the exponent that is expected.
    """

    of: str
    by: str
    sizes: tuple[int, ...]
    flops: tuple[int, ...]
    theory: float

    @property
    def exponent(self) -> float:
        """The slope of log FLOPs over log size."""
        return fitted_exponent(list(map(float, self.sizes)), list(map(float, self.flops)))


def growth(pipe: Any, *args: Any, **kwargs: Any) -> list[Growth]:
    """How the cost of a run grows with the picture, the text, the heads, their width and the steps.

    Args:
        pipe, args, kwargs: see `cost.cost`; the size is the smallest of three.

    Returns:
        Nothing for what cannot be varied: the picture where calls have to be computed, the text
        where the pipeline does not let its length be chosen.
    """
    sizes: dict[str, int] = {}
    known: Known = {}
    look, short = _looking(pipe, sizes), {**kwargs, "num_inference_steps": 1}
    first = cost_with(pipe, look, args, short, known)
    found: list[Growth] = []
    if sizes and not first.call.computed:
        found += _by_kind(_with_larger_pictures(pipe, sizes, args, short, known), "places")
    if not first.call.computed:
        found += _by_kind(_with_more_tokens(pipe, args, short, known), "tokens")
    for kind in KINDS:
        kernels = [k for site in first.call.sites if site.site.kind == kind for k in site.kernels]
        if kernels:
            found += _of_kernel(kind, max(kernels, key=lambda each: each.flops))
    steps = [int(kwargs.get("num_inference_steps") or 2) * k for k in FACTORS]
    whole = tuple(
        cost_with(pipe, _same, args, {**kwargs, "num_inference_steps": each}, known).flops
        for each in steps
    )
    return [*found, Growth("the denoiser", "steps", tuple(steps), whole, 1)]


def _same(given: dict[str, Any]) -> dict[str, Any]:
    return given


def _looking(pipe: Any, sizes: dict[str, int]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Notes down the height and width of the picture, seen at the latents."""
    registry = Registry.of(denoisers_of(pipe)[0].module)
    known = inspect.signature(pipe.__call__).parameters

    def look(given: dict[str, Any]) -> dict[str, Any]:
        call = registry.family.call(registry.denoiser, given)
        if call is not None and {"height", "width"} <= set(known):
            factor = int(getattr(pipe, "vae_scale_factor", 8))
            sizes["height"], sizes["width"] = (factor * each for each in call.latent_size)
        return given

    return look


def _with_larger_pictures(
    pipe: Any,
    sizes: Mapping[str, int],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    known: Known,
) -> list[Cost]:
    """Runs with pictures of other sizes, as far as the model takes them."""
    runs = []
    for k in FACTORS:
        larger = {name: side * k for name, side in sizes.items()}
        with suppress(ValueError):  # beyond what its positions are learnt for
            runs.append(cost_with(pipe, _same, args, {**kwargs, **larger}, known))
    return runs


def _with_more_tokens(
    pipe: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Known
) -> list[Cost]:
    """Runs with texts of other lengths; none where that cannot be had."""
    takes = inspect.signature(pipe.__call__).parameters
    if "max_sequence_length" in takes and "max_sequence_length" not in kwargs:
        several = [{**kwargs, "max_sequence_length": each} for each in _LENGTHS]
        return [cost_with(pipe, _same, args, each, known) for each in several]
    if not hasattr(uncompiled(denoisers_of(pipe)[0].module), "mid_block"):
        return []  # only of UNets is it known that the text is one argument

    def longer(given: dict[str, Any], times: int) -> dict[str, Any]:
        text = given.get("encoder_hidden_states")
        if not isinstance(text, Tensor) or given.get("encoder_attention_mask") is not None:
            return given
        return {**given, "encoder_hidden_states": torch.cat([text] * times, dim=1)}

    return [cost_with(pipe, partial(longer, times=k), args, kwargs, known) for k in FACTORS]


def _by_kind(runs: list[Cost], by: str) -> list[Growth]:
    found = []
    for kind in KINDS:
        if (kind, by) not in _THEORY or not runs:
            continue
        sizes, flops = [], []
        for run in runs:
            kernels = [k for s in run.call.sites if s.site.kind == kind for k in s.kernels]
            if kernels:
                largest = max(kernels, key=lambda each: each.flops)
                places = by == "places" and kind != "joint"
                sizes.append(largest.queries if places else largest.keys)
                flops.append(run.call.kernel_flops(kind))
        if len(set(sizes)) > 1:
            of = f"{kind}-attention"
            found.append(Growth(of, by, tuple(sizes), tuple(flops), _THEORY[kind, by]))
    return found


def _of_kernel(kind: str, kernel: KernelSize) -> list[Growth]:
    """By the heads, and by their width, of the largest kernel call of a kind."""
    found = []
    for by, field in (("heads", "heads"), ("width of a head", "width")):
        sizes = [getattr(kernel, field) * k for k in FACTORS]
        flops = tuple(_counted(replace(kernel, **{field: each})) for each in sizes)
        found.append(Growth(f"{kind}-attention", by, tuple(sizes), flops, 1))
    return found


def _counted(size: KernelSize) -> int:
    """FLOPs of a kernel call of this size, by torch's counter; keys as wide as values."""
    counter = flop_counter()
    with FakeTensorMode():
        query, key = (
            torch.empty(size.rows, size.heads, length, size.width)
            for length in (size.queries, size.keys)
        )
        with counter:
            scaled_dot_product_attention(query, key, key)
    return counter.get_total_flops()
