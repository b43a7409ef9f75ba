"""`Trace`: what a recorded run leaves. No model is needed to read, save or load it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2i_xattn.aggregation import Aggregate, SiteMaps, mean_of, mean_over_sites
from t2i_xattn.errors import UserError
from t2i_xattn.keep import OF_TEXT, TEXT, Groups
from t2i_xattn.maps import HeatMap
from t2i_xattn.prompt import Word, find_phrase
from t2i_xattn.sites import AttentionSite, Sites, choose_sites

AXES = ("image", "branch", "step", "head", "height", "width", "token")
"""The axes of every recorded map, in their order. An axis over which a mean was taken while
recording has length 1."""


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """The data of a trace.

    Attributes:
        maps: by stream and site name, fp32 with the axes `AXES`, at the site's own resolution:
            shares of attention, 0 to 1. Where every token of a stream is kept they sum to 1 at each
            location, special tokens included. The stream `text` is always there; `picture n` holds
            the n-th IP-Adapter's picture tokens, `walked` the text's maps carried along
            self-attention, `edited` the text's maps after the edits that acted.
        sites: the sites, in the order of the forward pass.
        groups: for each image, the columns that each place of the text's token axis stands for;
            None: every column by itself.
        branches: the branches, in the order of their axis.
        steps: first step and end of each place on the step axis.
        prompts: the prompt of each image; None where it was given as embeddings.
        words: the words of each image's prompt.
        latent_size: height and width of the latent.
        picture_size: height and width of the picture, in pixels.
        settings: what made the run, as JSON has it: `calls` (of the UNet), `timesteps` (one a
            call), `guidance_scale` (None: off), `pipeline`, `model`, `scheduler`, `versions`.
    """

    maps: dict[str, dict[str, NDArray[np.float32]]]
    sites: tuple[AttentionSite, ...]
    groups: tuple[Groups, ...] | None
    branches: tuple[str, ...]
    steps: tuple[tuple[int, int], ...]
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
                was recorded with `walk=…`; `"edited"` for those after the edits, where
                the run had any; or `"picture 1"` for the tokens of an IP-Adapter's
                pictures, which are asked for by columns.

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
                "walk=1 for walked, with edits for edited, and with an IP-Adapter for pictures"
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
        maps = [_of_steps(run, of_stream[name])[image] for name in names]
        return HeatMap(label, aggregate(SiteMaps(maps, places, run.latent_size, run.picture_size)))

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
        run = self.run
        chosen = choose_sites(run.sites, sites)
        branches, windows = run.branches, run.steps
        takes: dict[int, list[int]] = {}
        if branch is not None:
            if branch not in branches:
                raise UserError(
                    f"expected a branch of {', '.join(branches)}, but came {branch!r}; record with "
                    f"branches=[{branch!r}] to keep it"
                )
            takes[AXES.index("branch")] = [branches.index(branch)]
            branches = (branch,)
        if steps is not None:
            places = _numbers(steps, len(windows), "step", 'steps="each"')
            takes[AXES.index("step")] = places
            windows = tuple(windows[place] for place in places)
        prompts, words, groups = run.prompts, run.words, run.groups
        if images is not None:
            pictures = _numbers(images, len(prompts), "image", None)
            takes[AXES.index("image")] = pictures
            prompts = tuple(prompts[each] for each in pictures)
            words = tuple(words[each] for each in pictures)
            groups = None if groups is None else tuple(groups[each] for each in pictures)
        if heads is not None:
            axis = AXES.index("head")
            lengths = {site.name: run.maps[TEXT][site.name].shape[axis] for site in chosen}
            takes[axis] = _numbers(heads, max(lengths.values()), "head", 'heads="each"')
            chosen = [site for site in chosen if lengths[site.name] > max(takes[axis])]

        def taken(array: NDArray[np.float32]) -> NDArray[np.float32]:
            for axis, places in takes.items():
                array = array.take(places, axis=axis)
            return array

        maps = {
            stream: {site.name: taken(of_sites[site.name]) for site in chosen}
            for stream, of_sites in run.maps.items()
        }
        return Trace(
            replace(run, maps=maps, sites=tuple(chosen), branches=branches, steps=windows,
                    prompts=prompts, words=words, groups=groups)
        )  # fmt: skip

    def __sub__(self, other: Trace) -> Trace:
        """The difference of two traces of equal shape, such as two seeds or two prompts.

        Its maps lie between -1 and 1. Words, prompts and settings are those of the first; the
        second's settings stand under `minus`.
        """
        first, second = self.run, other.run
        _check_alike(first, second)
        maps = {
            stream: {name: array - second.maps[stream][name] for name, array in of_sites.items()}
            for stream, of_sites in first.maps.items()
        }
        settings = first.settings | {"minus": second.settings}
        return Trace(replace(first, maps=maps, settings=settings))

    @staticmethod
    def mean(traces: Sequence[Trace]) -> Trace:
        """The mean of traces of equal shape, such as several seeds of one prompt.

        Words, prompts and settings are those of the first; `mean_of` counts the traces.
        """
        runs = [trace.run for trace in traces]
        if not runs:
            raise UserError("expected at least one trace to take the mean of, but came none")
        for run in runs[1:]:
            _check_alike(runs[0], run)
        maps = {
            stream: {
                name: mean_of([run.maps[stream][name] for run in runs]) for name in of_sites
            }
            for stream, of_sites in runs[0].maps.items()
        }  # fmt: skip
        return Trace(
            replace(runs[0], maps=maps, settings=runs[0].settings | {"mean_of": len(runs)})
        )

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


def _pooled(run: RecordedRun, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(images, height, width, tokens)`: the first branch, the mean over steps and heads."""
    return _of_steps(run, array).mean(axis=1)


def _of_steps(run: RecordedRun, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(images, heads, height, width, tokens)`: the first branch, the mean over the steps."""
    of_branch = array[:, 0]
    if of_branch.shape[1] == 1:
        return of_branch[:, 0]
    lengths = np.array([end - first for first, end in run.steps], dtype=np.float64)
    return np.asarray(np.average(of_branch, axis=1, weights=lengths), dtype=np.float32)


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


def _numbers(chosen: int | Sequence[int], count: int, axis: str, how: str | None) -> list[int]:
    numbers = [chosen] if isinstance(chosen, int) else list(chosen)
    if not numbers or not all(0 <= number < count for number in numbers):
        hint = f"; record with {how} to keep more" if how else ""
        raise UserError(f"expected {axis}s from 0 to {count - 1}, but came {numbers}{hint}")
    return numbers


def _check_alike(first: RecordedRun, second: RecordedRun) -> None:
    def shapes(run: RecordedRun) -> dict[str, Any]:
        return {f"{s}/{name}": a.shape for s, m in run.maps.items() for name, a in m.items()}

    if shapes(first) != shapes(second) or first.groups != second.groups:
        raise UserError(
            "expected traces of the same sites, sizes, steps and columns, but they differ; record "
            "both runs in the same way"
        )
