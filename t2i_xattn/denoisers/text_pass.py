"""A text that goes through a denoiser's blocks beside the prompt's, in one call of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.other_texts import DoubleStream
from t2i_xattn.denoisers.registry import Registry
from t2i_xattn.denoisers.seen import Change, Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite


class TextPass:
    """See the module.

    A block is run once more, with this text's states in the place of the prompt's. What comes out
    as the text is its states in the next block; what comes out as the picture is dropped.

    Attributes:
        ran: whether a block has been run.
    """

    def __init__(
        self,
        registry: Registry,
        stream: DoubleStream,
        call: DenoiserCall,
        text: Tensor,
        columns: Sequence[int],
        mask: Tensor | None = None,
    ) -> None:
        """
        Args:
            registry: of the denoiser.
            stream: how its blocks are built.
            call: of the denoiser.
            text: the embeddings `(tokens, channels)`, where and as exact as the call's own.
            columns: for each of them the place of its token in its text.
            mask: which of them may be looked at `(tokens,)`, as the pipeline says it; None: all.
        """
        self.registry, self.stream, self.ran = registry, stream, False
        # To the kernel calls of a further pass, this is the text.
        self.call = replace(call, tokens=len(text), lengths=None)
        self._first_call, self._columns, self._mask = call, columns, mask
        self._text = text
        self._states: Tensor | None = None

    def run(
        self, name: str, block: nn.Module, given: Mapping[str, Any], take: Callable[[Seen], None]
    ) -> None:
        """Runs a block once more.

        Args:
            name: of the block.
            block: it.
            given: the arguments of its own call, by name.
            take: is given the kernel call at its site.
        """
        stream, denoiser = self.stream, self.registry.denoiser
        self.ran = True
        reading = _Reading(f"{name}.attn", take)
        with _same_dice(block, self._text.device), self.registry.apart(reading, self.call):
            if self._states is None:
                text = self._text.expand(self.call.rows, -1, -1)
                self._states = stream.embedded(denoiser, text)
            changed = {key: self._masked(given.get(key)) for key in stream.masks}
            if stream.rotary is not None and given.get("image_rotary_emb") is not None:
                own = given["image_rotary_emb"]
                rotary = stream.rotary(denoiser, self._first_call, own, self._columns)
                changed["image_rotary_emb"] = rotary
            joined = given.get("encoder_hidden_states") is None
            if joined:
                picture = given["hidden_states"][:, self._first_call.tokens :]
                changed["hidden_states"] = torch.cat([self._states, picture], dim=1)
            else:
                changed["encoder_hidden_states"] = self._states
            # Its forward, since its call may be compiled, or looked at by others.
            output = block.forward(**(dict(given) | changed))
            self._states = output[:, : self.call.tokens] if joined else output[0]

    def _masked(self, own: Tensor | None) -> Tensor | None:
        """A mask for this text, from the one for the prompt's."""
        if own is None or self._mask is None:
            return None
        mask = self._mask.to(own).expand(len(own), -1)
        return torch.cat([mask, own[:, self._first_call.tokens :]], dim=1)


class _Reading:
    """A further pass through one block; see `denoisers.registry.Acting`."""

    def __init__(self, site: str, take: Callable[[Seen], None]) -> None:
        self._site, self.take = site, take

    def wants(self, site: AttentionSite) -> bool:
        return site.name == self._site

    def changes(self, seen: Seen) -> Sequence[tuple[Rows, Change]]:
        return ()

    def missed(self, site: AttentionSite, module: nn.Module) -> None:
        """The block's own run has told it."""

    def end(self) -> None:
        """Nothing is left to do."""


@contextmanager
def _same_dice(block: nn.Module, device: torch.device) -> Iterator[None]:
    """Dropout inside does not move what others draw."""
    if not any(module.training for module in block.modules()):
        yield
        return
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield
