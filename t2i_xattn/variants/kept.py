"""Keys and values of the text, kept over the steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.cover import Cover
from t2i_xattn.variants.variant import Found, RunningVariant, Variant, cross

TEXTS = 16
"""As many texts are kept for a layer: those of branches that are called one by one, of edits."""
IN_VAIN = 2 * TEXTS
"""After so many different texts, of which none came again, there is nothing to keep."""

_NAMES, _FUSED = (("to_k", "to_v"), ("to_key", "to_value")), (("to_kv",),)
"""What attention modules call the layers that make keys and values of a text, and the one that
makes both after `fuse_qkv_projections`."""


@dataclass(frozen=True, eq=False)
class KeptKeys(Variant):
    """Keys and values of cross-attention are made once and kept, as the text does not change.

    What a layer gave is given again if it is asked about a text with the same numbers, and its
    weights, adapters and their scales are the same; so any order of calls, batches and adapters is
    right. It is forgotten with the run. Weights that are written past torch's version counters
    (`weight.data[…] = …`) in the middle of a run are not noticed.

    Kept for each site and text: keys and values, 2 · rows · tokens · channels numbers. With
    gradients nothing is kept.
    """

    takes: ClassVar[str] = "the projections of keys and values"
    exact: ClassVar[bool] = True
    error: ClassVar[str] = "none: the same bytes"

    @property
    def fits(self) -> str:
        return "cross-attention to a text that is the same in every step"

    def sites(self, found: Found) -> Found:
        return [(site, module) for site, module in cross(found) if _layers(module)]

    def running(self, found: Found) -> RunningVariant:
        return _Keeping()

    def covers(self, found: Found) -> list[Cover]:
        covers = []
        for site, module in found:
            for layer in _layers(module):
                act = _Layer(site, layer).called
                covers.append(Cover(layer, "forward", act))
        return covers


_local = threading.local()
"""The one that keeps at the site that runs in this thread."""


class _Keeping(RunningVariant):
    """What has been kept in a run: by layer, texts with what was made of them."""

    def __init__(self) -> None:
        self.kept: dict[int, _Texts] = {}

    def around(
        self,
        site: AttentionSite,
        module: nn.Module,
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        before = getattr(_local, "keeping", None)
        _local.keeping = self
        try:
            return forward(*args, **kwargs)
        finally:
            _local.keeping = before


class _Layer:
    """A layer that makes keys or values."""

    def __init__(self, site: AttentionSite, layer: nn.Module) -> None:
        self.site, self.layer = site, layer

    def called(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of the layer's own call."""
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        keeping: _Keeping | None = getattr(_local, "keeping", None)
        plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        if keeping is None or not plain:
            return forward(*args, **kwargs)
        texts = keeping.kept.setdefault(id(self), _Texts(self.site))
        return texts.made(args[0], self.layer, forward)


@dataclass(eq=False)
class _Made:
    """What a layer made of a text.

    Attributes:
        text: as it was given; held, so that no other comes to lie in its place. In inference mode
            a copy, since nobody counts who writes to it.
        version: of that tensor.
        state: of the layer.
        result, result_version: what it gave.
    """

    text: Tensor
    version: int | None
    state: list[Any]
    result: Tensor
    result_version: int | None


class _Texts:
    """The texts of one layer, the last used first."""

    def __init__(self, site: AttentionSite) -> None:
        self._site = site
        self._known: list[_Made] = []
        self._in_vain = 0

    def made(self, text: Tensor, layer: nn.Module, forward: Callable[..., Any]) -> Tensor:
        """What the layer makes of a text."""
        if torch.is_grad_enabled() and (text.requires_grad or _is_trained(layer)):
            return forward(text)
        state = [*_modes(text), *_state(layer)]
        found = next((each for each in self._known if _is_same(each, text)), None)
        if found is not None:
            self._known.remove(found)
            untouched = found.result_version == _version(found.result)
            if untouched and found.state == state:
                self._known.insert(0, found)
                self._in_vain = 0
                # In inference mode nobody counts who writes into it.
                return found.result.clone() if found.result_version is None else found.result
        result: Tensor = forward(text)
        self._in_vain += found is None
        if self._in_vain > IN_VAIN:
            raise UserError(
                f"expected a text that is the same in every step for KeptKeys, but at "
                f"{self._site.name} came {self._in_vain} different ones and none of them twice; "
                "leave KeptKeys out"
            )
        version = _version(text)
        held = text.clone() if version is None else text
        self._known.insert(0, _Made(held, version, state, result, _version(result)))
        del self._known[TEXTS:]
        return result.clone() if result.is_inference() else result


def _is_trained(layer: nn.Module) -> bool:
    return any(each.requires_grad for each in layer.parameters())


def _modes(text: Tensor) -> list[Any]:
    """What a layer's result depends on that is set for all of torch."""
    kind = text.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return [autocast, torch.is_inference_mode_enabled()]


def _is_same(made: _Made, text: Tensor) -> bool:
    known = made.text
    if made.version is not None and known._version != made.version:
        return False  # it was written to
    if known is text:
        return True
    alike = known.shape == text.shape and known.dtype == text.dtype and known.device == text.device
    return alike and torch.equal(known, text)


def _layers(module: Any) -> list[nn.Module]:
    """The layers of an attention module that make keys and values of a text."""
    names = _FUSED if getattr(module, "fused_projections", False) else _NAMES
    for group in names:
        layers = [getattr(module, name, None) for name in group]
        if all(isinstance(each, nn.Module) for each in layers):
            return [each for each in layers if each is not None]
    return []


class _Weight:
    """A weight as it is now: equal to itself while nobody writes to it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = ref(tensor)
        self._place = tensor.data_ptr(), _version(tensor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Weight) or self._place != other._place:
            return False
        tensor = self._tensor()
        return tensor is not None and tensor is other._tensor()

    __hash__ = None  # type: ignore[assignment]


def _state(layer: nn.Module) -> list[Any]:
    """All that a layer's result depends on beside its input: its weights, and what it and what it
    holds are set to (adapters and their scales)."""
    state: list[Any] = []
    for module in layer.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            state.append(None if tensor is None else _Weight(_lying(module, name, tensor)))
        own = vars(module).items()
        state.append([(name, _plain(value)) for name, value in own if name not in _OF_MODULES])
    return state


def _lying(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A weight where it lies: one that accelerate loads for each call is another each time."""
    if not tensor.is_meta:
        return tensor
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        lying = getattr(each, "weights_map", None)
        if lying is not None:
            found: Tensor = lying[name]
            return found
    return tensor


_OF_MODULES = (frozenset(vars(nn.Module())) - {"training"}) | {"_t2i_xattn_covers", "forward"}


def _plain(value: Any) -> Any:
    """A setting as it is now: one that is changed in place would be the same later."""
    if isinstance(value, dict):
        return [(key, _plain(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str | type(None)) else id(value)


def _version(tensor: Tensor) -> int | None:
    """Changes with a tensor that is written to; None in inference mode, where nobody counts."""
    return None if tensor.is_inference() else tensor._version
