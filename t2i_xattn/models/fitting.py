"""Whether a model's weights are those that its config asks for, before any memory is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from t2i_xattn.errors import UserError, shown
from t2i_xattn.models.quiet import quiet
from t2i_xattn.models.telling import reason
from t2i_xattn.models.weight_files import Held

_COPY = "copy the part anew from where the model came from"


class _TooManyError(Exception):
    """More is made than the files could fill."""


def check_fit(kind: Any, folder: Path, part: str, held: Held, variant: str | None) -> None:
    """Loads a part onto the meta device, where tensors have shapes and no memory.

    The libraries' own loading is what knows which names of older files mean which tensors; asked
    for more, it would fill what is missing at random.

    Args:
        kind: the part's class.
        folder: of the whole model.
        part: its name in there.
        held: what the headers of its files say.
        variant: which weights, such as `fp16`.

    Raises:
        UserError: a tensor is missing or of another shape, or no model can be built so.
    """
    most = min(8 * held.tensors + 2000, _MOST)
    try:
        with quiet(), _at_most(most), _NoLarger(4 * held.largest + _TABLE), torch.device("meta"):
            model, told = kind.from_pretrained(
                folder / part,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                device_map={"": "meta"},
                variant=variant,
            )
        # Tables that are made anew and do not lie in files.
        if sum(each.numel() for each in model.buffers()) > 4 * held.numbers + 2 * _TABLE:
            raise _TooManyError
    except _TooManyError as error:
        raise UserError(
            f"expected {part}/config.json to ask for what its files hold, {held.tensors} tensors "
            f"of up to {held.largest:,} numbers, but it asks for far more; {_COPY}"
        ) from error
    # What a constructor raises of a config that makes no sense is up to the class.
    except Exception as error:
        raise UserError(
            f"expected a {part} that can be built, but its config.json or weights are damaged "
            f"({reason(error)}); {_COPY}"
        ) from error
    for name, found, asked in sorted(told["mismatched_keys"]):
        raise UserError(
            f"expected {shown(name)} of {part} to be {tuple(asked)} as its config.json asks, "
            f"but its files have {tuple(found)}; {_COPY}"
        )
    missing = sorted(told["missing_keys"])
    if missing:
        raise UserError(
            f"expected all tensors of {part}, but its files lack {len(missing)} "
            f"({shown(missing[0])}), which would be random numbers; {_COPY}"
        )


def check_finite(pipe: Any) -> None:
    """Raises `UserError` for the first weight of a pipeline that is infinite or not a number."""
    for part, model in pipe.components.items():
        if isinstance(model, torch.nn.Module):
            check_finite_part(part, model)


def check_finite_part(part: str, model: torch.nn.Module) -> None:
    """The same of one part."""
    for name, weight in model.named_parameters():
        if weight.is_meta or weight.dtype not in _FLOATS:
            continue
        # A sum takes no memory and is finite where all is; that of large ones may not be.
        if not weight.detach().sum(dtype=torch.float32).isfinite() and not bool(
            weight.detach().isfinite().all()
        ):
            raise UserError(
                f"expected numbers as weights, but {shown(name)} of {part} has a NaN or "
                f"an infinity; {_COPY}, or load it in float32 if it was made so"
            )


_MOST = 200_000
"""Parameters and modules, which take some twenty seconds; models have a few thousand."""
_TABLE = 2**26
"""Numbers of a table of positions, as large as models make them: a quarter of a gigabyte."""
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class _NoLarger(TorchDispatchMode):
    """Ends a constructor that makes a larger tensor, in numbers, for however short a time."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.numel() > self.numbers:
            raise _TooManyError
        return made


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Ends a constructor of this thread that makes more parameters and modules."""
    made, thread = 0, threading.get_ident()

    def count(module: torch.nn.Module, name: str, part: Any) -> None:
        nonlocal made
        if threading.get_ident() != thread:
            return
        made += 1
        if made > most:
            raise _TooManyError

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
