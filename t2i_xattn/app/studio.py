"""One pipeline, and what can be asked of it: one run at a time, whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_xattn.app.bounds import Bounds
from t2i_xattn.app.form import Source
from t2i_xattn.app.stopping import stoppable
from t2i_xattn.asking.edit_request import EditRequest
from t2i_xattn.asking.edited import WALK, Edited, paint_edited
from t2i_xattn.asking.explained import Asked, explained
from t2i_xattn.asking.painting import painted
from t2i_xattn.asking.recording import recorded, with_negative
from t2i_xattn.asking.request import Request, paint, tokenizer_of
from t2i_xattn.conditioning.within import words_read
from t2i_xattn.errors import UserError
from t2i_xattn.models.vocabulary import UnknownWord, vocabulary_of
from t2i_xattn.pictures import fitted, read_picture
from t2i_xattn.prompts.words import Word
from t2i_xattn.provenance.made import Made
from t2i_xattn.traces.word_reports import heatmaps

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.explaining.explanation import Explanation
    from t2i_xattn.traces.heat_map import HeatMap
    from t2i_xattn.traces.trace import Trace

Told = Callable[[int], None] | None
"""What is told of the calls of the denoiser, see `stopping.stoppable`."""


@dataclass(frozen=True)
class Painted:
    """A picture, and where its words acted.

    Attributes:
        source: how it is made anew.
        image: the picture.
        words: of the prompt, each with its place in it.
        maps: one a word, each word once.
        trace: of the run.
        made: how, as files say it.
        unknown: words of its prompts that the model was never taught; None where that is not known.
    """

    source: Source
    image: Image.Image
    words: tuple[Word, ...]
    maps: list[HeatMap]
    trace: Trace
    made: Made
    unknown: tuple[UnknownWord, ...] | None


@dataclass(frozen=True)
class Changed:
    """A picture before and after a change; see `Painted`.

    Attributes:
        asked: the change.
        edited: the pictures and their maps.
        words: of the prompt before the change, and of that after it.
        made: how, as files say it.
    """

    asked: EditRequest
    edited: Edited
    words: tuple[tuple[Word, ...], tuple[Word, ...]]
    made: Made
    unknown: tuple[UnknownWord, ...] | None


@dataclass(frozen=True)
class Explained:
    """An explanation of a prompt and its picture; see `Painted`."""

    request: Request
    found: Explanation
    made: Made
    unknown: tuple[UnknownWord, ...] | None


class Studio:
    """A pipeline that several people ask.

    Attributes:
        pipe: the pipeline.
        model: the name by which it was loaded; None: the model in the box.
        bounds: what a request may ask for.
    """

    def __init__(self, pipe: Any, model: str | None = None, bounds: Bounds | None = None) -> None:
        """
        Raises:
            UserError: if the model's own pictures are beyond the bounds.
        """
        self.pipe, self.model, self.bounds = pipe, model, bounds or Bounds()
        self.bounds.check_own_size(pipe)
        self._one_at_a_time = threading.Lock()
        self._stops: dict[str, threading.Event] = {}

    def paint(self, request: Request, session: str = "", told: Told = None) -> Painted:
        """The picture of a request, recorded.

        Args:
            request: for one picture.
            session: whose request it is, see `stop`.
            told: see `stopping.stoppable`.

        Raises:
            UserError: for a request that is beyond the bounds or that the model cannot take.
            StoppedError: if it was stopped.
        """
        self.bounds.check(request)
        with self._running(session, told):
            request.check_against(self.pipe)
            with recorded(self.pipe, WALK, with_negative(self.pipe, request)) as trace:
                (image,) = paint(self.pipe, request)
            made = self._made("inspect", request, image, walk=WALK)
            return self._painted(request, image, trace, made, None)

    def read(self, path: Path, request: Request, session: str = "", told: Told = None) -> Painted:
        """A picture of one's own, taken back to its noise and painted from it again, recorded.

        Args:
            path: of the file.
            request: its prompt says what the picture shows; the seed counts for nothing.
            session, told: as for `paint`.

        Raises:
            UserError: the file is no picture or too large, the model cannot take pictures back,
                or as for `paint`.
            StoppedError: if it was stopped.
        """
        from t2i_xattn.inversion import invert

        self.bounds.check(request)
        picture = read_picture(path, max_pixels=self.bounds.side**2 * 16)
        with self._running(session, told):
            request.check_against(self.pipe)
            picture = fitted(self.pipe, picture, request.size)
            inversion = invert(
                self.pipe,
                picture,
                request.prompt,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance,
                negative_prompt=request.negative or "",
                max_pixels=None,  # fitted, to a size within the bounds
            )
            with recorded(self.pipe, WALK) as trace:
                (image,) = painted(self.pipe, **inversion.arguments())
            made = self._made("app", request, image, picture=path.name)
            return self._painted(request, image, trace, made, picture)

    def edit(self, asked: EditRequest, session: str = "", told: Told = None) -> Changed:
        """A picture before and after a change, from the same noise.

        Raises:
            UserError, StoppedError: as for `paint`.
        """
        self.bounds.check_edit(asked)
        with self._running(session, told):
            asked.check_against(self.pipe)
            edited = paint_edited(self.pipe, asked)
            options = {
                "replace": [f"{word}={new}" for word, new in asked.replace.items()],
                "weight": [f"{word}={weight}" for word, weight in asked.weights.items()],
                "box": [f"{word}={','.join(map(str, box))}" for word, box in asked.boxes.items()],
            }
            command = "edit" if asked.image is None else "app"
            given = {name: each for name, each in options.items() if each}
            made = self._made(command, asked.request, edited.after, **given)
            tokenizer = tokenizer_of(self.pipe)
            texts = (asked.request.prompt, asked.target)
            before, after = (words_read(self.pipe, tokenizer, text) for text in texts)
            unknown = self._unknown(*texts, asked.request.negative)
            return Changed(asked, edited, (before, after), made, unknown)

    def explain(self, source: Source | None, session: str = "", told: Told = None) -> Explained:
        """What each word of a painted picture's prompt does.

        Raises:
            UserError: there is no picture yet, or it is one's own; or as for `paint`.
            StoppedError: if it was stopped.
        """
        if source is None or source.picture is not None:
            came = "there is none yet" if source is None else "this is one of your own"
            raise UserError(
                f"expected a picture that the model painted, but {came}; paint the prompt first"
            )
        request = source.request
        self.bounds.check(request)
        asked = Asked({}, ("text", "attention"), placebo=True, batch=8)
        with self._running(session, told):
            request.check_against(self.pipe)
            found = explained(self.pipe, request, asked, WALK)
            made = self._made("explain", request, found.pictures[0].image, walk=WALK)
            unknown = self._unknown(request.prompt, request.negative)
            return Explained(request, found, made, unknown)

    def stop(self, session: str) -> None:
        """Stops what a session has running, if anything."""
        if (event := self._stops.get(session)) is not None:
            event.set()

    @contextmanager
    def _running(self, session: str, told: Told) -> Iterator[None]:
        event = self._stops[session] = threading.Event()
        try:
            with self._one_at_a_time, stoppable(self.pipe, event, told):
                yield
        finally:
            if self._stops.get(session) is event:
                del self._stops[session]

    def _made(self, command: str, request: Request, image: Image.Image, **more: Any) -> Made:
        """How it was made, with the options of the command that makes the same."""
        size = None if request.size is None else "x".join(map(str, request.size))
        options = {
            "prompt": request.prompt,
            "model": self.model,
            "seed": request.seed,
            "steps": request.steps,
            "guidance": request.guidance,
            "size": size,
            "negative": request.negative,
            **more,
        }
        told = {name: value for name, value in options.items() if value is not None}
        return Made.by(self.pipe, command, told, image.size)

    def _unknown(self, *texts: str | None) -> tuple[UnknownWord, ...] | None:
        vocabulary = vocabulary_of(self.pipe)
        return None if vocabulary is None else vocabulary.unknown(*texts)

    def _painted(
        self,
        request: Request,
        image: Image.Image,
        trace: Trace,
        made: Made,
        picture: Image.Image | None,
    ) -> Painted:
        trace.settings["made"] = made.as_dict()
        maps = heatmaps(trace)
        words = tuple(each for each in trace.words if each.source == "prompt" and each.columns)
        source = Source(replace(request, words=()), tuple(each.word for each in maps), picture)
        unknown = self._unknown(request.prompt, request.negative)
        return Painted(source, image, words, maps, trace, made, unknown)
