"""The folder of a batch: where its files lie, what it was begun with, and which lines are done.

```
batch.json                        the plan: the prompts' hash, the model and the options
stdin.jsonl                       the prompts, where they came by a pipe (or stdin.csv, .txt)
pictures/0001/001234.png          by the number of the line, a thousand a folder
traces/0001/001234.safetensors
explanations/0001/001234.json     of lines that were explained
records/process-00000.jsonl       what each process did; a line that stands here is done
index.parquet                     all records by number, at the end
.work/                            a lock and half-written files of each process
```
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from t2i_xattn.batch.done import Done
from t2i_xattn.errors import UserError, shown

A_THOUSAND = 1000


class BatchFolder:
    """A folder as one of the processes sees it.

    Attributes:
        path: of the folder.
        records: where this process writes what it did.
        work: where its files lie until they are whole.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self.records = path / "records" / f"process-{rank:05d}.jsonl"
        self.work = path / ".work" / f"process-{rank:05d}"

    def keep_plan(self, plan: Mapping[str, Any]) -> None:
        """Writes what the batch is begun with.

        Raises:
            UserError: if it was begun with something else.
        """
        self.check_plan(plan)
        self.put((json.dumps(plan, indent=2, ensure_ascii=False) + "\n").encode(), "batch.json")

    def check_plan(self, plan: Mapping[str, Any]) -> None:
        """Raises `UserError` if the batch was begun with something else."""
        try:
            before = json.loads((self.path / "batch.json").read_text("utf-8"))
            if not isinstance(before, dict):
                raise ValueError
        except FileNotFoundError:
            return
        except ValueError:
            raise UserError(
                f"expected what a batch was begun with in {self.path / 'batch.json'}, but it is "
                "damaged; choose another --out"
            ) from None
        # Begun before these were written down.
        before = {"form": plan.get("form"), "maps": True, "explain": False} | before
        for key in dict.fromkeys([*plan, *before]):
            if plan.get(key) != before.get(key):
                raise UserError(
                    f"expected the {key} that {self.path} was begun with, {before.get(key)!r}, but "
                    f"came {plan.get(key)!r}; give the same, or another --out"
                )

    def keep_prompts(self, prompts: Path, name: str) -> None:
        """Writes a copy of the prompts, which nobody has otherwise."""
        shutil.copyfile(prompts, self.work / name)
        self.move(self.work / name, name)

    def check_prompts(self, prompts: Path, name: str) -> None:
        """Raises `UserError` if the prompts are not those that the batch was begun with."""
        kept = self.path / name
        if not (self.path / "batch.json").exists() or not kept.exists():
            return
        with kept.open("rb") as before, prompts.open("rb") as now:
            for number, (one, other) in enumerate(zip_longest(before, now), 1):
                if one != other:
                    came = (
                        "none" if other is None else shown(other.decode(errors="replace").strip())
                    )
                    raise UserError(
                        f"expected the lines that {self.path} was begun with, which stand in "
                        f"{kept}, but as line {number} came {came}; give the same, or another --out"
                    )

    def done(self) -> Done:
        """Which lines are done, by whichever process."""
        done = Done()
        for shard in self.shards():
            for _, record in read_records(shard):
                done.note(record)
        return done

    def shards(self) -> list[Path]:
        """The records of all processes."""
        return sorted((self.path / "records").glob("process-*.jsonl"))

    def place(self, kind: str, number: int, ending: str) -> str:
        """Where a file of a line lies, from the folder on."""
        return f"{kind}/{number // A_THOUSAND:04d}/{number:06d}.{ending}"

    def move(self, made: Path, place: str) -> None:
        """Has a file of `work` appear at its place, whole, also if the machine stops."""
        with made.open("rb") as file:
            os.fsync(file.fileno())
        target = self.path / place
        target.parent.mkdir(parents=True, exist_ok=True)
        made.replace(target)
        _keep_names(target.parent)

    def put(self, data: bytes, place: str) -> None:
        """Writes a whole file at its place."""
        made = self.work / place
        made.write_bytes(data)
        self.move(made, place)

    def mend(self) -> None:
        """Takes off half a record that a process left which was stopped.

        Half a file is written over, or goes with `work` at the end.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        self.records.parent.mkdir(exist_ok=True)
        with self.records.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            while end and not _ends_line(file, end):
                end -= 1
            file.truncate(end)


@contextmanager
def open_folder(path: Path, rank: int) -> Iterator[BatchFolder]:
    """The folder, held by one process of this number at a time.

    The lock is the system's: it falls with the process that holds it, however that ends. A folder
    in which no batch was begun is left as it was found.

    Raises:
        UserError: a folder that cannot be written to, or in which such a process is at work; on the
            way, when the disk is full.
    """
    made = [each for each in (path, *path.parents) if not each.exists()]
    folder = BatchFolder(path, rank)
    try:
        folder.work.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.work.with_suffix(".lock"), timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"expected that no other run writes into {path}, but one is at work there as process "
            f"{rank}; wait until it ends, or choose another --out"
        ) from None
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        folder.mend()
        yield folder
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(folder.work, ignore_errors=True)
        lock.release()
        if not (path / "batch.json").exists():
            _leave(folder, made)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"expected a folder that can be written to at {path}, but: {error.strerror or error}; make "
        "room or choose another --out, and what is done there stays"
    )


def _leave(folder: BatchFolder, made: list[Path]) -> None:
    """Takes off what was made in a folder in which nothing was begun."""
    folder.work.with_suffix(".lock").unlink(missing_ok=True)
    if folder.records.exists() and not folder.records.stat().st_size:
        folder.records.unlink()
    for each in (folder.work.parent, folder.records.parent, *made):
        try:
            each.rmdir()
        except OSError:  # another process is there, or something else lies in it
            return


def read_records(shard: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole records of a process and the byte where each begins; half of one is left out."""
    begin = 0
    with shard.open("rb") as file:
        for raw in file:
            try:
                record = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                record = None
            if isinstance(record, dict) and isinstance(record.get("line"), int):
                yield begin, record
            begin += len(raw)


def _ends_line(file: Any, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"


def _keep_names(folder: Path) -> None:
    """Has the names in a folder outlast a machine that stops."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
