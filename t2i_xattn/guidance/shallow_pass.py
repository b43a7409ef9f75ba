"""A pass of the denoiser for its attention only: on the conditional half, as deep as needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.wrapping import WrappingProcessor, wrappers
from t2i_xattn.kernel.attention import attention_probs
from t2i_xattn.recording.targets import LayerCall


class _Deep(Exception):
    """Ends a pass at its last site."""


class Keeping(NamedTuple):
    """Where a site's probs go in a shallow pass.

    Attributes:
        probs: the head means `(images, queries, tokens)` of the sites reached so far.
        sites: how many of them end the pass.
    """

    probs: list[Tensor]
    sites: int


class GuidingProcessor(WrappingProcessor):
    """Keeps the probs of a site, with gradients; ends the pass at the last."""

    targets: tuple[Keeping, ...]

    def before(self, call: LayerCall) -> None:
        for keeping in self.targets:
            every = slice(None)
            query, key = call.queries_and_keys(every)
            probs = attention_probs(query, key, call.attn.scale, call.mask(every))
            keeping.probs.append(probs.mean(dim=1))
            if len(keeping.probs) == keeping.sites:
                raise _Deep


def shallow_maps(
    unet: nn.Module,
    layers: Sequence[tuple[str, nn.Module]],
    size: tuple[int, int],
    arguments: Mapping[str, Any],
) -> Tensor:
    """The mean over some sites, `(images, height, width, tokens)`, with gradients.

    The pass ends at the last of the sites, so the blocks behind it cost nothing. Nothing that
    stands at the sites records or edits meanwhile.

    Args:
        unet: the denoiser; one that was compiled is run as it was before.
        layers: the sites, with the layers that have a `GuidingProcessor`.
        size: height and width of their maps.
        arguments: of the denoiser, for the conditional rows only.
    """
    unet = getattr(unet, "_orig_mod", unet)
    keeping = Keeping([], len(layers))
    with _silent(unet):
        for _, attn in layers:
            layer: Any = attn
            for each in wrappers(layer.processor):
                if isinstance(each, GuidingProcessor):
                    each.targets = (keeping,)
                    break
        with suppress(_Deep):
            # Not the module itself, whose hooks belong to the run and not to this pass.
            unet.forward(**arguments)
    mean = torch.stack(keeping.probs).mean(dim=0)
    return mean.unflatten(1, size)


@contextmanager
def _silent(unet: nn.Module) -> Iterator[None]:
    """No wrapper at any site does anything; afterwards each does what it did."""
    found: list[tuple[WrappingProcessor, Any]] = []
    for module in unet.modules():
        for each in wrappers(getattr(module, "processor", None)):
            found.append((each, each.targets))
            each.targets = ()
    try:
        yield
    finally:
        for each, targets in found:
            each.targets = targets


def rows_of(value: Any, rows: slice, batch: int) -> Any:
    """The rows of every tensor in an argument of the denoiser that has as many as the batch."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and value.shape[0] == batch else value
    if isinstance(value, Mapping):
        return {key: rows_of(each, rows, batch) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(rows_of(each, rows, batch) for each in value)
    return value
