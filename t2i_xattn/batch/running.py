"""A batch from its file to its index, by one process of those that share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from t2i_xattn.batch.done import Done
from t2i_xattn.batch.folder import open_folder
from t2i_xattn.batch.index import check_pyarrow, write_index
from t2i_xattn.batch.line import Defaults, Line
from t2i_xattn.batch.many import check_batch_size
from t2i_xattn.batch.memory import EVERY, give_back
from t2i_xattn.batch.painting import Painter
from t2i_xattn.batch.plan import batches
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.reading import Form, form_of, read_lines, survey
from t2i_xattn.batch.writing import Traces, Writer
from t2i_xattn.models.vocabulary import vocabulary_of

FORMAT = 1


@dataclass(frozen=True)
class BatchRun:
    """What is asked of a batch.

    Attributes:
        prompts: the file of prompts.
        out: the folder to write into.
        model: by name, as in the index.
        defaults: what holds for a line that does not say it.
        walk: see `record`.
        maps: whether attention is recorded; without, there are pictures only.
        explains: whether lines without edits are explained, each by itself.
        traces: which are kept.
        batch_size: lines of one shape in one call of the pipeline, at most.
        strict: whether a line that fails stops the run.
        retry: whether lines that failed in an earlier run are tried again.
        no_limits: see `asking.limits`.
        form: what the prompts are; None: told by the end of the file's name.
        keep_prompts: whether the folder gets a copy of them, since they came by a pipe.
    """

    prompts: Path
    out: Path
    model: str
    defaults: Defaults
    walk: int = 1
    traces: Traces = "words"
    batch_size: int = 1
    strict: bool = False
    retry: bool = False
    no_limits: bool = False
    form: Form | None = None
    keep_prompts: bool = False
    maps: bool = True
    explains: bool = False

    @property
    def known_form(self) -> Form:
        """What the prompts are. Raises `UserError` if that is not known."""
        return self.form or form_of(self.prompts)

    def plan(self, sha256: str, lines: int) -> dict[str, Any]:
        """What must be the same where a run goes on, as JSON has it."""
        defaults = asdict(self.defaults)
        if self.defaults.size is not None:
            defaults["size"] = list(self.defaults.size)
        return {
            "format": FORMAT,
            "prompts (SHA-256)": sha256,
            "form": self.known_form,
            "lines": lines,
            "model": self.model,
            **defaults,
            "walk": self.walk,
            "traces": self.traces,
            "maps": self.maps,
            "explain": self.explains,
            "batch size": self.batch_size,
        }


@dataclass(frozen=True)
class Outcome:
    """What a process did.

    Attributes:
        done: lines, in this run.
        before: lines of its part that were done before.
        failed: of those done, the ones that could not be painted.
        unknown: of those done, the ones with words that the model was never taught.
        index: whether all lines of all processes are done, and the index is there.
    """

    done: int
    before: int
    failed: int
    unknown: int
    index: bool


def run_batch(run: BatchRun, process: Process, load: Callable[[], Any]) -> Outcome:
    """Paints and records what is not done yet of the part of one process, and writes the index when
    nothing is left of any.

    Args:
        run: what is asked.
        process: which of those that share the batch.
        load: gives the pipeline; called if there is something to do.

    Raises:
        UserError: before anything is computed, for what cannot be; on the way, when nothing more
            can be written, or a line fails and the run is strict. What is done stays done.
    """
    check_batch_size(run.batch_size)
    check_pyarrow()
    found = survey(run.prompts, run.defaults, run.form)
    plan = run.plan(found.sha256, found.lines)
    with open_folder(run.out, process.rank) as folder:
        copy = f"stdin.{run.known_form}"
        if run.keep_prompts:
            folder.check_prompts(run.prompts, copy)
        folder.check_plan(plan)
        done = folder.done()
        again = set(done.failed) if run.retry else set()
        for line in again:
            done.forget(line)
        todo, before = _count(run, process, done)
        failed = unknown = 0
        if todo:
            pipe = load()
            pipe.set_progress_bar_config(disable=True)
            if run.keep_prompts:
                folder.keep_prompts(run.prompts, copy)
            folder.keep_plan(plan)
            walk = run.walk if run.maps else None
            painter = Painter(pipe, run.model, run.batch_size, walk, run.no_limits, run.explains)
            # Without a terminal there is none, and of several processes the first has it.
            off = None if process.rank == 0 else True
            with (
                tqdm(total=todo + before, initial=before, unit="line", disable=off) as bar,
                Writer(
                    folder, run.model, run.traces, run.strict, done.failed, vocabulary_of(pipe)
                ) as writer,
            ):
                for number, batch in enumerate(_own(run, process)):
                    left = _left(batch, done)
                    if left:
                        # Beside those that only failed nothing is painted that has worked, and
                        # those that are explained are painted one by one; else all of the batch is,
                        # since its pictures may depend on it.
                        alone = run.explains or all(line.number in again for line in left)
                        _paint(left if alone else batch, left, painter, writer)
                        bar.update(len(left))
                    if number % EVERY == EVERY - 1:
                        give_back()
            failed, unknown = writer.failed, writer.unknown
        return Outcome(todo, before, failed, unknown, write_index(folder, found.lines))


def _own(run: BatchRun, process: Process) -> Iterator[tuple[Line, ...]]:
    """The batches of one process: every so-manieth, so that all have work to the end."""
    lines = read_lines(run.prompts, run.defaults, run.form)
    for number, batch in enumerate(batches(lines, run.batch_size)):
        if number % process.world == process.rank:
            yield batch


def _left(batch: Sequence[Line], done: Done) -> list[Line]:
    return [each for each in batch if each.number not in done]


def _count(run: BatchRun, process: Process, done: Done) -> tuple[int, int]:
    """How many lines of its part are left, and how many are done."""
    todo = total = 0
    for batch in _own(run, process):
        total += len(batch)
        todo += len(_left(batch, done))
    return todo, total - todo


def _paint(batch: Sequence[Line], left: Sequence[Line], painter: Painter, writer: Writer) -> None:
    """Paints lines together, and has those written that are left to do."""
    start = time.perf_counter()
    painted = list(painter.paint(batch))
    seconds = (time.perf_counter() - start) / len(batch)
    wanted = {line.number for line in left}
    writer.put((each for each in painted if each.line.number in wanted), seconds)
