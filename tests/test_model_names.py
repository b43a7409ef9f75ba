"""What a model may be called, and when the hub is asked for it."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import pytest
import torch

from model_folders import change, one_sentence, tiny_model
from t2i_xattn.errors import UserError
from t2i_xattn.models.default import WORLD, load_pipeline

INDEX = "model_index.json"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom the network was asked for; it answers nobody."""
    names: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> None:
        names.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return names


@pytest.mark.parametrize("name", ["World", "WORLD"])
def test_the_box_in_capitals_is_not_asked_of_the_hub(
    name: str, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"but came '{name}', .*; write world$") as raised:
        load_pipeline(name)
    one_sentence(raised.value)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["no such model", "a/b/c", "", "-x", "a//b", "name?", "a\\b", "a" * 5000]
)
def test_what_is_no_name_is_not_asked_of_the_hub(name: str, asked: list[Any]) -> None:
    with pytest.raises(UserError) as raised:
        load_pipeline(name)
    one_sentence(raised.value)
    assert asked == []


@pytest.mark.parametrize("name", ["someone/some-model", "somemodel"])
@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_a_name_is_one_sentence(
    name: str, offline: bool, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match=f"'{name}'.* no such folder and the hub gave") as raised:
        load_pipeline(name)
    one_sentence(raised.value)
    assert not (offline and asked)
    assert len(asked) <= 3  # no long row of tries


def in_the_cache(folder: Path, into: Path) -> Path:
    """The folder as the hub's cache keeps one: links to blobs beside it."""
    snapshot, blobs = into / "models--a--b" / "snapshots" / "1234", into / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(each for each in folder.rglob("*") if each.is_file())):
        shutil.copy(path, blobs / str(number))
        linked = snapshot / path.relative_to(folder)
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.symlink_to(os.path.relpath(blobs / str(number), linked.parent))
    return snapshot


def test_a_model_of_the_hub_is_checked_where_it_was_fetched_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = in_the_cache(tiny_model(tmp_path), tmp_path)
    told: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        told.update(options, name=name)
        return str(snapshot)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    pipe = load_pipeline("a/b", revision="main", dtype=torch.float16)
    assert pipe.config._name_or_path == "a/b"
    assert pipe.unet.dtype is torch.float16
    assert (told["name"], told["revision"]) == ("a/b", "main")
    assert told["use_safetensors"] is True
    assert told["trust_remote_code"] is False
    (snapshot / INDEX).unlink()
    shutil.copy(WORLD / INDEX, snapshot)
    change(snapshot, INDEX, unet=["evil_module", "Evil"])
    with pytest.raises(UserError, match="no other code is run"):
        load_pipeline("a/b")
