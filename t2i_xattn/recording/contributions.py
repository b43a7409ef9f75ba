"""What each word contributes to what the sites give to each place: read in the calls of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from t2i_xattn.denoisers.families.other_texts import sites_take_texts
from t2i_xattn.denoisers.of_pipeline import denoisers_of
from t2i_xattn.denoisers.registry import Registry
from t2i_xattn.denoisers.rows import Layout
from t2i_xattn.denoisers.seen import Rows, Seen
from t2i_xattn.denoisers.sites import AttentionSite
from t2i_xattn.denoisers.streams import Groups
from t2i_xattn.errors import UserError
from t2i_xattn.kernel.attention import mixed_values
from t2i_xattn.kernel.contribution import contributions
from t2i_xattn.prompts.encoded import Text
from t2i_xattn.prompts.listening import Ears, can_listen, text_encoders
from t2i_xattn.prompts.texts import same
from t2i_xattn.prompts.without_words import encoded_without
from t2i_xattn.prompts.words import Word

Size = tuple[int, int]
"""Height and width of a site's places."""


def can_contribute(pipe: Any) -> bool:
    """Whether contributions can be read: its UNet's sites are given the text as the pipeline
    encodes it."""
    denoisers = [Registry.of(each.module).denoiser for each in denoisers_of(pipe)]
    return can_listen(pipe) and bool(text_encoders(pipe)) and all(map(sites_take_texts, denoisers))


def check_can_contribute(pipe: Any) -> None:
    """Raises `UserError` if contributions cannot be read."""
    if not can_contribute(pipe):
        raise UserError(
            "expected a pipeline with text encoders whose UNet is given the text as they encode it "
            "(Stable Diffusion, SDXL) for contributions=True, but came "
            f"{type(pipe).__name__}; leave contributions out"
        )


@dataclass(frozen=True, eq=False)
class WithoutWord:
    """A prompt without a word, or without several.

    Attributes:
        embedding: as it was encoded, `(tokens, channels)`.
        columns: of what is missing; none of a picture, which stays.
    """

    embedding: Tensor
    columns: tuple[int, ...]


class Contributions:
    """The prompts of a run without each of their words, encoded once."""

    def __init__(self, ears: Ears) -> None:
        self._ears = ears
        self._encoded: list[tuple[Text, Groups, list[WithoutWord]]] = []
        self._settings: Any = None

    def prepare(self, text: Text | None, groups: Groups | None) -> list[WithoutWord]:
        """A text without each of its words, or without those of each group of columns.

        Raises:
            UserError: if it cannot be encoded without them.
        """
        if text is None or text.prompt is None:
            raise UserError(
                "expected a prompt as text for contributions=True, which encodes it without each "
                "of its words, but it was given as embeddings; give prompt=…, or leave "
                "contributions out"
            )
        # A picture among the text stays there: it is no word of the prompt.
        pictured = {c for each in text.words if each.source == "picture" for c in each.columns}
        words = [each for each in text.words if each.columns and each.source != "picture"]
        parts: list[tuple[Word, ...]] = [(word,) for word in words]
        if groups is not None:
            parts = [() if pictured.issuperset(e) else _inside(words, e) for e in groups]
        columns = tuple(tuple(c for word in each for c in word.columns) for each in parts)
        if self._ears.settings != self._settings:
            self._encoded.clear()
            self._settings = dict(self._ears.settings)
        for known, of_columns, each in self._encoded:
            if of_columns == columns and _same_text(known, text):
                return each
        taken = iter(encoded_without(self._ears, text, [part for part in parts if part]))
        found = [WithoutWord(next(taken) if each else text.embedding, each) for each in columns]
        self._encoded.append((text, columns, found))
        return found


def _same_text(one: Text, other: Text) -> bool:
    """Whether two texts are one. By the prompt as typed alone they are not: a schedule says
    something else in each phase, and another picture may stand among the text."""
    return one is other or (
        one.prompt == other.prompt
        and one.embedding.shape == other.embedding.shape
        and same(one.embedding, other.embedding)
    )


def _inside(words: Sequence[Word], columns: Sequence[int]) -> tuple[Word, ...]:
    """The words that make up some columns."""
    found = tuple(word for word in words if set(word.columns) <= set(columns))
    if sorted(column for word in found for column in word.columns) != sorted(columns):
        raise UserError(
            "expected whole words of the prompt beside contributions=True, which takes them out, "
            f"but came the columns {list(columns)}; name words as trace.words has them"
        )
    return found


class ContributionCall:
    """The contributions of words in one call of the denoiser."""

    def __init__(
        self, layout: Layout, of_images: Sequence[Sequence[WithoutWord]], axis: Sequence[int] | None
    ) -> None:
        """
        Args:
            layout: whose the rows are.
            of_images: for each picture, its text without each of its words.
            axis: the columns of the token axis; None: one place for each of the texts.
        """
        self._frames, self._of_images, self._axis = layout.frames, of_images, axis
        self._sites: dict[str, tuple[Tensor, Size]] = {}

    def maps(self, seen: Seen, rows: Rows) -> Tensor:
        """In a kernel call, fp32 `(rows, 1, places, kept)`. A word's contribution is parted evenly
        among its columns, so that their sum is the word's.

        Raises:
            UserError: if some of the text is masked, as the other texts would not be.
        """
        if seen.kernel.mask is not None:
            raise UserError(
                f"expected attention without a mask at {seen.site.name} for contributions=True, "
                "but the text has one; leave contributions or the mask out"
            )
        assert seen.size is not None
        assert seen.frames == 1, "UNets have their frames as rows"
        taken = mixed_values(seen.probs(rows), seen.values(rows))
        query, _ = seen.own_queries_and_keys(rows)
        kept = len(self._of_images[0]) if self._axis is None else len(self._axis)
        maps = query.new_zeros((len(rows), 1, query.shape[2], kept), dtype=torch.float32)
        for image, texts in enumerate(self._of_images):
            missing = [(number, text) for number, text in enumerate(texts) if text.columns]
            own, scale = slice(image * self._frames, (image + 1) * self._frames), seen.kernel.scale
            of_texts = [
                contributions(seen.module, query[own], taken[own], scale, without.to(query))
                for without in _of_one_length([text.embedding for _, text in missing])
            ]
            found = torch.cat(of_texts, dim=-1).unbind(dim=-1) if missing else ()
            for (number, text), part in zip(missing, found, strict=True):
                if self._axis is None:
                    maps[own, 0, :, number] = part
                else:
                    places = [self._axis.index(column) for column in text.columns]
                    maps[own, 0, :, places] = (part / len(places))[..., None]
        self._sites[seen.site.name] = maps[:, 0].transpose(1, 2), seen.size
        return maps

    def together(self, size: Size) -> Tensor:
        """The mean over the sites of this call, brought to one size: `(rows, 1, places, kept)`."""
        enlarged = [
            interpolate(maps.unflatten(-1, own), size, mode="bilinear", align_corners=False)
            for maps, own in self._sites.values()
        ]
        mean = torch.stack(enlarged).mean(dim=0)
        return mean.flatten(2).transpose(1, 2)[:, None]


def _of_one_length(embeddings: Sequence[Tensor]) -> list[Tensor]:
    """Embeddings `(tokens, channels)` together; each by itself where they are not of one length."""
    if len({each.shape for each in embeddings}) == 1:
        return [torch.stack(list(embeddings))]
    return [each[None] for each in embeddings]


def finest(
    sites: Sequence[AttentionSite], carries: Mapping[str, tuple[Tensor, Tensor, float, Size]]
) -> list[str]:
    """The sites whose self-attention the contributions are carried along, by name: of those with
    the most places, the ones behind the middle, which know best what the picture is to be; all of
    them where there is none."""
    places = {site.name: math.prod(carries[site.name][-1]) for site in sites}
    fine = [site for site in sites if places[site.name] == max(places.values())]
    return [site.name for site in fine if site.place == "up"] or [site.name for site in fine]
