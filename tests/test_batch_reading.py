"""Files of prompts: what they say, whatever their form, and mistakes by the number of the line."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_xattn.batch.line import KEYS, Defaults, Line
from t2i_xattn.batch.plan import AHEAD, batches, shape_of
from t2i_xattn.batch.reading import read_lines, survey
from t2i_xattn.batch.writing import record_of
from t2i_xattn.errors import UserError
from t2i_xattn.traces.regions import Box

FAST = settings(max_examples=60, derandomize=True, deadline=None)


def read(data: str | bytes, name: str = "prompts.jsonl", **defaults: Any) -> list[Line]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        survey(path, Defaults(**defaults))
        return list(read_lines(path, Defaults(**defaults)))


def test_a_line_says_what_it_wants_and_the_options_the_rest() -> None:
    full = {
        "prompt": "a red cat",
        "negative": "dull",
        "seed": 9,
        "steps": 3,
        "guidance": 2,
        "size": "160x128",
        "words": ["red", "cat"],
        "id": "first",
        "replace": {"cat": "dog"},
        "weight": {"red": 1.5},
        "region": {"a = star": [0, 0, 1, 0.5]},
    }
    one, other = read(
        json.dumps(full) + '\n{"prompt": "blue", "seed": null, "words": "blue, red"}\n', seed=100
    )
    request = one.request
    assert (request.prompt, request.negative, request.seed) == ("a red cat", "dull", 9)
    assert (request.steps, request.guidance, request.size) == (3, 2.0, (160, 128))
    assert (one.id, one.words, one.number, one.edited) == ("first", ("red", "cat"), 1, True)
    assert one.asked.target == "a red dog"
    assert one.asked.weights == {"red": 1.5}
    assert one.asked.regions == {"a = star": Box(0, 0, 1, 0.5)}
    assert json.loads(one.edits or "") == {
        key: full[key] for key in ("replace", "weight", "region")
    }
    assert (other.request.seed, other.request.steps, other.id) == (102, 25, None)
    assert (other.words, other.edits) == (("blue", "red"), None)


def test_edits_as_the_command_line_takes_them() -> None:
    line = '{"prompt": "a cat", "replace": "cat=dog", "weight": ["a=2", "dog=0.5"]}'
    (found,) = read(line)
    assert found.asked.replace == {"cat": "dog"}
    assert found.asked.weights == {"a": 2.0, "dog": 0.5}


def test_csv() -> None:
    lines = [
        "id,prompt,seed,guidance,size,words,weight,replace",
        'x,"a red, ""bright""\r\ncat",7,1.5,128,"red, cat","{""red"": 2}",',
        "",
        ",blue,,,,,blue=0.5,blue=red",
    ]
    one, other = read("\r\n".join(lines), "prompts.csv")
    assert one.request.prompt == 'a red, "bright"\r\ncat'
    assert (one.id, one.request.seed, one.request.guidance) == ("x", 7, 1.5)
    assert (one.request.size, one.words, one.asked.weights) == (
        (128, 128),
        ("red", "cat"),
        {"red": 2.0},
    )
    assert (one.number, other.number) == (2, 5)
    assert (other.id, other.request.seed, other.asked.replace) == (None, 5, {"blue": "red"})


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FIELDS = st.fixed_dictionaries(
    {"prompt": TEXTS},
    optional={
        "negative": TEXTS,
        "seed": st.integers(-(2**63) + 1, 2**63 - 1),
        "steps": st.integers(-5, 2000),
        "guidance": st.floats(allow_nan=False, allow_infinity=False),
    },
)


def shown(line: Line) -> dict[str, Any]:
    request = line.request
    return {key: getattr(request, key) for key in ("prompt", "negative", "seed", "steps")} | {
        "guidance": request.guidance
    }


@FAST
@given(
    st.lists(st.tuples(FIELDS, st.integers(0, 2)), min_size=1, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_json_lines_of_any_form(
    given: list[tuple[dict[str, Any], int]], end: str, mark: bool, last: bool, ascii: bool
) -> None:
    rows: list[str] = []
    numbers = []
    for fields, empty in given:
        rows += ["  "] * empty + [json.dumps(fields, ensure_ascii=ascii)]
        numbers.append(len(rows))
    data = "﻿" * mark + end.join(rows) + end * last
    found = read(data, seed=5)
    assert [line.number for line in found] == numbers
    for line, (fields, _) in zip(found, given, strict=True):
        expected = {"negative": None, "seed": 5 + line.number, "steps": 25, "guidance": 5.0}
        assert shown(line) == expected | fields


@FAST
@given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=6), st.booleans())
def test_csv_of_any_texts(texts: list[str], mark: bool) -> None:
    # NUL is no character of a CSV file, which the reader tells.
    texts = [text.replace("\0", "") or "x" for text in texts]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerows([["prompt", "id"], *([text, n] for n, text in enumerate(texts))])
    found = read("﻿" * mark + table.getvalue(), "p.csv")
    assert [line.request.prompt for line in found] == texts
    assert [line.id for line in found] == [str(n) for n in range(len(texts))]


@FAST
@given(st.lists(TEXTS, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_a_prompt_a_line(texts: list[str], end: str) -> None:
    rows = [text.replace("\n", " ") for text in ["red", *texts]]
    found = read(end.join(rows), "p.txt")
    kept = [(n, row.strip()) for n, row in enumerate(rows, 1) if row.strip()]
    assert [(line.number, line.request.prompt) for line in found] == kept


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"promt": "red"}', "keys of prompt, .* in line 3 .*'promt' \\(did you mean 'prompt'"),
        ('{"seed": 3}', "a 'prompt' in line 3 of the prompts, but it has none"),
        ('{"prompt": 3}', "a text as 'prompt' in line 3 of the prompts, but came 3"),
        ('{"prompt": "\\ud800"}', "a text as 'prompt' in line 3"),
        ('{"prompt": "red", "seed": "3"}', "a whole number as 'seed' in line 3 .*came '3'"),
        ('{"prompt": "red", "seed": 3.5}', "a whole number as 'seed' in line 3"),
        ('{"prompt": "red", "seed": true}', "a whole number as 'seed' in line 3"),
        ('{"prompt": "red", "seed": 9223372036854775808}', "a whole number as 'seed' in line 3"),
        ('{"prompt": "red", "guidance": "much"}', "a number as 'guidance' in line 3"),
        ('{"prompt": "red", "guidance": NaN}', "an object like .* in line 3 .*NaN is no number"),
        ('{"prompt": "red", "guidance": 1' + "0" * 400 + "}", "a number as 'guidance' in line 3"),
        ('{"prompt": "red", "size": "big"}', "--size like 128 .*'big' \\(in line 3"),
        ('{"prompt": "red", "size": [1, 2]}', "pixels like 128 or '160x128' as 'size' in line 3"),
        ('{"prompt": "red", "words": {"a": 1}}', "a list of texts, .* as 'words' in line 3"),
        ('{"prompt": "red", "weight": {"red": "x"}}', "an object of numbers, .* as 'weight' in"),
        ('{"prompt": "red", "weight": "red"}', "--weight word=…, but came 'red' \\(in line 3"),
        ('{"prompt": "red", "replace": {"red": ""}}', "an object of texts, .* as 'replace' in"),
        ('{"prompt": "red", "region": {"a": [0, 0, 1]}}', "in line 3"),
        ('{"prompt": "red", "region": {"a": [0, 0, 0, 1]}}', "in line 3"),
        ('{"prompt": "red", "prompt": "blue"}', "line 3 .*a key stands twice"),
        ('{"prompt": "red"', "an object like .* in line 3"),
        ("red circle", "an object like .* in line 3"),
        ("[1]", "an object like .* in line 3 of the prompts, but came \\[1\\]"),
        ("[" * 60_000, "an object like .* in line 3"),
        ('{"prompt": "blue", "id": "one"}', "an id of its own in line 3 .* line 1 has 'one' too"),
        ('{"prompt": "' + "red " * 20_000 + '"}', "lines of at most 65536 bytes, but line 3"),
    ],
)
def test_mistakes_by_the_number_of_the_line(line: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"(?s)^expected .*{sentence}") as told:
        read('{"prompt": "red", "id": "one"}\r\n\r\n' + line + "\n")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@settings(FAST, max_examples=200)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=3), st.sampled_from([True, False]))
def test_any_value_is_read_or_told_in_one_sentence(fields: dict[str, Any], as_csv: bool) -> None:
    fields = {"prompt": "red"} | fields
    table = io.StringIO()
    csv.writer(table).writerows([fields, [json.dumps(each) for each in fields.values()]])
    data = table.getvalue() if as_csv else json.dumps(fields)
    _read_or_told(data.encode(), "p.csv" if as_csv else "p.jsonl")


@settings(FAST, max_examples=200)
@given(
    st.binary(max_size=80) | st.text(st.sampled_from('{}[]",:\n\r prompt\\u1d\0'), max_size=40),
    st.sampled_from(["p.jsonl", "p.csv", "p.txt"]),
)
def test_any_bytes_are_read_or_told_in_one_sentence(data: bytes | str, name: str) -> None:
    _read_or_told(data.encode() if isinstance(data, str) else data, name)


def _read_or_told(data: bytes, name: str) -> None:
    told, lines = "", []
    try:
        lines = read(data, name)
    except UserError as error:
        told = str(error)
    assert bool(told) != bool(lines)
    assert "\n" not in told
    assert len(told) < 600
    # What was read can be written into the index.
    json.dumps([record_of(line, "world") for line in lines], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"red\n\xff\xfer\n", "p.txt", "UTF-8, but line 2"),
        ("red".encode("utf-16"), "p.txt", "UTF-8, but line 1"),
        (b"", "p.jsonl", "it has none"),
        (b"\r\n \n", "p.txt", "it has none"),
        (b"prompt\n", "p.csv", "it has none"),
        (b"red", "p.json", "ends with .jsonl, .ndjson, .csv, .txt, but came 'p.json'"),
        (b"promt,id\nred,1\n", "p.csv", "in line 1 .*'promt' \\(did you mean 'prompt'"),
        (b"prompt,prompt\nred,1\n", "p.csv", "in line 1 .*'prompt' twice"),
        (b"prompt,id\nred,1\nblue\n", "p.csv", "2 cells, as in the header in line 3"),
        (b'prompt,id\n"red\nblue",1,2\n', "p.csv", "2 cells, as in the header in line 2"),
        (b'prompt,id\nred,1\n"blue,2\n', "p.csv", "a row of CSV in line 3"),
        (b"prompt,seed\nred,x\n", "p.csv", "a whole number as 'seed' in line 2 .*'x'"),
        (b"prompt,weight\nred,{x\n", "p.csv", "--weight word=….* \\(in line 2"),
        (b"id,seed\na,1\n", "p.csv", "a 'prompt' in line 2"),
    ],
)
def test_mistakes_of_a_file(data: bytes, name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        read(data, name)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        survey(tmp_path / "none.txt", Defaults())
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        survey(tmp_path / "folder.txt", Defaults())


def test_the_hash_is_of_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    hashes = set()
    for data in (b"red\n", b"red", b"red\r\n", b"\nred\n"):
        path.write_bytes(data)
        hashes.add(survey(path, Defaults()).sha256)
    assert len(hashes) == 4


def test_a_file_is_not_read_ahead(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "red"}\n{"prompt": 3}\n', "utf-8")
    lines = read_lines(path, Defaults())
    assert next(lines).request.prompt == "red"
    with pytest.raises(UserError, match="in line 2"):
        next(lines)


@FAST
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": st.just("red"), "steps": st.integers(1, 5)},
            optional={"negative": st.just("x"), "weight": st.just("red=2")},
        ),
        max_size=60,
    ),
    st.integers(1, 5),
)
def test_batches_have_one_shape_and_every_line_once(rows: list[Any], size: int) -> None:
    lines = read("\n".join(json.dumps(row) for row in rows)) if rows else []
    taken: list[int] = []
    waiting: list[int] = []

    def counted() -> Any:
        for line in lines:
            taken.append(line.number)
            yield line

    found = []
    for batch in batches(counted(), size):
        found.append(batch)
        waiting.append(len(taken) - sum(map(len, found)))
    assert sorted(line.number for batch in found for line in batch) == [
        line.number for line in lines
    ]
    for batch in found:
        assert len({shape_of(line) for line in batch}) == 1
        assert len(batch) <= (1 if batch[0].edited else size)
    assert all(count < AHEAD * size for count in waiting)
