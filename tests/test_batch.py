"""`t2i-xattn batch`, run on a tiny random model as a user would run it."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

import t2i_xattn as tx
from batch_files import files_of, records_of, write_lines
from command_line import run
from conftest import make_pipeline
from failing import Failing
from t2i_xattn.batch import writing
from t2i_xattn.batch.folder import read_records
from t2i_xattn.batch.index import ROWS, schema
from t2i_xattn.batch.line import Defaults
from t2i_xattn.batch.many import record_many
from t2i_xattn.batch.memory import give_back
from t2i_xattn.batch.processes import Process
from t2i_xattn.batch.running import BatchRun, Outcome, run_batch
from t2i_xattn.errors import UserError
from t2i_xattn.traces.trace import Trace

LINES: list[dict[str, Any]] = [
    {"prompt": "a red circle", "id": "first"},
    {"prompt": "blue left", "negative": "red", "seed": 40},
    {"prompt": "a red circle of blue", "words": ["red circle", "blue"], "size": "48x64"},
    {"prompt": "a circle", "words": "cirle"},
    {"prompt": "a red circle left", "weight": {"red": 3.0}},
    {"prompt": "a red circle", "replace": {"red": "blue"}, "steps": 3},
    {"prompt": "a circle", "region": {"blue": [0, 0, 1, 0.5]}, "guidance": 1},
    {"prompt": "red", "size": 60},
]
ALONE = Process(0, 1, "cpu")
DEFAULTS = Defaults(steps=1, size=(64, 64), guidance=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(model: Path) -> list[Any]:
    return ["--model", model, "--steps", 2, "--size", 64, "--device", "cpu"]


@pytest.fixture(scope="module")
def done(
    model: Path, options: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a batch of all kinds of lines, and what was printed."""
    folder = tmp_path_factory.mktemp("done")
    prompts = write_lines(folder / "prompts.jsonl", LINES)
    code, printed, error = run("batch", prompts, *options, "--out", folder / "out")
    assert (code, error) == (0, "")
    return folder / "out", printed


@pytest.fixture
def pipe() -> Any:
    return make_pipeline()


def run_here(prompts: Path, out: Path, pipe: Any, **changes: Any) -> Outcome:
    """A batch in this process, of the pipeline as it is."""
    process = changes.pop("process", ALONE)
    return run_batch(BatchRun(prompts, out, "tiny", DEFAULTS, **changes), process, lambda: pipe)


def prompts_of(folder: Path, count: int) -> Path:
    return write_lines(folder / "p.jsonl", [{"prompt": f"red {n}"} for n in range(count)])


def test_files_and_index(done: tuple[Path, str]) -> None:
    out, printed = done
    assert printed == (
        "8 lines done, 2 of them failed, see error in the index\n" + f"{out / 'index.parquet'}\n"
    )
    table = parquet.read_table(out / "index.parquet")
    assert table.schema.equals(schema())
    rows = table.to_pylist()
    assert [row["line"] for row in rows] == list(range(1, 9))
    painted = [row for row in rows if row["error"] is None]
    assert [row["line"] for row in painted] == [1, 2, 3, 5, 6, 7]
    for row in painted:
        assert row["picture"] == f"pictures/0000/{row['line']:06d}.png"
        assert row["trace"] == f"traces/0000/{row['line']:06d}.safetensors"
    named = {"batch.json", "index.parquet"} | {
        row[kind] for row in painted for kind in ("picture", "trace")
    }
    assert set(files_of(out)) == named
    assert [row["seed"] for row in rows] == [1, 40, 3, 4, 5, 6, 7, 8]
    assert rows[0]["id"] == "first"
    assert rows[1]["negative"] == "red"
    assert (rows[2]["width"], rows[2]["height"]) == (48, 64)
    assert [word["word"] for word in rows[2]["words"]] == ["red circle", "blue"]
    assert json.loads(rows[4]["edits"]) == {"weight": {"red": 3.0}}
    assert "'cirle' is not in the prompt (did you mean 'circle'?)" in rows[3]["error"]
    assert "multiples of 8 pixels, but came 60" in rows[7]["error"]
    assert (rows[7]["picture"], rows[7]["trace"], rows[7]["words"]) == (None, None, [])
    assert all(record["seconds"] >= 0 for record in records_of(out))


def test_pandas_opens_the_index(done: tuple[Path, str]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(done[0] / "index.parquet")
    assert list(frame.columns) == schema().names
    assert frame.set_index("line").loc[3].words[0]["word"] == "red circle"


def test_datasets_opens_the_index(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    index = done[0] / "index.parquet"
    given = {"data_files": str(index), "split": "train", "cache_dir": str(tmp_path)}
    rows = parquet.read_table(index).to_pylist()
    for streaming in (False, True):
        found = datasets.load_dataset("parquet", **given, streaming=streaming)
        assert list(found.column_names) == schema().names
        assert list(found) == rows
    table = datasets.load_dataset("parquet", **given)
    painted = table.filter(lambda row: row["error"] is None)
    assert painted["line"][:] == [1, 2, 3, 5, 6, 7]
    # Paths are from the folder on: so they become pictures.
    whole = painted.map(lambda row: {"picture": str(done[0] / row["picture"])})
    pictures = whole.cast_column("picture", datasets.Image())
    with Image.open(done[0] / painted[2]["picture"]) as expected:
        assert pictures[2]["picture"].tobytes() == expected.tobytes()


@pytest.mark.slow
def test_pictures_are_those_of_generate(
    done: tuple[Path, str], options: list[Any], tmp_path: Path
) -> None:
    for line, seed, more in ((1, 1, []), (2, 40, ["--negative", "red"]), (3, 3, [])):
        size = ["--size", LINES[line - 1].get("size", 64)]
        prompt = LINES[line - 1]["prompt"]
        code, *_ = run(
            "generate", prompt, *options, *size, *more, "--seed", seed, "--out", tmp_path
        )
        assert code == 0
        picture = tmp_path / f"picture-{seed}.png"
        batch = done[0] / f"pictures/0000/{line:06d}.png"
        with Image.open(picture) as one, Image.open(batch) as other:
            assert one.tobytes() == other.tobytes()
        again = tmp_path / f"again-{line}"
        assert run("again", batch, "--out", again)[0] == 0
        assert (again / picture.name).read_bytes() == batch.read_bytes()


@pytest.mark.slow
def test_words_are_those_of_a_recording_with_walk(done: tuple[Path, str], pipe: Any) -> None:
    row, *_ = parquet.read_table(done[0] / "index.parquet").to_pylist()
    with tx.record(pipe, walk=1) as trace:
        pipe(
            LINES[0]["prompt"], num_inference_steps=2, guidance_scale=5.0, height=64, width=64,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
    assert [word["word"] for word in row["words"]] == ["a", "red", "circle"]
    for word in row["words"]:
        heat = trace.heatmap(word["word"])
        assert word["share"] == pytest.approx(heat.share, rel=1e-5)
        assert list(word["box"].values()) == pytest.approx(heat.box() or ())
        assert word["peakedness"] == pytest.approx(heat.peakedness, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "edit"),
    [
        (5, ["--weight", "red=3"]),
        (6, ["--replace", "red=blue", "--steps", 3]),
        (7, ["--region", "0,0,1,0.5=blue", "--guidance", 1]),
    ],
)
def test_edited_pictures_are_those_of_edit(
    done: tuple[Path, str], options: list[Any], tmp_path: Path, line: int, edit: list[Any]
) -> None:
    prompt = LINES[line - 1]["prompt"]
    run("edit", prompt, *options, *edit, "--seed", line, "--out", tmp_path)
    after, before = (_pixels(tmp_path / f"{name}.png") for name in ("after", "before"))
    found = _pixels(done[0] / f"pictures/0000/{line:06d}.png")
    assert np.abs(found - after).max() <= 1  # beside another picture in `edit`
    assert np.abs(found - before).max() > 1


def test_traces_of_words_have_the_maps_of_the_index(done: tuple[Path, str]) -> None:
    for row in parquet.read_table(done[0] / "index.parquet").to_pylist():
        if row["error"] is not None:
            continue
        trace = Trace.load(done[0] / row["trace"])
        assert all(len(row["words"]) == array.shape[-1] for array in trace.to_numpy().values())
        for word in row["words"]:
            assert trace.heatmap(word["word"]).share == pytest.approx(word["share"], rel=1e-5)


@pytest.mark.slow
def test_which_traces_are_kept(pipe: Any, tmp_path: Path) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", [{"prompt": "a red circle"}])
    for kind in ("none", "words", "all"):
        run_here(prompts, tmp_path / kind, pipe, traces=kind)
    assert not (tmp_path / "none" / "traces").exists()
    (none,) = parquet.read_table(tmp_path / "none" / "index.parquet").to_pylist()
    (words,) = parquet.read_table(tmp_path / "words" / "index.parquet").to_pylist()
    assert none["words"] == words["words"] != []
    path = "traces/0000/000001.safetensors"
    whole, part = (Trace.load(tmp_path / kind / path) for kind in ("all", "words"))
    for site, array in whole.to_numpy().items():
        assert array.shape[-1] == 77
        assert part.to_numpy()[site].shape[-1] == 3
    for word in ("a", "red circle", "circle"):
        heat = whole.heatmap(word).array
        np.testing.assert_allclose(part.heatmap(word).array, heat, rtol=1e-5)
    (_, recorded), *_ = record_many(
        pipe, ["a red circle"], seeds=1, walk=1, num_inference_steps=1, height=64, width=64,
        guidance_scale=1.0,
    )  # fmt: skip
    for site, array in recorded.to_numpy().items():
        np.testing.assert_array_equal(whole.to_numpy()[site], array)


@pytest.mark.parametrize("size", [1, 2])
def test_pictures_only(pipe: Any, tmp_path: Path, size: int) -> None:
    lines = [LINES[0], {"prompt": "blue left"}, LINES[2], *LINES[3:6]]
    prompts = write_lines(tmp_path / "p.jsonl", lines)
    run_here(prompts, tmp_path / "maps", pipe, batch_size=size)
    out = tmp_path / "out"
    outcome = run_here(prompts, out, pipe, batch_size=size, maps=False)
    assert (outcome.done, outcome.failed, outcome.index) == (6, 1, True)
    maps, found = files_of(tmp_path / "maps"), files_of(out)
    pictures = [name for name in maps if name.endswith(".png")]
    assert len(pictures) == 5
    assert set(found) == {*pictures, "batch.json", "index.parquet"}
    assert all(found[name] == maps[name] for name in pictures)
    rows, others = (
        parquet.read_table(each / "index.parquet").to_pylist() for each in (out, tmp_path / "maps")
    )
    assert rows == [row | {"words": [], "trace": None} for row in others]
    with pytest.raises(UserError, match=r"the maps that .* was begun with, False, but came True"):
        run_here(prompts, out, pipe, batch_size=size)


def test_a_batch_that_was_begun_before_there_was_a_choice(pipe: Any, tmp_path: Path) -> None:
    prompts, out = prompts_of(tmp_path, 1), tmp_path / "out"
    run_here(prompts, out, pipe)
    plan = json.loads((out / "batch.json").read_text("utf-8"))
    for key in ("form", "maps"):
        del plan[key]
    (out / "batch.json").write_text(json.dumps(plan), "utf-8")
    assert run_here(prompts, out, pipe).before == 1
    with pytest.raises(UserError, match=r"the maps that .* was begun with, True, but came False"):
        run_here(prompts, out, pipe, maps=False)


def test_no_maps_beside_what_asks_for_some(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, 1)
    given = ["--out", tmp_path / "out", "--no-maps", "--traces", "all", "--walk", 2]
    code, printed, error = run("batch", prompts, *given)
    assert (code, printed) == (2, "")
    assert "expected no --traces and --walk beside --no-maps" in error


def test_a_batch_is_the_same_whatever_its_processes(pipe: Any, tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [
        {"steps": 1},
        {"steps": 2},
        {"negative": "blue", "guidance": 3.0},
    ]
    lines = [{"prompt": f"red {n}", **shapes[n % 3]} for n in range(10)]
    prompts = write_lines(tmp_path / "p.jsonl", [*lines, {"prompt": "x", "words": "red"}])
    run_here(prompts, tmp_path / "one", pipe, batch_size=3)
    outcomes = [
        run_here(prompts, tmp_path / "two", pipe, batch_size=3, process=Process(n, 2, "cpu"))
        for n in (1, 0)
    ]
    assert [outcome.index for outcome in outcomes] == [False, True]
    assert sum(outcome.done for outcome in outcomes) == 11
    assert min(outcome.done for outcome in outcomes) > 2
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    # What is painted together is what is painted alone, but for the order of sums.
    run_here(prompts, tmp_path / "alone", pipe)
    for name in files_of(tmp_path / "alone"):
        if name.endswith(".png"):
            found, expected = (_pixels(tmp_path / way / name) for way in ("one", "alone"))
            assert np.abs(found - expected).max() <= 1


def _pixels(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=np.float64)


@pytest.mark.parametrize("size", [1, 4])
def test_a_line_that_fails_leaves_the_others_be(pipe: Any, tmp_path: Path, size: int) -> None:
    prompts = prompts_of(tmp_path, 6)
    run_here(prompts, tmp_path / "plain", pipe, batch_size=size)
    Failing(pipe, 3, ValueError("the kernel\nsaid no"))
    outcome = run_here(prompts, tmp_path / "out", pipe, batch_size=size)
    assert (outcome.done, outcome.failed, outcome.index) == (6, 1, True)
    rows = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    told = {row["line"]: row["error"] for row in rows if row["error"] is not None}
    assert told == {3: "ValueError: the kernel said no"}
    plain, found = files_of(tmp_path / "plain"), files_of(tmp_path / "out")
    pictures = {name for name in found if name.endswith(".png")}
    assert pictures == {n for n in plain if n.endswith(".png")} - {"pictures/0000/000003.png"}
    if size == 1:
        assert all(found[name] == plain[name] for name in pictures)


@pytest.mark.slow
def test_a_batch_without_memory_is_halved(pipe: Any, tmp_path: Path) -> None:
    prompts, rows = prompts_of(tmp_path, 7), []

    def room_for_two(module: Any, inputs: tuple[Any, ...]) -> None:
        rows.append(len(inputs[0]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = pipe.unet.register_forward_pre_hook(room_for_two)
    assert run_here(prompts, tmp_path / "out", pipe, batch_size=6).failed == 0
    assert rows == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    # No room for one is the line's own failure.
    hook.remove()
    pipe.unet.register_forward_pre_hook(lambda *_: room_for_two(None, (range(3),)))
    assert run_here(prompts, tmp_path / "none", pipe).failed == 7
    rows_of = parquet.read_table(tmp_path / "none" / "index.parquet").to_pylist()
    assert {row["error"] for row in rows_of} == {"OutOfMemoryError: CUDA out of memory"}


def test_an_error_of_any_text_is_told_in_the_index(pipe: Any, tmp_path: Path) -> None:
    Failing(pipe, 1, ValueError("no \ud800\n" + "character " * 100))
    run_here(prompts_of(tmp_path, 1), tmp_path / "out", pipe)
    (row,) = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert row["error"].startswith("ValueError: no ? character character")
    assert len(row["error"]) < 600


def test_what_cannot_be_measured_is_told_in_the_index(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trace: Trace, *_: Any) -> Any:
        if trace.prompts == ("red 1",):
            raise ZeroDivisionError("a map of nothing")
        return []

    monkeypatch.setattr(writing, "heatmaps", broken)
    outcome = run_here(prompts_of(tmp_path, 3), tmp_path / "out", pipe, traces="none")
    assert (outcome.failed, outcome.index) == (1, True)
    rows = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert [row["error"] for row in rows] == [None, "ZeroDivisionError: a map of nothing", None]
    assert [row["picture"] is None for row in rows] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
def test_strict_stops_at_a_line_that_fails_and_goes_on_later(
    options: list[Any], tmp_path: Path, size: int
) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", [*LINES[:2], LINES[3], *LINES[4:6]])
    more = ["--out", tmp_path / "out", "--batch-size", size]
    code, printed, error = run("batch", prompts, *options, *more, "--strict")
    assert (code, printed) == (2, "")
    assert "line 3 of the prompts: 'cirle' is not in the prompt" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "index.parquet").exists()
    assert 3 not in [record["line"] for record in records_of(tmp_path / "out")]
    assert run("batch", prompts, *options, *more)[0] == 0
    assert [record["line"] for record in records_of(tmp_path / "out")] == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_what_is_done_is_not_done_again(pipe: Any, tmp_path: Path, size: int) -> None:
    """Stopped after each number of records, whatever was half-written then."""
    prompts, out = prompts_of(tmp_path, 3), tmp_path / "out"
    run_here(prompts, tmp_path / "plain", pipe, batch_size=size)
    expected = files_of(tmp_path / "plain")
    (shard,) = (tmp_path / "plain" / "records").iterdir()
    ends = [begin for begin, _ in read_records(shard)]
    whole = shard.read_bytes()
    for end in [*ends, *(each + 30 for each in ends), len(whole)]:
        run_here(prompts, out, pipe, batch_size=size)
        kept = [json.loads(each)["line"] for each in whole[:end].split(b"\n")[:-1]]
        for record in records_of(tmp_path / "plain"):
            if record["line"] not in kept and record["line"] % 2:
                (out / record["picture"]).unlink()
                (out / record["trace"]).write_bytes(b"half")
        (out / "index.parquet").unlink()
        (out / "records" / shard.name).write_bytes(whole[:end])
        work = out / ".work" / "process-00000"
        work.mkdir()
        (work / "1.png").write_bytes(b"half")
        outcome = run_here(prompts, out, pipe, batch_size=size)
        assert (outcome.before, outcome.done) == (len(kept), 3 - len(kept))
        assert files_of(out) == expected
        assert [record["line"] for record in records_of(out)] == [1, 2, 3]
        assert not work.exists()


def test_with_nothing_left_no_model_is_loaded(pipe: Any, tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, 2)
    run_here(prompts, tmp_path / "out", pipe)
    before = files_of(tmp_path / "out")
    asked = BatchRun(prompts, tmp_path / "out", "tiny", DEFAULTS)
    outcome = run_batch(asked, ALONE, lambda: pytest.fail("loaded"))
    assert (outcome.done, outcome.before, outcome.index) == (0, 2, True)
    assert files_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--steps", 3], "the steps that .* was begun with, 2, but came 3"),
        (["--seed", 1], "the seed that .* was begun with, 0, but came 1"),
        (
            ["--size", "64x48"],
            "the size that .* with, \\[64, 64\\], but came \\[64, 48\\]",
        ),
        (["--negative", "x"], "the negative that .* was begun with, None, but came 'x'"),
        (["--traces", "all"], "the traces that .* was begun with, 'words', but came 'all'"),
        (["--batch-size", 2], "the batch size that .* was begun with, 1, but came 2"),
        (["--model", "world"], "the model that .* was begun with"),
    ],
)
def test_another_plan_is_refused(
    done: tuple[Path, str], options: list[Any], more: list[Any], sentence: str
) -> None:
    out, _ = done
    before = files_of(out)
    code, printed, error = run("batch", out.parent / "prompts.jsonl", *options, *more, "--out", out)
    assert (code, printed) == (2, "")
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=sentence):
        raise UserError(error)
    assert files_of(out) == before


def test_other_prompts_are_refused(
    done: tuple[Path, str], options: list[Any], tmp_path: Path
) -> None:
    prompts = write_lines(tmp_path / "p.jsonl", [*LINES[:-1], {"prompt": "another"}])
    code, _, error = run("batch", prompts, *options, "--out", done[0])
    assert code == 2
    assert "the prompts (SHA-256) that" in error
    # The same in a file of another name goes on.
    same = write_lines(tmp_path / "same.jsonl", LINES)
    code, printed, _ = run("batch", same, *options, "--out", done[0])
    assert (code, printed.splitlines()[0]) == (0, "0 lines done, 8 before")


def test_two_runs_of_one_process_do_not_write_at_once(pipe: Any, tmp_path: Path) -> None:
    prompts, out = prompts_of(tmp_path, 2), tmp_path / "out"
    (out / ".work").mkdir(parents=True)
    with (
        FileLock(out / ".work" / "process-00000.lock"),
        pytest.raises(UserError, match="one is at work there as process 0"),
    ):
        run_here(prompts, out, pipe)
    # A lock file whose process is gone is in nobody's way.
    assert (out / ".work" / "process-00000.lock").exists()
    assert run_here(prompts, out, pipe).index


@pytest.mark.slow
@pytest.mark.parametrize("where", ["picture", "trace", "record", "index", "plan"])
def test_a_full_disk_ends_in_one_sentence_and_a_run_that_goes_on(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    prompts, out = prompts_of(tmp_path, 6), tmp_path / "out"
    run_here(prompts, tmp_path / "plain", pipe)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    broken = {
        "picture": ("PIL.Image.Image.save", None),
        "trace": ("t2i_xattn.traces.disk._unfinished", None),
        "record": ("t2i_xattn.batch.writing.Writer._record", None),
        "index": ("pyarrow.parquet.ParquetWriter.write_table", None),
        "plan": ("t2i_xattn.batch.folder.BatchFolder.put", None),
    }
    with monkeypatch.context() as patched:
        patched.setattr(broken[where][0], full)
        with pytest.raises(UserError, match=f"written to at {out}, but: No space left") as told:
            run_here(prompts, out, pipe)
    assert "\n" not in str(told.value)
    assert run_here(prompts, out, pipe).index
    assert files_of(out) == files_of(tmp_path / "plain")
    assert [record["line"] for record in records_of(out)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_computing_waits_for_a_slow_disk(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was painted and is not yet written stays within bounds."""
    begun, written, most = 0, 0, 0
    paint, record = writing.Writer.put, writing.Writer._record

    def put(self: Any, *given: Any) -> None:
        nonlocal begun, most
        paint(self, *given)
        begun += 1
        most = max(most, begun - written)

    def slow(self: Any, records: Any) -> None:
        nonlocal written
        time.sleep(0.15)
        record(self, records)
        written += 1

    monkeypatch.setattr(writing.Writer, "put", put)
    monkeypatch.setattr(writing.Writer, "_record", slow)
    monkeypatch.setattr(writing, "WAITING", 2)
    monkeypatch.setattr(writing, "THREADS", 1)
    assert run_here(prompts_of(tmp_path, 8), tmp_path / "out", pipe, walk=0).done == 8
    assert 1 < most <= 3


def test_mistakes_leave_nothing(options: list[Any], tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, 2)
    out = tmp_path / "new" / "out"
    for arguments, sentence in (
        ([tmp_path / "none.jsonl"], "No such file"),
        ([prompts, "--model", tmp_path / "none"], "a model folder at"),
        ([prompts, "--batch-size", 0], "a batch size of at least 1"),
        ([prompts, "--steps", 0], "--steps of at least 1"),
        ([prompts, "--size", "big"], "--size like 128"),
        ([prompts, "--device", "nonsense"], "--device of this machine"),
    ):
        code, printed, error = run("batch", arguments[0], *options, *arguments[1:], "--out", out)
        assert (code, printed) == (2, "")
        assert sentence in error
        assert error.count("\n") == 1
        assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine", "utf-8")
    code, _, error = run("batch", prompts, *options, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "a folder that can be written to" in error


def test_a_failed_device_stops_the_run(pipe: Any, tmp_path: Path) -> None:
    Failing(pipe, 2, torch.AcceleratorError("CUDA error: device-side assert triggered"))
    prompts = prompts_of(tmp_path, 4)
    with pytest.raises(UserError, match="a device that computes, but: AcceleratorError"):
        run_here(prompts, tmp_path / "out", pipe)
    assert [record["line"] for record in records_of(tmp_path / "out")] == [1]


def test_a_thousand_files_a_folder_and_rows_a_group(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "\n" * 997 + "red\n" * 4
    (tmp_path / "p.txt").write_text(data, "utf-8")
    monkeypatch.setattr("t2i_xattn.batch.index.ROWS", 3)
    assert ROWS == 1000
    run_here(tmp_path / "p.txt", tmp_path / "out", pipe)
    rows = parquet.read_table(tmp_path / "out" / "index.parquet").to_pylist()
    assert [row["picture"] for row in rows] == [
        "pictures/0000/000998.png",
        "pictures/0000/000999.png",
        "pictures/0001/001000.png",
        "pictures/0001/001001.png",
    ]
    assert parquet.ParquetFile(tmp_path / "out" / "index.parquet").num_row_groups == 2


def test_the_bar_is_of_the_first_process_alone(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tqdm as bars

    from t2i_xattn.batch import running

    shown = []

    def bar(**options: Any) -> Any:
        shown.append((options["disable"], options["total"], options["initial"]))
        return bars.tqdm(**options)

    monkeypatch.setattr(running, "tqdm", bar)
    prompts = prompts_of(tmp_path, 3)
    for rank in (0, 1):
        run_here(prompts, tmp_path / "out", pipe, process=Process(rank, 2, "cpu"))
    assert shown == [(None, 2, 0), (True, 1, 0)]


def test_freed_memory_is_given_back_on_the_way(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = []

    def given_back() -> None:
        times.append(1)
        give_back()

    monkeypatch.setattr("t2i_xattn.batch.running.EVERY", 2)
    monkeypatch.setattr("t2i_xattn.batch.running.give_back", given_back)
    assert run_here(prompts_of(tmp_path, 5), tmp_path / "out", pipe).done == 5
    assert len(times) == 2
