"""The index of a batch: all records by the number of their line, in one Parquet file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from t2i_xattn.batch.done import Done
from t2i_xattn.batch.folder import BatchFolder, read_records
from t2i_xattn.errors import UserError

if TYPE_CHECKING:
    import pyarrow

ROWS = 1000
"""Records that are held at once, and rows of a group in the file."""


def check_pyarrow() -> None:
    """Raises `UserError` if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            "expected pyarrow for the index of a batch, but it is not installed; "
            "pip install 't2i-xattn[batch]'"
        ) from None


def schema() -> pyarrow.Schema:
    """The columns. Shares, boxes and peakedness are those of `t2i-xattn inspect`; effect (the size
    by `text`), grade and the region's box those of `t2i-xattn explain`, null unless asked for. The
    words that the model was never taught are null where its vocabulary is not known."""
    import pyarrow as pa

    sides = [pa.field(side, pa.float64()) for side in ("top", "left", "bottom", "right")]
    word = pa.struct(
        [
            ("word", pa.string()),
            ("share", pa.float64()),
            ("box", pa.struct(sides)),
            ("peakedness", pa.float64()),
            ("effect", pa.float64()),
            ("grade", pa.string()),
            ("region", pa.struct(sides)),
        ]
    )
    return pa.schema(
        [
            pa.field("line", pa.int64(), nullable=False),
            ("id", pa.string()),
            pa.field("prompt", pa.string(), nullable=False),
            ("negative", pa.string()),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("steps", pa.int64(), nullable=False),
            pa.field("guidance", pa.float64(), nullable=False),
            ("width", pa.int32()),
            ("height", pa.int32()),
            pa.field("model", pa.string(), nullable=False),
            ("edits", pa.string()),
            pa.field("words", pa.list_(word), nullable=False),
            ("picture", pa.string()),
            ("trace", pa.string()),
            ("explanation", pa.string()),
            ("unknown_words", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )


def write_index(folder: BatchFolder, lines: int) -> bool:
    """Writes `index.parquet`, if every line is done.

    Whichever process ends last does it, and two that end at once write the same. Records are read
    from their files as they are written; what is held of each is where it stands.

    Args:
        folder: with the records of all processes.
        lines: how many there are.

    Returns:
        Whether it was written.

    Raises:
        OSError: the disk is full.
    """
    import pyarrow as pa
    from pyarrow import parquet

    places, count = _places(folder)
    if count < lines:
        return False
    kind = schema()
    made = folder.work / "index.parquet"
    with parquet.ParquetWriter(made, kind) as writer:
        rows: list[dict[str, Any]] = []
        for record in _in_order(folder, places):
            rows.append({name: record.get(name) for name in kind.names})
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, kind))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, kind))
    folder.move(made, made.name)
    return True


def _places(folder: BatchFolder) -> tuple[array[int], int]:
    """Of every record that is the best of its line so far, one after the other: the line, the
    number of its file, the byte where it begins; and how many lines there are."""
    places = array("q")
    done = Done()
    for shard, path in enumerate(folder.shards()):
        for begin, record in read_records(path):
            if done.note(record):
                places.extend((record["line"], shard, begin))
    return places, len(done)


def _in_order(folder: BatchFolder, places: array[int]) -> Iterator[dict[str, Any]]:
    """The best record of each line, by its number."""
    import numpy as np

    table = np.frombuffer(places, dtype=np.int64).reshape(-1, 3)
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in folder.shards()]
        ordered = table[np.argsort(table[:, 0], kind="stable")]
        # Of one line the last is the best.
        best = np.append(ordered[1:, 0] != ordered[:-1, 0], True)
        for _, shard, begin in ordered[best]:
            files[shard].seek(int(begin))
            record = json.loads(files[shard].readline())
            box = ("top", "left", "bottom", "right")
            for word in record["words"]:
                for name in ("box", "region"):
                    if word.get(name) is not None:
                        word[name] = dict(zip(box, word[name], strict=True))
            yield record
