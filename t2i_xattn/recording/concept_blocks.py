"""Concepts in joint attention: a stream of further text that goes through the blocks beside the
prompt's, which the picture never looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.other_texts import DoubleStream
from t2i_xattn.denoisers.registry import Acting, Registry
from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.text_blocks import TextBlocks
from t2i_xattn.denoisers.text_pass import TextPass
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.concepts import output_shares
from t2i_xattn.kernel.modes import without_gradients
from t2i_xattn.kernel.shares import at_places
from t2i_xattn.prompts.concepts import Concept, as_given


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
        if len(concepts) < 2:
            raise UserError(
                "expected at least two concepts in joint attention, whose maps say which of them a "
                f"place is most like, but came {list(concepts)!r}; add others that may be in the "
                "picture, such as 'background'"
            )
        self.registry, self.stream = registry, stream
        self.blocks = TextBlocks(registry, module, stream, single=False, what="concepts=…")
        self._call: BlockConceptCall | None = None

    def reads(self, site: AttentionSite) -> bool:
        name = site.name.removesuffix(".attn")
        return name != site.name and name in self.blocks.modules

    def put(self) -> None:
        self.blocks.put()

    def take_off(self) -> None:
        self.blocks.take_off()
        self._call = None

    def begin(self, call: DenoiserCall, concepts: Sequence[Concept]) -> BlockConceptCall:
        """
        Raises:
            UserError: see `TextBlocks.check`.
        """
        self.blocks.check(call)
        self.put()  # also on blocks that have been compiled since
        self._call = BlockConceptCall(self, call, concepts)
        return self._call

    def follow(self, acting: Acting) -> None:
        assert self._call is not None
        self.blocks.follow(acting, self._call.run)


class BlockConceptCall:
    """The concepts in one call of the denoiser; see `recording.concepts.ConceptCall`."""

    def __init__(
        self, concepts: BlockConcepts, call: DenoiserCall, encoded: Sequence[Concept]
    ) -> None:
        self._concepts = concepts
        self._groups: list[range] = []
        for each in encoded:
            start = self._groups[-1].stop if self._groups else 0
            self._groups.append(range(start, start + len(each.columns)))
        texts = zip(as_given(call.text[0], encoded), encoded, strict=True)
        text = torch.cat([states[list(each.columns)] for states, each in texts])
        columns = [column for each in encoded for column in each.columns]
        self._pass = TextPass(concepts.registry, concepts.stream, call, text, columns)
        self._seen: dict[str, tuple[Tensor, Rows, Callable[[Tensor], None]]] = {}

    def shares(self, seen: Seen, rows: Rows, later: Callable[[Tensor], None]) -> Tensor | None:
        """Keeps what the site gave to the picture's places, until its block has run."""
        if self._concepts.reads(seen.site) and seen.reading.portion is not None:
            output = at_places(seen.result, rows, seen.reading.portion.queries)
            # A compiled block uses its memory again.
            self._seen[seen.site.name] = (output.to(torch.float32, copy=True), rows, later)
        return None

    def run(self, name: str, own: Callable[[], Any], given: Mapping[str, Any]) -> Any:
        """Runs a block, and once more with the concepts in the place of the text."""
        output = own()
        with torch.no_grad():
            block = self._concepts.blocks.modules[name]
            self._pass.run(name, block, given, self._take)
        return output

    def end(self) -> None:
        """
        Raises:
            UserError: if the blocks' calls were not seen.
        """
        if not self._pass.ran:
            raise self._concepts.blocks.unseen()

    def _take(self, seen: Seen) -> None:
        found = self._seen.pop(seen.site.name, None)
        portion = seen.reading.portion
        if found is None or portion is None or portion.text_queries is None:
            return
        picture, rows, later = found
        concepts = at_places(seen.kernel.output, rows, portion.text_queries)
        with without_gradients():
            later(output_shares(picture, concepts, self._groups))
