"""Processors put at layers for a while, and taken back in any order.

Of each layer it is known who has put a processor there, and upon whose. So one that is taken back
from under another hands on what it had found, and one that was replaced by somebody else leaves
theirs alone. All steps can be done again from any point at which they were broken off.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple

from torch import nn


class _Found(NamedTuple):
    """A processor, and the order of the layer's parts where it stood: it may be one of them."""

    processor: Any
    order: tuple[str, ...]


class Placement:
    """One processor to put at one layer.

    Attributes:
        layer: a diffusers `Attention`.
        processor: what is put there.
    """

    def __init__(self, layer: nn.Module, processor: Any) -> None:
        self.layer = layer
        self.processor = processor
        self._put: _Put | None = None

    def open(self) -> None:
        """Puts the processor at the layer."""
        with _LOCK:
            puts = _PUTS.setdefault(self.layer, [])
            found = _Found(self.layer.processor, tuple(self.layer._modules))
            under = [each for each in puts if each.processor is found.processor]
            self._put = _Put(self.processor, found, under[-1] if under else None)
            puts.append(self._put)
            _stand(self.layer, _Found(self.processor, found.order))

    def close(self) -> None:
        """Takes the processor back; nothing if that is done, or it was never put."""
        with _LOCK:
            puts, mine = _PUTS.get(self.layer, []), self._put
            if mine in puts:
                for each in puts:
                    if each.under is mine:
                        each.found = mine.found
                        each.under = mine.under
                later = puts[puts.index(mine) + 1 :]
                if _stands(self.layer, mine.processor) and all(
                    each.processor is not mine.processor for each in later
                ):
                    _stand(self.layer, mine.found)
                puts.remove(mine)
            if not puts:
                _PUTS.pop(self.layer, None)


class _Put:
    """A processor that has been put at a layer, and what to leave there when it goes."""

    def __init__(self, processor: Any, found: _Found, under: _Put | None) -> None:
        self.processor = processor
        self.found = found
        self.under = under  # whose processor was found there


_PUTS: weakref.WeakKeyDictionary[nn.Module, list[_Put]] = weakref.WeakKeyDictionary()
"""By layer, what has been put there and not yet taken back, in the order of putting."""

# Entered again if the garbage collector ends a context while another opens.
_LOCK = threading.RLock()


def _stands(layer: nn.Module, processor: Any) -> bool:
    """Whether a processor is at a layer, be it half put there."""
    return any(part.get("processor") is processor for part in (layer.__dict__, layer._modules))


def _stand(layer: nn.Module, wanted: _Found) -> None:
    """Lets a processor stand at a layer, which has one at any moment of it.

    `Attention.set_processor` takes away the old one first if it is a module, and puts a module
    behind the other parts. The attributes of an object go before the parts of a module, so the
    order here is: first what is to be seen goes in, then what is not to be seen goes out.
    """
    if isinstance(wanted.processor, nn.Module):
        layer.__dict__["_modules"] = _ordered(layer._modules, wanted)
        layer.__dict__.pop("processor", None)
    else:
        layer.__dict__["processor"] = wanted.processor
        layer._modules.pop("processor", None)


def _ordered(modules: dict[str, nn.Module | None], wanted: _Found) -> dict[str, nn.Module | None]:
    """A layer's parts with the processor where it stood among them; behind them if it did not."""
    names = [name for name in modules if name != "processor"]
    if "processor" in wanted.order:
        behind = wanted.order[wanted.order.index("processor") + 1 :]
        at = next((n for n, name in enumerate(names) if name in behind), len(names))
    else:
        at = len(names)
    names.insert(at, "processor")
    return {name: wanted.processor if name == "processor" else modules[name] for name in names}
