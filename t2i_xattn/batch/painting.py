"""Lines become pictures and traces; one that cannot be painted is told and leaves the rest be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from t2i_xattn.asking.edits import edits_of
from t2i_xattn.asking.limits import check_edit_limits, check_phrases
from t2i_xattn.asking.painting import pictures_of
from t2i_xattn.asking.request import sampling_of, settings_of
from t2i_xattn.batch.line import Line
from t2i_xattn.batch.many import Batch, in_smaller_batches, painted_call, recorded_call
from t2i_xattn.errors import UserError, is_out_of_memory
from t2i_xattn.provenance.made import Made
from t2i_xattn.traces.trace import Trace

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.explaining.explanation import Explanation

EXPLAINED_AT_ONCE = 8
"""Pictures of an explanation that are asked about at once, where batches are no larger."""


@dataclass(frozen=True)
class Painted:
    """A line and what came of it: a picture, its trace and how they were made, or an error; and
    what was found of its words, if that was asked for."""

    line: Line
    picture: Image.Image | None = None
    trace: Trace | None = None
    made: Made | None = None
    error: str | None = None
    explanation: Explanation | None = None


class Painter:
    """Paints and records lines with one pipeline.

    Attributes:
        pipe: the pipeline.
        options: of `record`; None: nothing is recorded.
        explains: whether lines without edits are explained.
    """

    def __init__(
        self,
        pipe: Any,
        model: str,
        batch_size: int,
        walk: int | None,
        no_limits: bool = False,
        explains: bool = False,
    ) -> None:
        """
        Args:
            pipe: the pipeline.
            model: by name, as in the pictures.
            batch_size: see `BatchRun`.
            walk: see `record`; None: nothing is recorded.
            no_limits: see `BatchRun`.
            explains: see `BatchRun`.
        """
        self.explains = explains
        self.pipe, self.model, self.no_limits = pipe, model, no_limits
        self._made = Made.by(pipe, "generate", {}, (0, 0))
        self.options = None if walk is None else {"walk": walk}
        self._batch = Batch(batch_size)
        self._known = set(inspect.signature(pipe.__call__).parameters)

    def paint(self, lines: Sequence[Line]) -> Iterator[Painted]:
        """What came of each line of one shape, in no order.

        Raises:
            OSError, UserError: what is no line's fault and would befall the next too.
        """
        fit = []
        for line in lines:
            try:
                self._check(line)
                fit.append(line)
            except UserError as error:
                yield Painted(line, error=told_in_a_line(error))
        if not fit:
            return
        if self.explains and not fit[0].edited:
            yield from map(self._explained, fit)
            return
        try:
            found = self._edited(fit[0]) if fit[0].edited else self._plain(fit)
        except Exception as error:
            _raise_what_befalls_all(error)
            if len(fit) == 1:
                yield Painted(fit[0], error=told_in_a_line(error))
                return
        else:
            for line, (picture, trace) in zip(fit, found, strict=True):
                try:
                    (painted,) = pictures_of([picture])
                except UserError as error:
                    yield Painted(line, error=told_in_a_line(error))
                else:
                    yield Painted(line, painted, trace, self._made_of(line, painted.size))
            return
        # Which of them it was is found by each alone.
        for line in fit:
            yield from self.paint([line])

    def _explained(self, line: Line) -> Painted:
        """A line by itself, with what its words do."""
        from t2i_xattn.explaining.explain import explain

        request = line.request
        size = max(self._batch.size, EXPLAINED_AT_ONCE)
        ask = partial(
            explain,
            self.pipe,
            request.prompt,
            words=line.words or None,
            seeds=[request.seed],
            walk=(self.options or {}).get("walk", 0),
            **settings_of(self.pipe, request),
        )
        try:
            found = in_smaller_batches(ask, size)
        except Exception as error:
            _raise_what_befalls_all(error)
            return Painted(line, error=told_in_a_line(error))
        (picture,) = found.pictures
        made = self._made_of(line, picture.image.size)
        return Painted(line, picture.image, picture.trace, made, explanation=found)

    def _made_of(self, line: Line, size: tuple[int, int]) -> Made:
        """How a picture was made: as `generate` makes it, if the line has no edits."""
        request = line.request
        options: dict[str, Any] = {"prompt": request.prompt}
        if self.model != "world":
            options["model"] = self.model
        options |= {"seed": request.seed, "steps": request.steps, "guidance": request.guidance}
        if request.size is not None:
            options["size"] = "x".join(map(str, request.size))
        options["count"] = 1
        if request.negative is not None:
            options["negative"] = request.negative
        if line.edits is not None:
            options["edits"] = line.edits
        command = "batch" if line.edited else "generate"
        return replace(self._made, command=command, options=options, size=size)

    def _check(self, line: Line) -> None:
        if not self.no_limits:
            check_edit_limits(line.asked)
            check_phrases("words", line.words)
        line.check(self.pipe)
        if line.request.negative is not None and "negative_prompt" not in self._known:
            raise UserError(
                "expected a pipeline that takes a negative prompt, but "
                f"{type(self.pipe).__name__} takes none; leave 'negative' out"
            )

    def _arguments(self, line: Line) -> dict[str, Any]:
        """What the lines of one shape have in common, as arguments of the pipeline."""
        given = sampling_of(self.pipe, line.request)
        return {**given, "output_type": "np"} if "output_type" in self._known else given

    def _call(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        negatives: Sequence[str | None],
        arguments: Mapping[str, Any],
    ) -> list[tuple[Any, Trace | None]]:
        """The pictures of one call of the pipeline, each with its trace."""
        given = self.pipe, prompts, seeds, negatives
        if self.options is None:
            return [(each, None) for each in painted_call(*given, arguments=arguments)]
        return list(recorded_call(*given, options=self.options, arguments=arguments))

    def _plain(self, lines: Sequence[Line]) -> list[tuple[Any, Trace | None]]:
        from t2i_xattn.conditioning.within import columns_read

        # A picture must not depend on how long its neighbours' prompts are.
        longest = [
            columns_read(self.pipe, [line.request.prompt, line.request.negative or ""])
            for line in lines
        ]
        found: dict[int, tuple[Any, Trace | None]] = {}
        for columns in dict.fromkeys(longest):
            own = [number for number, each in enumerate(longest) if each == columns]
            requests = [lines[number].request for number in own]
            painted = self._batch.in_parts(
                partial(self._call, arguments=self._arguments(lines[0])),
                [each.prompt for each in requests],
                [each.seed for each in requests],
                [each.negative for each in requests],
            )
            found |= dict(zip(own, painted, strict=True))
        return [found[number] for number in range(len(lines))]

    def _edited(self, line: Line) -> list[tuple[Any, Trace | None]]:
        """The picture after the edits; with other words, beside the one that it is made from."""
        from t2i_xattn.editing.edit import edit

        asked, request = line.asked, line.request
        prompts = [request.prompt, asked.target] if asked.replace else [request.prompt]
        beside = [request.seed] * len(prompts), [request.negative] * len(prompts)
        with edit(self.pipe, *edits_of(asked, images=[len(prompts) - 1])):
            return self._call(prompts, *beside, self._arguments(line))[-1:]


def told_in_a_line(error: Exception) -> str:
    """An error as one line."""
    # What is no character could not be written into the index.
    told = " ".join(str(error).split())[:500].encode(errors="replace").decode()
    return told if isinstance(error, UserError) else f"{type(error).__name__}: {told}"


def _raise_what_befalls_all(error: Exception) -> None:
    """Raises what is no line's fault."""
    import torch

    if isinstance(error, OSError):
        raise error
    # A device that failed computes nothing more in this process; memory may do for the next line.
    if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
        raise UserError(
            f"expected a device that computes, but: {told_in_a_line(error)}; what is done stays, "
            "give the same command to go on"
        ) from error
