"""How maps of concepts come about: what a denoiser's kind of sites needs for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from t2i_xattn.denoisers.call import DenoiserCall
from t2i_xattn.denoisers.families.other_texts import double_stream_of, sites_take_texts
from t2i_xattn.denoisers.registry import Acting, Registry
from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import normed_text, projected_keys
from t2i_xattn.kernel.call import taken
from t2i_xattn.kernel.concepts import text_shares
from t2i_xattn.prompts.concepts import Concept, as_given
from t2i_xattn.recording.concept_blocks import BlockConcepts

Later = Callable[[Tensor], None]
"""Takes maps `(images, heads, frames · places, concepts)` that come after the kernel call."""


class ConceptCall(Protocol):
    """The concepts in one call of the denoiser."""

    def shares(self, seen: Seen, rows: Rows, later: Later) -> Tensor | None:
        """The concepts' maps in a kernel call.

        Args:
            seen: the kernel call, of the text's stream.
            rows: of the pictures.
            later: where they go, if they come later.

        Returns:
            fp32 `(rows · frames, heads, places, concepts)`; None where they come later or not.
        """
        ...

    def end(self) -> None:
        """The denoiser's call ran to its end."""
        ...


class ConceptReader(Protocol):
    """The concepts in the calls of one denoiser."""

    def reads(self, site: AttentionSite) -> bool:
        """Whether there are maps of concepts at a site, given by its own name."""
        ...

    def put(self) -> None:
        """Covers what is needed."""
        ...

    def take_off(self) -> None:
        """Gives it back; may be called again."""
        ...

    def begin(self, call: DenoiserCall, concepts: Sequence[Concept]) -> ConceptCall:
        """A call of the denoiser begins."""
        ...

    def follow(self, acting: Acting) -> None:
        """Who acts in the call that has just begun."""
        ...


def concept_reader(registry: Registry, module: nn.Module, concepts: Sequence[str]) -> ConceptReader:
    """How concepts are read in a denoiser.

    Args:
        registry: of the denoiser.
        module: the denoiser as the pipeline has it, compiled or not.
        concepts: their names.

    Raises:
        UserError: if they cannot be.
    """
    denoiser = registry.denoiser
    stream = double_stream_of(denoiser)
    if stream is not None:
        return BlockConcepts(registry, module, stream, concepts)
    if sites_take_texts(denoiser):
        return TextConcepts(registry)
    raise UserError(
        "expected a denoiser with blocks that have the text in a stream of its own (FLUX, SD3, "
        "Qwen-Image), or with cross-attention that is given the text as it was encoded (Stable "
        f"Diffusion, SDXL), for concepts=…, but came {type(denoiser).__name__}; leave concepts out"
    )


class TextConcepts:
    """Concepts in cross-attention: texts that the places would look at in the prompt's place.

    OVAM (Marcos-Manchón et al., arXiv 2403.14291); see `kernel.concepts.text_shares`. At each site
    the concepts' texts are projected to keys, and the picture's queries are held against them.
    """

    def __init__(self, registry: Registry) -> None:
        self._names = {n for n, (site, _) in registry.modules.items() if site.kind == "cross"}

    def reads(self, site: AttentionSite) -> bool:
        return site.name in self._names

    def put(self) -> None:
        """Nothing is covered."""

    def take_off(self) -> None:
        """Nothing was covered."""

    def begin(self, call: DenoiserCall, concepts: Sequence[Concept]) -> ConceptCall:
        return _TextCall(as_given(call.text[0], concepts), concepts)

    def follow(self, acting: Acting) -> None:
        """It needs nobody."""


class _TextCall:
    def __init__(self, texts: Sequence[Tensor], concepts: Sequence[Concept]) -> None:
        self._texts, self._groups = texts, [each.columns for each in concepts]

    def shares(self, seen: Seen, rows: Rows, later: Later) -> Tensor | None:
        module: Any = seen.module
        query, scale = taken(seen.kernel.query, rows), seen.kernel.scale
        parts = []
        # One at a time, since each is as long as a whole prompt.
        for text, own in zip(self._texts, self._groups, strict=True):
            key = projected_keys(module, normed_text(module, text[None]))
            parts.append(text_shares(query, key, scale, own))
        return seen.by_frame(torch.cat(parts, dim=-1))

    def end(self) -> None:
        """Nothing is left to do."""
