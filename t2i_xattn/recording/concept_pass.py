"""The concepts' pass through the double-stream blocks, in one call of the denoiser."""

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
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.concepts import output_shares
from t2i_xattn.kernel.shares import at_places
from t2i_xattn.prompts.concepts import Concept


class BlockCall:
    """The concepts in one call of the denoiser; see `recording.concepts.ConceptCall`."""

    def __init__(
        self,
        registry: Registry,
        stream: DoubleStream,
        blocks: Mapping[str, nn.Module],
        call: DenoiserCall,
        concepts: Sequence[Concept],
    ) -> None:
        """
        Args:
            registry: of the denoiser.
            stream: how its blocks are built.
            blocks: they, by name.
            call: of the denoiser.
            concepts: as they were encoded.
        """
        self.registry, self.stream, self.blocks = registry, stream, blocks
        self.columns = [column for each in concepts for column in each.columns]
        # To the kernel calls of a further pass, the concepts are the text.
        self.call = replace(call, tokens=len(self.columns), lengths=None)
        self._first_call, self._ran = call, False
        self._groups: list[range] = []
        for each in concepts:
            start = self._groups[-1].stop if self._groups else 0
            self._groups.append(range(start, start + len(each.columns)))
        texts = zip(as_given(call, concepts), concepts, strict=True)
        self._text = torch.cat([text[list(each.columns)] for text, each in texts])
        self._states: Tensor | None = None
        self._seen: dict[str, tuple[Tensor, Rows, Callable[[Tensor], None]]] = {}

    def shares(self, seen: Seen, rows: Rows, later: Callable[[Tensor], None]) -> Tensor | None:
        """Keeps what the site gave to the picture's places, until its block has run."""
        if reads(seen.site, self.blocks) and seen.reading.portion is not None:
            output = at_places(seen.result, rows, seen.reading.portion.queries)
            # A compiled block uses its memory again.
            self._seen[seen.site.name] = (output.to(torch.float32, copy=True), rows, later)
        return None

    def run(self, name: str, given: Mapping[str, Any]) -> None:
        """Runs a block once more, with the concepts in the place of the text."""
        block, stream, denoiser = self.blocks[name], self.stream, self.registry.denoiser
        self._ran = True
        reading = _Pass(f"{name}.attn", self._take)
        with (
            torch.no_grad(),
            _same_dice(block, self._text.device),
            self.registry.apart(reading, self.call),
        ):
            if self._states is None:
                text = self._text.expand(self.call.rows, -1, -1)
                self._states = stream.embedded(denoiser, text)
            changed = {"encoder_hidden_states": self._states} | dict.fromkeys(stream.masks)
            if stream.rotary is not None and given.get("image_rotary_emb") is not None:
                own = given["image_rotary_emb"]
                rotary = stream.rotary(denoiser, self._first_call, own, self.columns)
                changed["image_rotary_emb"] = rotary
            # Its forward, since its call may be compiled, or looked at by others.
            self._states, _ = block.forward(**(dict(given) | changed))

    def end(self) -> None:
        """
        Raises:
            UserError: if the blocks' calls were not seen.
        """
        if not self._ran:
            raise UserError(compiled_as_a_whole(self.registry.denoiser))

    def _take(self, seen: Seen) -> None:
        found = self._seen.pop(seen.site.name, None)
        portion = seen.reading.portion
        if found is None or portion is None or portion.text_queries is None:
            return
        picture, rows, later = found
        concepts = at_places(seen.kernel.output, rows, portion.text_queries)
        with torch.inference_mode(False), torch.no_grad():
            later(output_shares(picture, concepts, self._groups))


class _Pass:
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


def as_given(call: DenoiserCall, concepts: Sequence[Concept]) -> list[Tensor]:
    """The concepts' texts `(tokens, channels)`, where and as exact as the denoiser's own.

    Raises:
        UserError: if they are not of the kind that the denoiser is given.
    """
    own = call.text[0]
    for each in concepts:
        if each.embedding.shape[-1] != own.shape[-1]:
            raise UserError(
                f"expected concepts of {own.shape[-1]} channels, as the denoiser's text is, but "
                f"the pipeline encodes {each.name!r} in {each.embedding.shape[-1]}; leave "
                "concepts=… out"
            )
    return [each.embedding.to(own) for each in concepts]


@contextmanager
def _same_dice(block: nn.Module, device: torch.device) -> Iterator[None]:
    """Dropout inside does not move what others draw."""
    if not any(module.training for module in block.modules()):
        yield
        return
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


def reads(site: AttentionSite, blocks: Mapping[str, nn.Module]) -> bool:
    """Whether a site is that of one of the blocks."""
    return site.name.endswith(".attn") and site.name.removesuffix(".attn") in blocks


def compiled_as_a_whole(denoiser: nn.Module) -> str:
    """What to say of a denoiser whose blocks' calls are compiled into a whole."""
    return (
        f"expected a {type(denoiser).__name__} that is not compiled as a whole for concepts=…, "
        "whose blocks are run once more, but the calls of its blocks cannot be seen; leave it "
        "uncompiled, or call compile_repeated_blocks() on it instead"
    )
