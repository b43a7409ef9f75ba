"""A pass of the denoiser for its attention only: on the conditional rows, as deep as needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.registry import Registry
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import TEXT
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.cover import restored


class _Deep(Exception):
    """Ends a pass at its last site."""


class SeenMaps(NamedTuple):
    """The maps of a site.

    Attributes:
        probs: the head mean `(images, queries, tokens)`, with gradients.
        size: height and width of its places.
    """

    probs: Tensor
    size: tuple[int, int]


class ShallowPass:
    """Keeps the probs of some sites, with gradients, and ends at the last; see
    `denoisers.registry.Acting`. Nobody else records or edits meanwhile."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = set(names)
        self._seen: dict[str, SeenMaps] = {}

    def run(self, registry: Registry, given: Mapping[str, Any]) -> dict[str, SeenMaps]:
        """The maps of the sites.

        Args:
            registry: of the denoiser; one that was compiled is run as it was before.
            given: its arguments, for the conditional rows only.
        """
        denoiser: Any = registry.denoiser
        with (
            registry.watched(self, given),
            _without_checkpoints(denoiser),
            torch.compiler.set_stance("force_eager"),
            suppress(_Deep),
        ):
            # Not the module itself, whose compiled call and hooks belong to the run.
            denoiser.forward(**given)
        return self._seen

    def wants(self, site: AttentionSite) -> bool:
        return site.name in self._names

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        return ()

    def take(self, seen: Seen) -> None:
        if seen.stream != TEXT:
            return
        if seen.reading.problem is not None:
            self._cannot(seen.site, seen.reading.problem)
        assert seen.size is not None
        every = tuple(range(seen.kernel.query.shape[0]))
        self._seen[seen.site.name] = SeenMaps(seen.probs(every).mean(dim=1), seen.size)
        if len(self._seen) == len(self._names):
            raise _Deep

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        kind = type(getattr(module, "processor", module)).__name__
        self._cannot(site, f"{kind} does not call a kernel that can be seen")

    def end(self) -> None:
        """Nothing is left to do."""

    def _cannot(self, site: AttentionSite, problem: str) -> None:
        raise UserError(
            f"expected maps of the text at {site.name} to guide by, but {problem}; leave such "
            "sites out with sites=…"
        )


@contextmanager
def _without_checkpoints(denoiser: nn.Module) -> Iterator[None]:
    """No part is computed again in the backward pass, where nobody would keep its probs."""
    flag = "gradient_checkpointing"
    checkpointing = [each for each in denoiser.modules() if getattr(each, flag, False)]

    def switch(on: bool) -> None:
        for each in checkpointing:
            setattr(each, flag, on)

    with restored(lambda: switch(False), lambda: switch(True)):
        yield


def writable(value: Any) -> Any:
    """An argument with its tensors as ones that gradients may pass through."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, Mapping):
        return {key: writable(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(writable(each) for each in value)
    return value
