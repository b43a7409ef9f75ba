"""`Trace`: what a recorded run leaves. No model is needed to read, save or load it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.aggregation import Aggregate, SiteMaps, mean_over_sites
from t2i_xattn.denoisers.sites import AttentionSite, Sites, choose_sites
from t2i_xattn.errors import UserError
from t2i_xattn.prompts.words import Word, find_phrase
from t2i_xattn.recording.keep import OF_TEXT, SELF, TEXT, Groups
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.parts import difference, mean, selected
from t2i_xattn.traces.recorded_run import AXES, RecordedRun, of_steps


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
        """By site name, `(images, height, width, tokens)`: the text's maps, shares 0 to 1.

        Of the first branch that was kept, the mean over the steps and the heads; `run.maps` has all
        the axes.
        """
        run = self.run
        return {name: _pooled(run, array) for name, array in run.maps[TEXT].items()}

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
        stream: str = TEXT,
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
            aggregate: how the sites are pooled; see `t2i_xattn.aggregation`.
            stream: `"text"`; `"walked"` for the maps carried along self-attention, where the run
                was recorded with `walk=…`; `"edited"` for those after the edits, where the run had
                any; `"picture 1"` for the tokens of an IP-Adapter's pictures; or `"self"` for the
                self-attention of chosen places. The last two are asked for by columns, which are
                the pictures' tokens or the chosen places.

        Returns:
            The map at picture size, the mean over steps and heads of the first branch that was
            kept (`select` chooses others). The shares of several columns are added.

        Raises:
            UserError: if there is no such word, column, image or site.
        """
        run = self.run
        image = _checked_image(run, image)
        if (phrase is None) == (columns is None):
            raise UserError("expected either a word or phrase, or columns=…; give just one of them")
        if stream not in run.maps:
            raise UserError(
                f"expected a stream of {', '.join(run.maps)}, but came {stream!r}; record with "
                "walk=1 for walked, with edits for edited, self_attention=… for self, and an "
                "IP-Adapter for pictures"
            )
        if phrase is not None:
            if stream not in OF_TEXT:
                raise UserError(f"expected columns=… for the tokens of {stream}, but came a word")
            if run.prompts[image] is None and not run.words[image]:
                raise UserError(
                    f"expected a prompt with text to find {phrase!r} in, but it was given as "
                    "embeddings; ask by columns=…, or say record(pipe, spans={word: columns})"
                )
            chosen = find_phrase(run.words[image], phrase, occurrence)
            label = phrase
        else:
            assert columns is not None
            chosen = tuple(dict.fromkeys(columns))
            label = f"column{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
        names = [site.name for site in choose_sites(run.sites, sites)]
        of_stream = run.maps[stream]
        of_text = stream in OF_TEXT
        groups = run.groups[image] if run.groups is not None and of_text else None
        places = _places(chosen, groups, of_stream[names[0]].shape[-1])
        maps = [of_steps(run, of_stream[name])[image] for name in names]
        if stream == SELF and len({array.shape[1:3] for array in maps}) > 1:
            raise UserError(
                "expected sites of one resolution, since the shares of a place sum to 1 over each "
                "site's map; choose them with sites=lambda site: site.level == …"
            )
        weights = None
        if run.site_weights is not None:
            weights = [
                float(of_steps(run, run.site_weights[name][..., None])[image, 0]) for name in names
            ]
        given = SiteMaps(maps, places, run.latent_size, run.picture_size, weights)
        return HeatMap(label, aggregate(given))

    def select(
        self,
        *,
        sites: Sites | None = None,
        branch: str | None = None,
        steps: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
        images: int | Sequence[int] | None = None,
    ) -> Trace:
        """A part of the trace, as a trace.

        Args:
            sites: names, or a function of the site that says yes or no.
            branch: one of `run.branches`.
            steps: places on the step axis (`run.steps` says which steps they are); the run must
                have been recorded with `steps="each"` or windows.
            heads: numbers of heads; the run must have been recorded with `heads="each"`. Sites
                with fewer heads are left out.
            images: pictures of the batch.

        Raises:
            UserError: if there is no such part.

        Example:
            >>> with record(pipe, steps="each") as trace:
            ...     pipe("a red circle")
            >>> early = trace.select(steps=range(5)).heatmap("circle")
        """
        return Trace(selected(self.run, sites, branch, steps, heads, images))

    def __sub__(self, other: Trace) -> Trace:
        """The difference of two traces of equal shape, such as two seeds or two prompts.

        Its maps lie between -1 and 1. Words, prompts and settings are those of the first; the
        second's settings stand under `minus`.
        """
        return Trace(difference(self.run, other.run))

    @staticmethod
    def mean(traces: Sequence[Trace]) -> Trace:
        """The mean of traces of equal shape, such as several seeds of one prompt.

        Words, prompts and settings are those of the first; `mean_of` counts the traces.
        """
        return Trace(mean([trace.run for trace in traces]))

    def to_numpy(self, stream: str = TEXT) -> dict[str, NDArray[np.float32]]:
        """By site name, the arrays with all the axes `AXES`."""
        return dict(self.run.maps[stream])

    def to_xarray(self, stream: str = TEXT) -> dict[str, Any]:
        """By site name, an `xarray.DataArray` with named axes, branches and steps as coordinates.

        Raises:
            UserError: if xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise UserError(
                "expected xarray to be installed, but it is not; pip install xarray"
            ) from error
        run = self.run
        coords = {"branch": list(run.branches), "step": [first for first, _ in run.steps]}
        return {
            name: xarray.DataArray(array, dims=AXES, coords=coords, name=name)
            for name, array in run.maps[stream].items()
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the trace as one safetensors file, whole or not at all; see `trace_file`."""
        from t2i_xattn.traces.file import write_trace

        write_trace(self.run, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> Trace:
        """Reads a trace that `save` wrote.

        Raises:
            UserError: if the file is missing, damaged, not a trace, or of another version.
        """
        from t2i_xattn.traces.file import read_trace

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


def _pooled(run: RecordedRun, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(images, height, width, tokens)`: the first branch, the mean over steps and heads."""
    return of_steps(run, array).mean(axis=1)


def _places(columns: tuple[int, ...], groups: Groups | None, tokens: int) -> list[int]:
    """Where columns of the text sequence stand on the token axis."""
    if groups is None:
        if not columns or not all(0 <= column < tokens for column in columns):
            raise UserError(
                f"expected columns from 0 to {tokens - 1}, but came {list(columns)}; the text "
                f"sequence of this run has {tokens} columns"
            )
        return list(columns)
    for place, group in enumerate(groups):
        if set(group) == set(columns):
            return [place]
    places = [place for place, group in enumerate(groups) if set(group) <= set(columns)]
    found = [column for place in places for column in groups[place]]
    if sorted(found) != sorted(columns) or not columns:
        raise UserError(
            f"expected columns that were kept, {[list(group) for group in groups]}, but came "
            f"{list(columns)}; record with these words=… or columns=…, or with neither"
        )
    return places
