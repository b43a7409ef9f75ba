"""The calls of a whole module (a denoiser, a text encoder), outside of what is compiled."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from t2i_xattn.kernel.cover import Cover


def uncompiled(module: nn.Module) -> nn.Module:
    """The module itself, where `torch.compile` has put it into a wrapper."""
    inside: nn.Module = getattr(module, "_orig_mod", module)
    return inside


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call by their names."""
    return dict(zip(_argument_names(type(module).forward), args, strict=False)) | dict(kwargs)


@cache
def _argument_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def _innermost(module: nn.Module) -> tuple[Any, str]:
    """Where the module's own forward stands: the owner and the name.

    A hook of diffusers that calls it by itself may give it other arguments than it was given, such
    as those of the conditional rows alone (FasterCache).
    """
    registry = getattr(module, "_diffusers_hook", None)
    references = getattr(registry, "_fn_refs", ())
    inside = next((each for each in references if each.original_forward is not None), None)
    return (module, "forward") if inside is None else (inside, "original_forward")


class ModuleCalls:
    """Covers a module, its wrapper by `torch.compile`, and what `module.compile()` has made.

    `act` is called once a call, outside of the compiled graph.
    """

    def __init__(self, module: nn.Module, act: Callable[..., Any]) -> None:
        """Changes nothing yet; see `link`."""
        self._act = act
        self._covers: list[Cover] = []
        self._inside = threading.local()
        self.module = uncompiled(module)

    def link(self, module: nn.Module) -> None:
        """Covers what is not covered yet, such as what was compiled since."""
        places = [_innermost(self.module)]
        if getattr(self.module, "_compiled_call_impl", None) is not None:
            places.append((self.module, "_compiled_call_impl"))
        if module is not self.module:
            places.append((module, "forward"))
        for owner, name in places:
            if not any(each.owner is owner and each.name == name for each in self._covers):
                cover = Cover(owner, name, self._called)
                self._covers.append(cover)
                cover.put()

    def unlink(self) -> None:
        """Gives everything back; may be called again."""
        for cover in reversed(self._covers):
            cover.take_off()
        self._covers = []

    def _called(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # A wrapper's call goes on to the module's own, which is no second call.
        if torch.compiler.is_compiling() or getattr(self._inside, "now", False):
            return method(*args, **kwargs)
        self._inside.now = True
        try:
            return self._act(method, *args, **kwargs)
        finally:
            self._inside.now = False
