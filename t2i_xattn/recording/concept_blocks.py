"""Concepts in joint attention: a stream of further text that goes through the blocks beside the
prompt's, which the picture never looks at."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.other_texts import DoubleStream
from t2i_xattn.denoisers.registry import Acting, Registry
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.module_calls import ModuleCalls, by_name
from t2i_xattn.prompts.concepts import Concept
from t2i_xattn.recording.concept_pass import BlockCall, compiled_as_a_whole, reads

_HARMLESS = ("group_offloading", "layerwise_casting", "peft_autocast_disable", "execution_tracker")
"""Hooks of diffusers that leave alone what a block computes, by a part of their names."""


class BlockConcepts:
    """ConceptAttention (Helbling et al., arXiv 2502.04320) in the double-stream blocks of a
    denoiser; the protocol is `recording.concepts.ConceptReader`.

    Each block runs as it is. Then it is run once more with the concepts' states in the text's
    place: their queries look at the picture's keys and at the concepts' own, and what comes out as
    the text is the concepts' states in the next block. What comes out as the picture is dropped.
    """

    def __init__(
        self, registry: Registry, module: nn.Module, stream: DoubleStream, concepts: Sequence[str]
    ) -> None:
        """
        Raises:
            UserError: for one concept alone, and for a denoiser that is compiled as a whole.
        """
        denoiser = registry.denoiser
        if len(concepts) < 2:
            raise UserError(
                "expected at least two concepts in joint attention, whose maps say which of them a "
                f"place is most like, but came {list(concepts)!r}; add others that may be in the "
                "picture, such as 'background'"
            )
        if module is not denoiser or getattr(denoiser, "_compiled_call_impl", None) is not None:
            raise UserError(compiled_as_a_whole(denoiser))
        self.registry, self.stream = registry, stream
        self.blocks = {
            name: block
            for name, block in denoiser.named_modules()
            if re.fullmatch(stream.blocks, name)
        }
        self._calls = [
            ModuleCalls(block, partial(self._block_called, name))
            for name, block in self.blocks.items()
        ]
        self._call: BlockCall | None = None
        self._acting: Acting | None = None

    def reads(self, site: AttentionSite) -> bool:
        return reads(site, self.blocks)

    def put(self) -> None:
        for each in self._calls:
            each.link(each.module)

    def take_off(self) -> None:
        for each in self._calls:
            each.unlink()
        self._call = self._acting = None

    def begin(self, call: DenoiserCall, concepts: Sequence[Concept]) -> BlockCall:
        """
        Raises:
            UserError: where blocks may give what they have kept from another call, or the keys of
                reference pictures are kept.
        """
        self._check_hooks()
        if call.given.get("kv_cache_mode") is not None:
            raise UserError(
                "expected a pipeline that does not keep the keys of reference pictures for "
                "concepts=…, but this one does; take another one, or leave concepts out"
            )
        self.put()  # also on blocks that have been compiled since
        self._call = BlockCall(self.registry, self.stream, self.blocks, call, concepts)
        return self._call

    def follow(self, acting: Acting) -> None:
        self._acting = acting

    def _block_called(
        self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """In the place of a block's own call."""
        output = method(*args, **kwargs)
        # Others' passes through the blocks, and calls that are not of this run, are none of ours.
        if self._acting is not None and self.registry.is_followed_by(self._acting):
            assert self._call is not None
            self._call.run(name, by_name(self.blocks[name], args, kwargs))
        return output

    def _check_hooks(self) -> None:
        for name, block in self.blocks.items():
            for module in block.modules():
                hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", None) or {}
                known = [each for each in hooks if not any(part in each for part in _HARMLESS)]
                if known:
                    raise UserError(
                        "expected blocks without step caches and other hooks for concepts=…, but "
                        f"{name} has {known[0]!r}; disable it (disable_cache()), or leave concepts "
                        "out"
                    )
