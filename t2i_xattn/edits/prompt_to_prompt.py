"""Prompt-to-prompt: pictures that keep the composition of another one.

Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", arXiv 2208.01626.
Both pictures are made in one batch: the source prompt, whose maps M_t are taken, and the target
prompts, whose own maps are M*_t. Their noise is to be the same as well:

>>> prompts = ["a photo of a cat", "a photo of a tiger"]
>>> noise = [torch.Generator().manual_seed(0) for _ in prompts]
>>> with tx.edit(pipe, edits.Replace(steps=(0, 0.8)), edits.SelfReplace(steps=(0, 0.4))):
...     cat, tiger = pipe(prompts, generator=noise).images
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from t2i_xattn.denoisers.sites import Kind
from t2i_xattn.edits.alignment import PromptTokens, aligned_by_place, aligned_by_words
from t2i_xattn.edits.edit import Edit, EditContext
from t2i_xattn.errors import UserError


@dataclass(frozen=True, eq=False, kw_only=True)
class _FromSource(Edit):
    """An edit that takes the maps of one prompt of the batch to others.

    Attributes:
        source: number of the prompt whose maps are taken, 0 the first. The pictures of the others
            are changed, unless `images` says less; each has the maps of the source's picture of the
            same number.
    """

    per_head: ClassVar[bool] = True

    source: int = 0

    def images_of(self, count: int, copies: int = 1) -> tuple[int, ...]:
        prompts = count // copies
        images = tuple(
            each for each in super().images_of(count, copies) if each // copies != self.source
        )
        if not 0 <= self.source < prompts or not images:
            raise UserError(
                f"expected a source and other prompts in one batch for {self.name}, but came "
                f"{prompts} and source={self.source}; run pipe([source prompt, target prompt])"
            )
        return images


class _Aligning(_FromSource):
    """An edit that takes maps from the words of the source to those of the target."""

    def _aligned(self, source: PromptTokens, target: PromptTokens) -> Tensor:
        """`(source, target)`: what of each source column goes to each target column."""
        raise NotImplementedError

    def prepare(self, context: EditContext) -> Any:
        matrices = torch.zeros(len(context.words), 1, context.tokens, context.tokens)
        sources = context.of_prompt(self.source)
        for image in context.images:
            source, target = (self._prompt(context, each) for each in (sources[image], image))
            matrices[image, 0] = self._aligned(source, target)
        matrices = matrices.to(context.device)
        # Target columns that nothing goes to keep their own maps.
        return matrices, matrices.sum(dim=-2, keepdim=True) > 0, sources

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        matrices, known, sources = prepared
        return torch.where(known, torch.matmul(probs[sources], matrices), probs)

    def _prompt(self, context: EditContext, image: int) -> PromptTokens:
        ids = context.token_ids[image]
        if ids is None:
            raise UserError(
                f"expected prompts as text for {self.name}, which has to align their words, but "
                "came embeddings; hand the prompts to the pipeline"
            )
        padding = context.padding[image] if context.padding else None
        return PromptTokens(context.words[image], ids, context.tokens, padding)


@dataclass(frozen=True, eq=False)
class Replace(_Aligning):
    """Word swap: the target's maps are the source's, the new word's those of the old one.

    Section 3, "Word Swap": `Edit(M_t, M*_t, t) := M_t if t < τ, else M*_t`, with τ given by
    `steps`. A word of as many tokens gives them its maps one by one; otherwise its maps are spread
    evenly over the new word's tokens.

    Attributes:
        swaps: which word or phrase of the source stands for which of the target. They are one in
            the alignment; the other words are aligned where they are the same, and words without a
            partner keep their own maps. By default the n-th word stands for the n-th, which takes
            prompts of as many words.

    Raises:
        UserError: before the first step, for prompts of different length without swaps, for swaps
            that are not there, for a batch of one.
    """

    swaps: Mapping[str, str] | None = None

    def _aligned(self, source: PromptTokens, target: PromptTokens) -> Tensor:
        if self.swaps is None:
            return aligned_by_place(source, target)
        return aligned_by_words(source, target, self.swaps)


@dataclass(frozen=True, eq=False)
class Refine(_Aligning):
    """Words added: what both prompts have takes the source's maps, new words keep their own.

    Section 3, "Adding a New Phrase": `(Edit(M_t, M*_t, t))_{i,j} := (M*_t)_{i,j} if A(j) = None,
    else (M_t)_{i,A(j)}`, where the alignment A gives for a token of the target the one of the
    source, if there is one.

    Raises:
        UserError: before the first step, for prompts given as embeddings, for a batch of one.
    """

    def _aligned(self, source: PromptTokens, target: PromptTokens) -> Tensor:
        return aligned_by_words(source, target)


@dataclass(frozen=True, eq=False)
class SelfReplace(_FromSource):
    """The source's self-attention in the targets, which keeps the layout of the picture.

    As in prompt-to-prompt's code (`self_replace_steps`) and as in Plug-and-Play (Tumanyan et al.,
    arXiv 2211.12572) for attention.

    Attributes:
        up_to: acts at sites of at most `up_to`² places: 16 by default, as there (32 in its later
            version).

    Raises:
        UserError: before the first step, for a batch of one.
    """

    up_to: int = 16

    @property
    def kind(self) -> Kind:
        return "self"

    def acts_at(self, context: EditContext) -> bool:
        return context.height * context.width <= self.up_to**2

    def apply(self, probs: Tensor, prepared: Any, context: EditContext) -> Tensor:
        return probs[context.of_prompt(self.source)]
