"""What came of lines goes to the disk beside the computing: pictures, traces, then the record."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from t2i_xattn.batch.folder import BatchFolder
from t2i_xattn.batch.line import Line
from t2i_xattn.batch.painting import Painted, told_in_a_line
from t2i_xattn.batch.word_maps import of_words
from t2i_xattn.errors import UserError
from t2i_xattn.provenance.png import save_png
from t2i_xattn.traces.word_reports import heatmaps, word_reports

if TYPE_CHECKING:
    from PIL import Image

    from t2i_xattn.explaining.explanation import Explanation
    from t2i_xattn.models.vocabulary import Vocabulary
    from t2i_xattn.provenance.made import Made

THREADS = 2
WAITING = 4
"""Batches that are written or wait for it; computing waits for them then, so that memory stays."""

Traces = Literal["none", "words", "all"]
"""Which traces are kept: none, those of the words looked into, or those of every column."""


class Product(NamedTuple):
    """What comes of a line as a file of its own.

    Attributes:
        kind: the folder in which the files of this kind lie.
        ending: of its name.
        save: writes it.
    """

    kind: str
    ending: str
    save: Callable[[Path], None]


class Writer:
    """Writes in threads of its own. A failure stands in the way of everything after it.

    As a context it ends when all is written.

    Attributes:
        failed: lines whose record has an error.
        unknown: lines with words that the model was never taught.
    """

    def __init__(
        self,
        folder: BatchFolder,
        model: str,
        traces: Traces,
        strict: bool,
        tried: Mapping[int, int] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """
        Args:
            folder: where to.
            model: what the index calls the model.
            traces: which to keep.
            strict: whether a line that failed is a failure of the run.
            tried: by the number of a line, how often it was tried in earlier runs.
            vocabulary: the words that the model was taught; None where they are not known.
        """
        self.folder, self.model, self.traces, self.strict = folder, model, traces, strict
        self.tried, self.vocabulary = tried or {}, vocabulary
        self.failed = self.unknown = 0
        self._failure: BaseException | None = None
        self._room = threading.BoundedSemaphore(WAITING)
        self._lock = threading.Lock()

    def __enter__(self) -> Writer:
        self._file = self.folder.records.open("ab")
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="t2i-xattn-writing")
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._pool.shutdown()
        self._file.close()
        if error is None:
            self._raise_failure()

    def put(self, found: Iterable[Painted], seconds: float) -> None:
        """Has the lines of one batch written.

        Args:
            found: what came of the lines.
            seconds: that each took.

        Raises:
            OSError, UserError: what went wrong with those before.
        """
        self._room.acquire()
        try:
            self._raise_failure()
            self._pool.submit(self._write, list(found), seconds)
        except BaseException:
            self._room.release()
            raise

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self, found: Sequence[Painted], seconds: float) -> None:
        try:
            if self._failure is None:
                self._record([self._written(each, seconds) for each in found])
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            self._room.release()

    def _written(self, found: Painted, seconds: float) -> dict[str, Any]:
        """The record of a line, whose files are there."""
        record = record_of(found.line, self.model)
        if self.vocabulary is not None:
            asked, negative = found.line.asked, found.line.request.negative
            texts = (asked.request.prompt, asked.target, negative, *asked.regions)
            record["unknown_words"] = [each.word for each in self.vocabulary.unknown(*texts)]
        if found.picture is not None:
            record["width"], record["height"] = found.picture.size
            try:
                record["words"], products = self._products(found, found.picture)
            except Exception as error:
                record["error"] = told_in_a_line(error)
            else:
                for column, product in products.items():
                    record[column] = self._moved(product, found.line.number)
        record["error"] = found.error or record["error"]
        if record["error"] is not None and self.strict:
            raise UserError(f"line {found.line.number} of the prompts: {record['error']}")
        tries = self.tried.get(found.line.number, 0) + 1
        return record | {"seconds": round(seconds, 4), "try": tries}

    def _products(
        self, found: Painted, picture: Image.Image
    ) -> tuple[list[dict[str, Any]], dict[str, Product]]:
        """The words of a picture, and by the column of the index what is to be a file."""
        words: list[dict[str, Any]] = []
        save = partial(save_png, picture, made=found.made)
        products = {"picture": Product("pictures", "png", save)}
        if found.trace is not None:
            maps = heatmaps(found.trace, 0, found.line.words)
            words = [_word(asdict(report)) for report in word_reports(maps)]
            if found.explanation is not None:
                words = [each | _explained(found.explanation, each["word"]) for each in words]
                table = found.explanation.as_json() | {"made": _as_dict(found.made)}
                save = partial(_save_json, table)
                products["explanation"] = Product("explanations", "json", save)
            if self.traces != "none":
                trace = found.trace
                if self.traces == "words":
                    trace = of_words(trace, [heat.word for heat in maps])
                products["trace"] = Product("traces", "safetensors", trace.save)
        return words, products

    def _moved(self, product: Product, number: int) -> str:
        made = self.folder.work / f"{number}.{product.ending}"
        try:
            product.save(made)
        except UserError as error:
            # A disk that is full is told for the folder, not for a file of `work`.
            raise (error.__cause__ or error) from None
        place = self.folder.place(product.kind, number, product.ending)
        self.folder.move(made, place)
        return place

    def _record(self, records: Sequence[dict[str, Any]]) -> None:
        """From here on the lines are done."""
        data = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records).encode()
        with self._lock:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.failed += sum(each["error"] is not None for each in records)
            self.unknown += sum(bool(each["unknown_words"]) for each in records)


def record_of(line: Line, model: str) -> dict[str, Any]:
    """A line's record before anything came of it, with the keys of the index in their order."""
    request = line.request
    width, height = request.size or (None, None)
    return {
        "line": line.number,
        "id": line.id,
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "width": width,
        "height": height,
        "model": model,
        "edits": line.edits,
        "words": [],
        "picture": None,
        "trace": None,
        "explanation": None,
        "unknown_words": None,
        "error": None,
    }


def _word(report: dict[str, Any]) -> dict[str, Any]:
    """A word as the index has it, of which nothing is known but its attention."""
    known = {key: report[key] for key in ("word", "share", "box", "peakedness")}
    return known | {"effect": None, "grade": None, "region": None}


def _explained(found: Explanation, word: str) -> dict[str, Any]:
    """What the index says of a word that was explained."""
    said = found.word(word)
    region = None if said.grade == "nothing" else found.region(word).box()
    return {"effect": said.sizes["text"].mean, "grade": said.grade, "region": region}


def _as_dict(made: Made | None) -> dict[str, Any] | None:
    return None if made is None else made.as_dict()


def _save_json(table: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False), "utf-8")
