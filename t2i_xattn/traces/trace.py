"""`Trace`: what a recorded run leaves. No model is needed to read, save or load it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.aggregation import Aggregate, FloatMap, mean_over_sites
from t2i_xattn.denoisers.sites import AttentionSite, Sites
from t2i_xattn.denoisers.steps import Window
from t2i_xattn.denoisers.streams import CONCEPTS, LOOKS, OF_TEXT, TEXT, WALKED
from t2i_xattn.errors import UserError, shown
from t2i_xattn.prompts.words import Word
from t2i_xattn.traces.agreement import agreed
from t2i_xattn.traces.asked import (
    checked_columns,
    checked_frame,
    checked_image,
    checked_phrase,
    checked_phrases,
    checked_stream,
    checked_stream_of_places,
)
from t2i_xattn.traces.between import between
from t2i_xattn.traces.chosen import columns_of, concept_column, maps_of
from t2i_xattn.traces.contributed import contribution_stream, spread
from t2i_xattn.traces.heat_map import HeatMap
from t2i_xattn.traces.modalities import modalities_of
from t2i_xattn.traces.parts import difference, mean, selected
from t2i_xattn.traces.recorded_run import RecordedRun, of_steps
from t2i_xattn.traces.shares import Shares, shares_of

if TYPE_CHECKING:
    from t2i_xattn.traces.segmentation import Regions


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
        the axes. Of a video, `(images, frames, height, width, tokens)`.
        """
        run = self.run
        return {name: of_steps(run, TEXT, name).mean(axis=1) for name in run.maps[TEXT]}

    @property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The recorded sites, in the order of the forward pass."""
        return self.run.sites

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """The prompt of each image in the first branch that was kept; None where it was given as
        embeddings."""
        return self.run.prompts[self.run.branches[0]]

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of what was painted, in pixels."""
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
        """The words of one image's text in the first branch, with their token spans.

        `select(branch="unconditional")` has those of the negative prompt.
        """
        run = self.run
        return run.words[run.branches[0]][checked_image(run, image)]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The text of each column of the first image's prompt, from the start to the end token."""
        run = self.run
        return run.tokens[run.branches[0]][0]

    @property
    def concepts(self) -> tuple[str, ...]:
        """What the run was recorded with as `concepts=…`."""
        return self.run.concepts

    def heatmap(
        self,
        phrase: str | None = None,
        *,
        columns: Sequence[int] | None = None,
        image: int = 0,
        frame: int | None = None,
        occurrence: int | None = None,
        encoder: str | None = None,
        sites: Sites | None = None,
        aggregate: Aggregate | None = None,
        stream: str | None = None,
    ) -> HeatMap:
        """The heat map of a word or phrase of the prompt, or of columns of the text sequence.

        By default it is the mean over the sites (`aggregation.mean_over_sites`); where the run was
        recorded with `walk=…`, it is that mean held against the one carried along self-attention
        (`traces.agreement`), which lies on what the word names more often. Where it was recorded
        with `contributions=True` (and `walk=1`), the word's share is spread by what the word
        contributes to each place (`traces.contributed`), which does so by far the most often.

        Args:
            phrase: one or more words that follow each other in the prompt, or the name of a
                concept; capitals do not matter.
            columns: instead of `phrase`, columns of the text sequence (0 is the start token), for
                prompts that were given as embeddings, or for parts of words, symbols and special
                tokens; `tokens` lists them.
            image: which picture of the batch, 0 the first.
            frame: which frame of a video; by default the mean of all.
            occurrence: which one where the phrase stands several times, 0 the first; by default
                all together.
            encoder: where the text has the columns of several encoders (a word then has columns of
                each), the one whose columns are meant, such as `"text_encoder_3"`; by default all.
            sites: which sites to pool: names, or a function of the site that says yes or no, such
                as `lambda site: site.level == 0`. By default all.
            aggregate: how the sites are pooled; see `t2i_xattn.aggregation`.
            stream: `"text"`; `"walked"` for the maps carried along self-attention, where the run
                was recorded with `walk=…`; `"contribution"` for what words contribute, where it was
                recorded with `contributions=True`, and with `walk=…` too `"carried contribution"`;
                `"edited"` for those after the edits, where the run had any; `"looks"` for where the
                word's tokens look, where the run was recorded with `text_looks=True`; `"concepts"`
                for words that need not be in the prompt, where the run was recorded with
                `concepts=…`; `"picture 1"` for the tokens of an IP-Adapter's pictures; or `"self"`
                for the self-attention of chosen places. The last two are asked for by columns,
                which are the pictures' tokens or the chosen places.

        Returns:
            The map at picture size, the mean over steps and heads of the first branch that was
            kept (`select` chooses others). The shares of several columns are added.

        Raises:
            UserError: if there is no such word, column, image, frame or site, or the branch did
                not run.
        """
        run = self.run
        image, frame = checked_image(run, image), checked_frame(run, frame)
        if (phrase is None) == (columns is None):
            raise UserError("expected either a word or phrase, or columns=…; give just one of them")
        stream = checked_stream_of_places(run, stream)
        if aggregate is not None and not callable(aggregate):
            raise UserError(
                f"expected aggregate= as a function of SiteMaps, but came {shown(aggregate)}; give "
                "one such as t2i_xattn.aggregation.daam"
            )
        if phrase is not None:
            phrase = checked_phrase(phrase)
        if phrase is not None and stream == CONCEPTS:
            chosen, label = concept_column(run, phrase), phrase
        elif phrase is not None:
            if stream not in (None, *OF_TEXT, LOOKS):
                raise UserError(f"expected columns=… for the tokens of {stream}, but came a word")
            chosen, label = columns_of(run, phrase, image, occurrence, encoder), phrase
        else:
            chosen = checked_columns(columns)
            label = f"column{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"

        def pooled(stream: str, aggregate: Aggregate) -> FloatMap:
            return aggregate(maps_of(run, stream, chosen, image, frame, sites))

        if stream is not None or aggregate is not None:
            array = pooled(stream or TEXT, aggregate or mean_over_sites)
            if stream == LOOKS:  # of each token, on average
                array = array / np.float32(len(chosen))
        else:
            array = pooled(TEXT, mean_over_sites)
            contributed = contribution_stream(run, chosen, image, sites is not None)
            if contributed is not None:
                array = spread(array, pooled(contributed, mean_over_sites))
            elif WALKED in run.maps and set(chosen) <= set(run.walked_columns or chosen):
                array = agreed(array, pooled(WALKED, mean_over_sites))
        return HeatMap(label, array, run.crop)

    def regions(
        self,
        words: Sequence[str],
        *,
        background: Sequence[str] = (),
        threshold: float | Literal["otsu"] | None = None,
        smallest: float = 0.0,
        undecided: float = 0.0,
        image: int = 0,
        frame: int | None = None,
        stream: str | None = None,
    ) -> Regions:
        """Which of some words each place of a picture belongs to: the one whose map is highest.

        Args:
            words: words or phrases of the prompt, or names of concepts, that compete.
            background: others that take part, and whose places are background.
            threshold: what a map needs somewhere, from its lowest place (0) to its highest (1), or
                `"otsu"`; by default what fits drawn scenes best: 0.3 of maps that are held against
                those carried along self-attention (a run with `walk=…`), 0.5 of others.
            smallest: connected parts of less than this share of the picture become background.
            undecided: places at most this far below a threshold are marked as undecided.
            image: which picture of the batch, 0 the first.
            frame: which frame of a video; by default the mean of all.
            stream: as for `heatmap`.

        Raises:
            UserError: as `heatmap` and `Regions.of` do.

        Example:
            >>> found = trace.regions(["red circle", "blue square"])
            >>> found.mask("red circle"), found.box("blue square"), found.quality("red circle")
            >>> found.save("regions.png")
        """
        from t2i_xattn.traces.segmentation import Regions

        maps, others = (
            [
                self.heatmap(each, image=image, frame=frame, stream=stream)
                for each in checked_phrases(name, phrases)
            ]
            for name, phrases in (("words", words), ("background", background))
        )
        if threshold is None:
            threshold = 0.3 if stream is None and WALKED in self.run.maps else 0.5
        return Regions.of(
            maps,
            background=others,
            threshold=threshold,
            smallest=smallest,
            undecided=undecided,
        )

    def between(
        self, phrase: str, other: str, *, image: int = 0, sites: Sites | None = None
    ) -> float:
        """What the tokens of a word give to those of another, 0 to 1, in joint attention.

        The mean over the word's tokens, the sum over the other's; over sites, steps and heads the
        mean. The run must be recorded with `text_looks=True`.

        Raises:
            UserError: if it was not, or a word is not there.
        """
        return between(self.run, phrase, other, checked_image(self.run, image), sites)

    def shares(self, *, image: int = 0, sites: Sites | None = None) -> Shares:
        """Where the attention of an average place goes: to words, to other tokens, to special ones,
        to padding, and, in joint attention, to the picture itself.

        Args:
            image: which picture of the batch, 0 the first.
            sites: which sites: names, or a function of the site that says yes or no. By default
                all.

        Raises:
            UserError: if only some columns were recorded, or the prompt came as embeddings.
        """
        return shares_of(self.run, checked_image(self.run, image), sites)

    def modalities(self, *, image: int = 0, sites: Sites | None = None) -> dict[str, float]:
        """How much of what the places take comes from the text, and from each picture that was
        given as a prompt: parts of 1, the mean over sites, steps and places.

        A part is the length of what is added (after the edits), over the sum of these lengths; see
        `recording.modalities`. The streams `"given by text"`, `"given by picture 1"` … hold the
        lengths; their maps are asked for by `columns=[0]`.

        Args:
            image: which picture of the batch, 0 the first.
            sites: which sites: names, or a function of the site that says yes or no. By default
                all.

        Raises:
            UserError: if the run was not recorded with `modalities=True`.

        Example:
            >>> with record(pipe, modalities=True) as trace:
            ...     pipe("in a forest at night", ip_adapter_image=picture)
            >>> trace.modalities()  # {"text": 0.6…, "picture 1": 0.3…}
        """
        return modalities_of(self.run, checked_image(self.run, image), sites)

    def select(
        self,
        *,
        sites: Sites | None = None,
        branch: str | None = None,
        steps: int | Window | range | None = None,
        heads: int | Sequence[int] | None = None,
        images: int | Sequence[int] | None = None,
    ) -> Trace:
        """A part of the trace, as a trace.

        Args:
            sites: names, or a function of the site that says yes or no.
            branch: one of `run.branches`.
            steps: a window of steps (first, end), or one step; the run must have been recorded
                with `steps="each"` or in windows (`run.steps`), of which those inside are taken.
            heads: numbers of heads; the run must have been recorded with `heads="each"`. Sites
                with fewer heads are left out.
            images: pictures of the batch.

        Raises:
            UserError: if there is no such part.

        Example:
            >>> with record(pipe, steps="each") as trace:
            ...     pipe("a red circle")
            >>> early = trace.select(steps=(0, 5)).heatmap("circle")
        """
        return Trace(selected(self.run, sites, branch, steps, heads, images))

    def __repr__(self) -> str:
        try:
            run = self.run
        except UserError as error:
            return f"<Trace: {error}>"
        prompts = ", ".join(map(repr, self.prompts))
        steps = f"steps {run.steps[0][0]} to {run.steps[-1][1]}"
        parts = "" if len(run.steps) == 1 else f" in {len(run.steps)} windows"
        return (
            f"<Trace of {prompts}: {len(run.sites)} sites, {steps}{parts}, "
            f"{', '.join(run.branches)}, streams {', '.join(run.maps)}>"
        )

    def _repr_html_(self) -> str:
        """What it is of, and its words, for notebooks."""
        from t2i_xattn.showing.notebook import trace_html

        return trace_html(self)

    def __sub__(self, other: Trace) -> Trace:
        """The difference of two traces of equal shape, such as two seeds or two prompts.

        Its maps lie between -1 and 1. Words, prompts and settings are those of the first; the
        second's settings stand under `minus`.
        """
        if not isinstance(other, Trace):
            raise UserError(
                f"expected a trace to take away, but came {shown(other)}; record or load one"
            )
        return Trace(difference(self.run, other.run))

    @staticmethod
    def mean(traces: Sequence[Trace]) -> Trace:
        """The mean of traces of equal shape, such as several seeds of one prompt.

        Words, prompts and settings are those of the first; `mean_of` counts the traces.
        """
        try:
            every = iter(traces)
        except TypeError:
            every = iter([traces])  # type: ignore[list-item]
        runs = []
        for trace in every:
            if not isinstance(trace, Trace):
                raise UserError(
                    f"expected a list of traces to take the mean of, but came {shown(trace)}; give "
                    "Trace.mean([one, other])"
                )
            runs.append(trace.run)
        return Trace(mean(runs))

    def to_numpy(self, stream: str = TEXT) -> dict[str, NDArray[np.float32]]:
        """By site name, the arrays with all the axes `AXES`.

        Raises:
            UserError: if the run has no such stream.
        """
        run = self.run
        return dict(run.maps[checked_stream(run, stream)])

    def to_xarray(self, stream: str = TEXT) -> dict[str, Any]:
        """By site name, an `xarray.DataArray` with named axes, branches and steps as coordinates.

        Raises:
            UserError: if xarray is not installed, or the run has no such stream.
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
            name: xarray.DataArray(array, dims=run.axes, coords=coords, name=name)
            for name, array in self.to_numpy(stream).items()
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the trace as one safetensors file, whole or not at all; see `traces.file`.

        Raises:
            UserError: if the path cannot be written to, or is something else than a file.
        """
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
