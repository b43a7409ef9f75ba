"""Gradients by something else than a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from t2i_xattn.kernel.cover import restored


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients, which would cost memory; afterwards those do that did."""
    needed = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def ask(wanted: bool) -> None:
        for parameter in needed:
            parameter.requires_grad_(wanted)

    with restored(lambda: ask(False), lambda: ask(True)):
        yield
