"""The blocks of a denoiser through which texts of ours go beside the prompt's, and their calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.other_texts import DoubleStream
from t2i_xattn.denoisers.registry import Acting, Registry
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.module_calls import ModuleCalls, by_name

_HARMLESS = ("group_offloading", "layerwise_casting", "peft_autocast_disable", "execution_tracker")
"""Hooks of diffusers that leave alone what a block computes, by a part of their names."""

BlockCall = Callable[[str, Callable[[], Any], Mapping[str, Any]], Any]
"""In the place of a block's own call: given its name, its own call, and that one's arguments by
name, gives what the block gives."""


class TextBlocks:
    """See the module.

    Attributes:
        modules: the blocks, by name.
    """

    def __init__(
        self, registry: Registry, module: nn.Module, stream: DoubleStream, single: bool, what: str
    ) -> None:
        """
        Args:
            registry: of the denoiser.
            module: the denoiser as the pipeline has it, compiled or not.
            stream: how its blocks are built.
            single: whether the single-stream ones are needed too.
            what: what they are needed for, as messages call it.

        Raises:
            UserError: for a denoiser that is compiled as a whole.
        """
        self.registry, self.what = registry, what
        denoiser = registry.denoiser
        if module is not denoiser or getattr(denoiser, "_compiled_call_impl", None) is not None:
            raise self.unseen()
        names = [stream.blocks, *([stream.single] if single and stream.single else [])]
        self.modules: dict[str, nn.Module] = {
            name: block
            for name, block in denoiser.named_modules()
            if any(re.fullmatch(each, name) for each in names)
        }
        self._calls = [
            ModuleCalls(block, partial(self._called, name)) for name, block in self.modules.items()
        ]
        self._acting: Acting | None = None
        self._instead: BlockCall | None = None

    def put(self) -> None:
        """Covers them, and what they were compiled to since."""
        for each in self._calls:
            each.link(each.module)

    def take_off(self) -> None:
        """Gives them back; may be called again."""
        for each in self._calls:
            each.unlink()
        self._acting = self._instead = None

    def check(self, call: DenoiserCall) -> None:
        """
        Raises:
            UserError: where blocks may give what they have kept from another call, or the keys of
                reference pictures are kept.
        """
        if call.given.get("kv_cache_mode") is not None:
            raise UserError(
                "expected a pipeline that does not keep the keys of reference pictures for "
                f"{self.what}, but this one does; take another one, or leave {self.what} out"
            )
        for name, block in self.modules.items():
            for module in block.modules():
                hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", None) or {}
                known = [each for each in hooks if not any(part in each for part in _HARMLESS)]
                if known:
                    raise UserError(
                        f"expected blocks without step caches and other hooks for {self.what}, but "
                        f"{name} has {known[0]!r}; disable it (disable_cache()), or leave "
                        f"{self.what} out"
                    )

    def follow(self, acting: Acting | None, instead: BlockCall | None) -> None:
        """Who acts in the denoiser's call that has just begun, and what blocks do in it."""
        self._acting, self._instead = acting, instead

    def unseen(self) -> UserError:
        """What to say of a denoiser whose blocks' calls are compiled into a whole."""
        return UserError(
            f"expected a {type(self.registry.denoiser).__name__} that is not compiled as a whole "
            f"for {self.what}, whose blocks are run once more, but the calls of its blocks cannot "
            "be seen; leave it uncompiled, or call compile_repeated_blocks() on it instead"
        )

    def _called(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of a block's own call."""
        own = partial(method, *args, **kwargs)
        # Others' passes through the blocks, and calls that are not of this run, are none of ours.
        if (
            self._acting is None
            or self._instead is None
            or not self.registry.is_followed_by(self._acting)
        ):
            return own()
        return self._instead(name, own, by_name(self.modules[name], args, kwargs))
