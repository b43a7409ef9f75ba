"""Texts of edits in joint attention: each goes through the blocks beside the prompt's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.other_texts import double_stream_of
from t2i_xattn.denoisers.registry import Acting, Registry
from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.text_blocks import TextBlocks
from t2i_xattn.denoisers.text_pass import TextPass
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.encoded import Text


class BlockTexts:
    """The texts of edits in the calls of one denoiser.

    In joint attention a text has states that change from block to block with what it sees of the
    picture. So each block is run once more for each text, with the picture as it is and that text
    in the prompt's place; then it runs as it is, and the edit mixes what the picture's places take
    in these runs.
    """

    def __init__(self, registry: Registry, module: nn.Module, what: str) -> None:
        """
        Args:
            registry: of the denoiser.
            module: the denoiser as the pipeline has it, compiled or not.
            what: the edit, as messages call it.

        Raises:
            UserError: if it is compiled as a whole, or not known how it takes another text.
        """
        stream = double_stream_of(registry.denoiser)
        if stream is None:
            raise UserError(
                f"expected cross-attention for {what}, or joint attention with the text in a "
                "stream of its own (FLUX, FLUX.2, Chroma, SD3, Qwen-Image), but came "
                f"{type(registry.denoiser).__name__}; put the texts into the prompt and keep each "
                "to its region with Restrict"
            )
        self.registry, self.stream = registry, stream
        self.blocks = TextBlocks(registry, module, stream, single=True, what=what)

    def begin(
        self, call: DenoiserCall, texts: Mapping[str, Text], sites: Mapping[str, Collection[str]]
    ) -> BlockTextsCall | None:
        """A call of the denoiser begins.

        Args:
            call: it.
            texts: by what they say, as they were encoded.
            sites: the names of those where each is looked at in this call.

        Returns:
            What gives the texts; None where none is looked at.

        Raises:
            UserError: see `TextBlocks.check`; and if the pipeline encodes texts of another width
                than it gives to its denoiser.
        """
        if not sites:
            return None
        self.blocks.check(call)
        self.blocks.put()  # also on blocks that have been compiled since
        return BlockTextsCall(self, call, {text: texts[text] for text in sites}, sites)

    def follow(self, acting: Acting, texts: BlockTextsCall | None) -> None:
        """Who acts in the call that has just begun."""
        self.blocks.follow(acting, None if texts is None else texts.run)


class BlockTextsCall:
    """The texts in one call of the denoiser."""

    def __init__(
        self,
        texts: BlockTexts,
        call: DenoiserCall,
        encoded: Mapping[str, Text],
        sites: Mapping[str, Collection[str]],
    ) -> None:
        self._blocks = texts.blocks
        order = list(texts.blocks.modules)
        self._place = {name: place for place, name in enumerate(order)}
        # Behind the last block where it is looked at, a text need not go on.
        self._last = {
            text: max(self._place.get(name.removesuffix(".attn"), -1) for name in names)
            for text, names in sites.items()
        }
        own = call.text[0]
        self._passes: dict[str, TextPass] = {}
        for name, text in encoded.items():
            embedding = text.embedding
            if embedding.shape[-1] != own.shape[-1]:
                raise UserError(
                    f"expected texts of {own.shape[-1]} channels, as the denoiser's own is, but "
                    f"the pipeline encodes {name[:40]!r} in {embedding.shape[-1]}; leave "
                    f"{texts.blocks.what} out"
                )
            columns = range(len(embedding))
            self._passes[name] = TextPass(
                texts.registry, texts.stream, call, embedding.to(own), columns, text.mask
            )
        self._seen: dict[tuple[str, str], Seen] = {}

    def run(self, name: str, own: Callable[[], Any], given: Mapping[str, Any]) -> Any:
        """Runs a block once for each text, and then as it is."""
        block = self._blocks.modules[name]
        for text, each in self._passes.items():
            if self._place[name] <= self._last[text]:
                each.run(name, block, given, partial(self._take, text))
        try:
            return own()
        finally:
            self._seen.clear()

    def taken(self, seen: Seen, rows: Rows, text: str) -> Tensor:
        """What the picture's places take with a text in the prompt's place, fp32 `(images, heads,
        places, d)`.

        Raises:
            UserError: if the blocks' calls were not seen.
        """
        other = self._seen.get((text, seen.site.name))
        if other is None:
            raise self._blocks.unseen()
        return other.by_frame(other.taken_by_places(rows))

    def _take(self, text: str, seen: Seen) -> None:
        if seen.reading.portion is not None:
            self._seen[text, seen.site.name] = seen
