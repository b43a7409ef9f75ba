"""What the page's buttons do: from what the form says to what the page shows."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from t2i_xattn.app.bounds import in_the_form
from t2i_xattn.app.downloads import command_of, write_changed, write_explained, write_painted
from t2i_xattn.app.explanation import explanation_table
from t2i_xattn.app.form import Source, edit_of, request_of
from t2i_xattn.app.lit import lit_picture
from t2i_xattn.app.stopping import StoppedError
from t2i_xattn.app.studio import Painted, Studio
from t2i_xattn.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    from t2i_xattn.provenance.made import Made

PROGRESS = gr.Progress()
"""Gradio knows by this default where its progress bar is wanted."""


def told(outputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mistakes, a stop and too little memory as one sentence over the page, which stays as it was.

    Gradio shows messages as HTML, and a sentence quotes what was typed: it is escaped.

    Args:
        outputs: of the handler.
    """

    def decorated(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return handler(*args, **kwargs)
            except UserError as error:
                sentence = in_the_form(error)
            except StoppedError:
                sentence = "the run was stopped; all is as it was"
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                sentence = "expected enough memory for this run, but there is not; take less"
            gr.Warning(escape(sentence), duration=None)
            return gr.skip() if outputs == 1 else (gr.skip(),) * outputs

        return call

    return decorated


class Handlers:
    """A method a button. `form` are the values of the form in the order of `form.request_of`.

    Attributes:
        studio: whom they ask.
        folder: for files that are to be downloaded: a folder a session within it, whose files the
            next run replaces.
    """

    def __init__(self, studio: Studio, folder: Path) -> None:
        self.studio, self.folder = studio, folder

    @told(6)
    def paint(
        self, request: gr.Request, progress: gr.Progress = PROGRESS, *form: Any
    ) -> tuple[Any, ...]:
        """The new source, the picture, its files, and the command that makes the same."""
        asked, session = request_of(*form), _session(request)
        painted = self.studio.paint(asked, session, _bar(progress, "painting", asked.steps))
        return self._shown(
            painted, session, "The picture: hover over a word, or tap it, to see where it acted"
        )

    @told(6)
    def read(
        self,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
        file: Any = None,
        *form: Any,
    ) -> tuple[Any, ...]:
        """The same for a picture of one's own."""
        if not isinstance(file, str):
            raise UserError(
                "expected a picture of your own, but there is none yet; upload a file first"
            )
        asked, session = request_of(*form), _session(request)
        painted = self.studio.read(Path(file), asked, session, _bar(progress, "reading it"))
        return self._shown(
            painted,
            session,
            "Your picture, as the model paints it again: hover over a word, or tap it",
        )

    @told(6)
    def edit(
        self,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
        source: Source | None = None,
        boxes: Any = "",
        *values: Any,
    ) -> tuple[Any, ...]:
        """The picture before and after, the files, and the command. Of `values` the first half are
        weights, the second other words, in the order of the source's words."""
        words = () if source is None else source.words
        weights = dict(zip(words, values[: len(words)], strict=False))
        others = dict(zip(words, values[len(words) :], strict=False))
        asked, session = edit_of(source, weights, others, boxes), _session(request)
        changed = self.studio.edit(asked, session, _bar(progress, "changing"))
        edited, texts = changed.edited, changed.words
        sides = (
            (edited.before, asked.request.prompt, texts[0], edited.maps_before, "Before"),
            (edited.after, asked.target, texts[1], edited.maps_after, "After"),
        )
        before, after = (lit_picture(*side, unknown=changed.unknown) for side in sides)
        files = write_changed(self._folder(session, "change"), changed)
        return before, after, *_downloads(files, changed.made)

    @told(4)
    def explain(
        self,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
        source: Source | None = None,
    ) -> tuple[Any, ...]:
        """The table, the files, and the command that makes the same."""
        session = _session(request)
        bar = _bar(progress, "asking what each word does")
        explained = self.studio.explain(source, session, bar)
        files = write_explained(self._folder(session, "explain"), explained)
        table = explanation_table(explained.found, explained.unknown)
        return table, *_downloads(files, explained.made)

    def stop(self, request: gr.Request) -> None:
        """Stops what the session has running."""
        self.studio.stop(_session(request))

    def leave(self, request: gr.Request) -> None:
        """Stops it, and removes the files of a session whose page was closed."""
        self.stop(request)
        shutil.rmtree(self.folder / _session(request), ignore_errors=True)

    def _shown(self, painted: Painted, session: str, caption: str) -> tuple[Any, ...]:
        prompt = painted.source.request.prompt
        page = lit_picture(
            painted.image,
            prompt,
            painted.words,
            painted.maps,
            caption,
            draws=True,
            unknown=painted.unknown,
        )
        files = write_painted(self._folder(session, "picture"), painted)
        return painted.source, page, *_downloads(files, painted.made)

    def _folder(self, session: str, kind: str) -> Path:
        """An empty folder; the files of the session's last run of the kind are gone."""
        folder = self.folder / session / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@told(1)
def add_box(boxes: Any, event: gr.EventData) -> str:
    """The lines of boxes with one more, which was drawn on the picture; it takes the place of an
    earlier one of the same word."""
    drawn: Any = event._data
    try:
        word = " ".join(str(drawn["word"]).split())
        sides = [float(each) for each in drawn["box"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "expected a box on the picture, but came none; tap a word and draw it"
        ) from error
    lines = [each for each in str(boxes or "").splitlines() if each.strip()]
    others = [each for each in lines if each.partition("=")[0].strip() != word]
    return "\n".join([*others, f"{word}={','.join(f'{side:.3f}' for side in sides)}"])


def _downloads(files: Sequence[Path], made: Made) -> list[Any]:
    """Values for the buttons of files, and for the command."""
    command = command_of(made)
    buttons = [gr.DownloadButton(label=each.name, value=str(each), visible=True) for each in files]
    return [*buttons, gr.Textbox(value=command, visible=bool(command))]


def _bar(progress: gr.Progress, what: str, total: int | None = None) -> Callable[[int], None]:
    def tell(call: int) -> None:
        if total is None:
            progress((call, None), desc=what, unit="calls of the model")
        else:  # guidance may take two calls a step
            progress((min(call, total), total), desc=what, unit="steps")

    return tell


def _session(request: gr.Request) -> str:
    """The session's name, which the browser says; as a folder's it is made safe."""
    name = str(request.session_hash or "")
    return name if name.isascii() and name.isalnum() else "none"
