"""An oracle of joint and of cross-attention: every kernel call of a denoiser's attention modules,
whole, read off a run without the package that it judges; softmax over all keys in fp64."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tiny.case import Case, Heard, Picture, Seen


def attention_modules(denoiser: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that have a processor, with their names."""
    return [(name, m) for name, m in denoiser.named_modules() if hasattr(m, "processor")]


class Oracle(TorchFunctionMode):
    """Sees a whole run of a pipeline; see the module.

    Attributes:
        seen: every kernel call inside an attention module of the denoiser.
        heard: every call of a text encoder.
    """

    def __init__(self, pipe: Any, denoiser: str = "transformer") -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.heard: list[Heard] = []
        self._denoiser = getattr(pipe, denoiser)
        self._encoders = [
            (name, part)
            for name, part in pipe.components.items()
            if name.startswith("text_encoder") and isinstance(part, nn.Module)
        ]
        self._calls, self._given = -1, dict[str, Any]()
        self._inside: list[list[Any]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        super().__enter__()
        hook: Callable[..., Any] = self._denoiser.register_forward_pre_hook
        self._handles = [hook(self._begin, with_kwargs=True)]
        for name, module in attention_modules(self._denoiser):
            self._handles.append(module.register_forward_pre_hook(self._enters(name)))
            self._handles.append(module.register_forward_hook(self._leaves, always_call=True))
        for name, encoder in self._encoders:
            hook = encoder.register_forward_pre_hook
            self._handles.append(hook(self._encoder(name), with_kwargs=True))
        return self

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*exception)

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._calls += 1
        self._given = inspect.signature(module.forward).bind(*args, **kwargs).arguments

    def _enters(self, name: str) -> Callable[..., None]:
        def enters(module: nn.Module, args: Any) -> None:
            self._inside.append([name, 0])

        return enters

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()

    def _encoder(self, name: str) -> Callable[..., None]:
        def encodes(module: nn.Module, args: Any, kwargs: Any) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if isinstance(ids, Tensor):
                self.heard.append(Heard(name, ids.tolist()))

        return encodes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and self._inside:
            self._note(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        assert not is_causal
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if enable_gqa:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        inside = self._inside[-1]
        mask = None if attn_mask is None else attn_mask.clone()
        self.seen.append(
            Seen(
                site=inside[0],
                call=self._calls,
                number=inside[1],
                query=query.clone(),
                key=key.clone(),
                mask=mask,
                scale=scale,
                given=self._given,
            )
        )
        inside[1] += 1


def probs(seen: Seen) -> Tensor:
    """fp64 `(rows, heads, queries, keys)`: the softmax over all keys."""
    scores = seen.query.double() @ seen.key.double().transpose(-1, -2) * seen.scale
    if seen.mask is not None and seen.mask.dtype == torch.bool:
        scores = scores.masked_fill(~seen.mask, float("-inf"))
    elif seen.mask is not None:
        scores = scores + seen.mask.double()
    return scores.softmax(dim=-1).nan_to_num(0.0)


def shares(seen: Seen, picture: Picture) -> Tensor:
    """fp64 `(heads, places, columns)`: what a picture's places give to its text's columns."""
    of_row = probs(seen)[picture.row]
    return of_row[:, list(picture.queries)][:, :, list(picture.keys)]


def expected_maps(case: Case, oracle: Oracle) -> dict[str, NDArray[np.float64]]:
    """By site, `(pictures, *grid, columns)`: the mean over heads and the calls that count."""
    found: dict[str, list[Tensor]] = {}
    for seen in oracle.seen:
        pictures = case.pictures(seen)
        if pictures:
            each = torch.stack([shares(seen, picture).mean(0) for picture in pictures])
            found.setdefault(seen.site, []).append(each)
    return {
        site: torch.stack(maps).mean(0).unflatten(1, case.grid).numpy()
        for site, maps in found.items()
    }
