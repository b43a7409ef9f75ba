"""`Trace`: what a recorded run leaves. No model is needed to read, save or load it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.errors import UserError, nearest
from t2i_xattn.maps import Aggregate, HeatMap, mean_over_sites
from t2i_xattn.prompt import Word, find_phrase
from t2i_xattn.sites import AttentionSite

Sites = Callable[[AttentionSite], bool] | Iterable[str]


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """The data of a trace.

    Attributes:
        maps: by site name, fp32 `(images, height, width, tokens)` at the site's own resolution:
            shares of attention, 0 to 1, mean over heads and UNet calls of the conditional half.
            They sum to 1 over all tokens, special tokens too, at each location.
        sites: the sites, in the order of the forward pass.
        prompts: the prompt of each image; None where it was given as embeddings.
        words: the words of each image's prompt.
        latent_size: height and width of the latent.
        picture_size: height and width of the picture, in pixels.
        settings: what made the run, as JSON has it: `calls` (of the UNet), `timesteps` (one a
            call), `guidance_scale` (None: off), `pipeline`, `model`, `scheduler`, `versions`.
    """

    maps: dict[str, NDArray[np.float32]]
    sites: tuple[AttentionSite, ...]
    prompts: tuple[str | None, ...]
    words: tuple[tuple[Word, ...], ...]
    latent_size: tuple[int, int]
    picture_size: tuple[int, int]
    settings: dict[str, Any]


class Trace:
    """A recorded run: maps of every token at every site, the words, and the settings.

    Comes from `record`, or from a file by `Trace.load`. Every reading property raises `UserError`
    while no run has been recorded.
    """

    def __init__(self, source: RecordedRun | Callable[[], RecordedRun]) -> None:
        """
        Args:
            source: the data, or a function that reads what has been recorded so far and is asked
                again at each reading until `finish`.
        """
        self._source = source

    def finish(self) -> None:
        """Takes the data over for good; what could not be read is told to whoever reads it."""
        if isinstance(self._source, RecordedRun):
            return
        try:
            self._source = self._source()
        except UserError as error:
            self._source = _raiser(str(error))

    @property
    def run(self) -> RecordedRun:
        """All the data at once."""
        return self._source if isinstance(self._source, RecordedRun) else self._source()

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """By site name, `(images, height, width, tokens)`, shares 0 to 1; see `RecordedRun`."""
        return self.run.maps

    @property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The recorded sites, in the order of the forward pass."""
        return self.run.sites

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """The prompt of each image; None where it was given as embeddings."""
        return self.run.prompts

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        return self.run.picture_size

    @property
    def settings(self) -> dict[str, Any]:
        """What made the run; see `RecordedRun`."""
        return self.run.settings

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the first image's prompt, with their token spans."""
        return self.words_of(0)

    def words_of(self, image: int) -> tuple[Word, ...]:
        """The words of one image's prompt, with their token spans."""
        run = self.run
        return run.words[_checked_image(run, image)]

    def heatmap(
        self,
        phrase: str | None = None,
        *,
        columns: Sequence[int] | None = None,
        image: int = 0,
        occurrence: int | None = None,
        sites: Sites | None = None,
        aggregate: Aggregate = mean_over_sites,
    ) -> HeatMap:
        """The heat map of a word or phrase of the prompt, or of columns of the text sequence.

        Args:
            phrase: one or more words that follow each other in the prompt; capitals do not matter.
            columns: instead of `phrase`, columns of the text sequence (0 is the start token), for
                prompts that were given as embeddings, or for special tokens.
            image: which picture of the batch, 0 the first.
            occurrence: which one where the phrase stands several times, 0 the first; by default
                all together.
            sites: which sites to pool: names, or a function of the site that says yes or no, such
                as `lambda site: site.level == 0`. By default all.
            aggregate: how the sites are pooled; see `t2i_xattn.maps`.

        Returns:
            The map at picture size. The shares of several columns are added.

        Raises:
            UserError: if there is no such word, column, image or site.
        """
        run = self.run
        image = _checked_image(run, image)
        if (phrase is None) == (columns is None):
            raise UserError("expected either a word or phrase, or columns=…; give just one of them")
        if phrase is not None:
            if run.prompts[image] is None:
                raise UserError(
                    f"expected a prompt with text to find {phrase!r} in, but it was given as "
                    "embeddings; ask by columns=…"
                )
            chosen = find_phrase(run.words[image], phrase, occurrence)
            label = phrase
        else:
            assert columns is not None
            chosen = tuple(dict.fromkeys(columns))
            label = f"column{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
        names = _chosen_sites(run, sites)
        tokens = run.maps[names[0]].shape[-1]
        if not chosen or not all(0 <= column < tokens for column in chosen):
            raise UserError(
                f"expected columns from 0 to {tokens - 1}, but came {list(chosen)}; the text "
                f"sequence of this run has {tokens} columns"
            )
        maps = [run.maps[name][image][:, :, list(chosen)] for name in names]
        return HeatMap(label, aggregate(maps, run.picture_size))

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the trace as one safetensors file, whole or not at all; see `trace_file`."""
        from t2i_xattn.trace_file import write_trace

        write_trace(self.run, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> Trace:
        """Reads a trace that `save` wrote.

        Raises:
            UserError: if the file is missing, damaged, not a trace, or of another version.
        """
        from t2i_xattn.trace_file import read_trace

        return Trace(read_trace(path))


def _raiser(message: str) -> Callable[[], RecordedRun]:
    def read() -> RecordedRun:
        raise UserError(message)

    return read


def _checked_image(run: RecordedRun, image: int) -> int:
    count = len(run.prompts)
    if not 0 <= image < count:
        raise UserError(
            f"expected an image from 0 to {count - 1}, but came {image}; this run made {count}"
        )
    return image


def _chosen_sites(run: RecordedRun, sites: Sites | None) -> list[str]:
    names = [site.name for site in run.sites]
    if sites is None:
        return names
    if callable(sites):
        chosen = [site.name for site in run.sites if sites(site)]
    else:
        chosen = [sites] if isinstance(sites, str) else list(sites)
        for name in chosen:
            if name not in names:
                raise UserError(
                    f"expected the name of a recorded site, but came {name!r}"
                    f"{nearest(name, names)}; trace.sites lists them"
                )
    if not chosen:
        raise UserError(
            f"expected at least one site to pool, but the choice leaves none of {len(names)}; "
            "trace.sites lists their places and levels"
        )
    return chosen
