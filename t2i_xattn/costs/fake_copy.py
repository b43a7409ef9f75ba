"""What a module does, seen on a copy of tensors without memory, offloaded or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as pytree

_OFFLOADING = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
"""Names of diffusers' hooks that do nothing but move weights."""

CANNOT = (RuntimeError, AssertionError, TypeError, NotImplementedError, ValueError)
"""What comes of a module that cannot be seen without numbers; faults of a call are among it."""

_Seen = TypeVar("_Seen")


def without_numbers(module: nn.Module, given: Any, look: Callable[[Any, Any], _Seen]) -> _Seen:
    """What `look` sees of a copy of the module and of the arguments, all without numbers.

    Args:
        module: not changed.
        given: arguments of the call.
        look: is given both.

    Raises:
        Exception: one of `CANNOT`, where shapes depend on numbers.
    """
    mode = FakeTensorMode()
    with torch.no_grad():
        fake = _fake_copy(module, mode, given)
        inputs = pytree.tree_map_only(Tensor, mode.from_tensor, given)
        with mode:
            return look(fake, inputs)


def call_key(given: Any) -> tuple[str, ...]:
    """What the cost of a call depends on: shapes, what is switched on or off, and masks and
    positions, by which some denoisers pack their texts. Noise levels differ from call to call and
    cost the same."""
    leaves, structure = pytree.tree_flatten(given)
    about: list[Any] = [structure]
    for each in leaves:
        if isinstance(each, Tensor):
            counts = each.ndim > 1 and not each.is_floating_point() and not each.is_complex()
            about.append((each.shape, each.dtype, each.tolist() if counts else None))
        else:
            about.append(each if isinstance(each, bool | str | int | None) else type(each))
    return tuple(map(str, about))


def _fake_copy(module: nn.Module, mode: FakeTensorMode, given: Any) -> Any:
    """A copy whose tensors have shapes and no memory, with its weights where the call is computed.

    A copy, since modules keep some of what they have computed, which would be fake. Hooks that load
    weights for a call are left out, as theirs would be moved for real.

    Args:
        module: not changed.
        mode: of the fake tensors.
        given: arguments of the call.
    """
    hooks = {id(each): None for one in module.modules() for each in _moving(one)}
    with torch.no_grad(), FakeCopyMode(mode):
        fake = copy.deepcopy(module, dict(hooks)).requires_grad_(False)
    if not hooks:
        return fake
    device = device_of(given)
    for one, of in zip(fake.modules(), module.modules(), strict=True):
        if _moving(of):
            _without_hook(one)
        both: tuple[dict[str, Any], ...] = one._parameters, one._buffers
        for tensors in both:
            for name, each in tensors.items():
                if each is not None and each.device != device:
                    with mode:
                        moved = torch.empty_like(each, device=device)
                    kept = isinstance(each, nn.Parameter)
                    tensors[name] = nn.Parameter(moved, requires_grad=False) if kept else moved
    return fake


def device_of(given: Any) -> torch.device:
    """Where a call is computed: where the first of its arguments with several numbers lies, as the
    weights themselves may lie elsewhere until then."""
    leaves = (each for each in pytree.tree_leaves(given) if isinstance(each, Tensor))
    several = (each.device for each in leaves if each.is_floating_point() and each.ndim > 1)
    return next(several, torch.device("cpu"))


def _moving(module: nn.Module) -> list[Any]:
    """The hooks of a module that do nothing but move weights: accelerate's, diffusers'."""
    own = vars(module)
    found = [own["_hf_hook"]] if "_old_forward" in own and "_hf_hook" in own else []
    registry = own.get("_diffusers_hook")
    if registry is not None and set(registry.hooks) <= set(_OFFLOADING):
        found.append(registry)
    return found


def _without_hook(fake: nn.Module) -> None:
    """Has a module's copy called as it was before it got its hook."""
    own = vars(fake)
    own.pop("forward", None)
    before = own.pop("_old_forward", None)
    if before is not None:
        own["forward"] = before
    for name in ("_hf_hook", "_diffusers_hook"):
        own.pop(name, None)
