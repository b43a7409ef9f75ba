"""Whatever is changed in a model's files, it is loaded or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_folders import TEXT, one_sentence, tiny_model
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import load_pipeline
from t2i_xattn.models.json_file import leaves, read_json

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.just([]),
    st.just({"a": [1]}),
)


@pytest.mark.slow
@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), junk=JUNK)
def test_whatever_a_config_says_it_is_loaded_or_refused_in_one_sentence(
    data: st.DataObject, junk: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tiny_model(tmp_path_factory.mktemp("model"))
    files = sorted(path for path in folder.rglob("*.json") if "vocab" not in path.name)
    path = data.draw(st.sampled_from(files), label="file")
    config = json.loads(path.read_text("utf-8"))
    key = data.draw(st.sampled_from(sorted(config)), label="key")
    path.write_text(json.dumps(config | {key: junk}), "utf-8")
    try:
        load_pipeline(folder)
    except UserError as error:
        one_sentence(error)


@pytest.mark.slow
@settings(max_examples=30, derandomize=True, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_a_flipped_byte_of_a_header_is_told_or_changes_no_shape(place: float, byte: int) -> None:
    """Over all of the header, and some of the numbers behind it."""
    with TemporaryDirectory() as name:
        folder = tiny_model(Path(name))
        data = bytearray((folder / TEXT).read_bytes())
        data[int(place * min(len(data), 6000))] ^= byte
        (folder / TEXT).write_bytes(data)
        try:
            pipe = load_pipeline(folder)
        except UserError as error:
            one_sentence(error)
        else:
            assert all(each.isfinite().all() for each in pipe.text_encoder.parameters())


@settings(max_examples=200, derandomize=True, deadline=None)
@given(data=st.one_of(st.binary(max_size=40), st.text('{}[]",:1aé\\ \n', max_size=40)))
def test_any_bytes_are_one_object_or_one_sentence(
    data: bytes | str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    try:
        found = read_json(path, "any.json")
    except UserError as error:
        one_sentence(error)
    else:
        assert found == json.loads(path.read_bytes())
        assert all(isinstance(keys, tuple) for keys, _ in leaves(found))
