"""The app's page on its port: what its buttons give, and what is not handed out."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import make_pipeline
from read_page import Read
from t2i_xattn.app.bounds import Bounds
from t2i_xattn.app.studio import Studio
from t2i_xattn.asking.request import Request
from t2i_xattn.errors import UserError

pytest.importorskip("gradio", reason="no Gradio: pip install '.[app]'")

PROMPT = "a red circle, blue"
ASKED = Request(PROMPT, seed=3, steps=2)
BOUNDS = Bounds(side=128, steps=9, text=200)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(make_pipeline(), bounds=BOUNDS)


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    from t2i_xattn.app.serving import served

    with served(studio) as address:
        yield address.rstrip("/")


def test_a_mistake_is_escaped_and_the_page_stays(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i_xattn.app import handlers

    said: list[str] = []
    monkeypatch.setattr("gradio.Warning", lambda text, **_: said.append(text))
    asking = handlers.Handlers(studio, tmp_path)
    browser: Any = SimpleNamespace(session_hash="abc")
    shown = asking.paint(browser, handlers.PROGRESS, "<b>&", 0, "<b>", 5, 0, 0, "")
    assert said == [
        "expected a number as steps, but came &#x27;&lt;b&gt;&#x27;; type one",
    ]
    assert len(shown) == 6
    assert all("value" not in each for each in shown)


def test_files_are_of_a_session_s_last_run(studio: Studio, tmp_path: Path) -> None:
    from t2i_xattn.app.handlers import PROGRESS, Handlers

    asking = Handlers(studio, tmp_path)
    browser: Any = SimpleNamespace(session_hash="../x")
    for seed in (0, 1):
        source, page, *files, command = asking.paint(browser, PROGRESS, PROMPT, seed, 2)
    assert sorted(each.name for each in tmp_path.rglob("*") if each.is_file()) == [
        "picture.png",
        "trace.safetensors",
        "words.json",
    ]
    assert [
        Path(each.value["path"] if isinstance(each.value, dict) else each.value).name
        for each in files
    ] == ["picture.png", "trace.safetensors", "words.json"]
    assert "--seed=1" in command.value
    assert source.words == ("a", "red", "circle", "blue")
    assert Read(page).prompt == PROMPT
    asking.leave(browser)
    assert not list(tmp_path.rglob("*.png"))


def test_boxes_that_are_drawn() -> None:
    from gradio import EventData

    from t2i_xattn.app.handlers import add_box

    def drawn(**data: Any) -> EventData:
        return EventData(None, data)

    one = add_box("", drawn(word="red", box=[0, 0.25, 0.5, 1]))
    assert one == "red=0.000,0.250,0.500,1.000"
    two = add_box(one, drawn(word="blue\n", box=[0, 0, 1, 1]))
    assert two.splitlines()[1] == "blue=0.000,0.000,1.000,1.000"
    assert add_box(two, drawn(word="red", box=[0, 0, 1, 1])).splitlines()[1].startswith("red=")


def test_nothing_else_is_handed_out(address: str) -> None:
    status, headers = _get(f"{address}/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    for path in (
        f"gradio_api/file={Path(__file__)}",
        "gradio_api/file=/etc/hostname",
        f"gradio_api/file={Path.cwd() / 'pyproject.toml'}",
        "docs",
        "openapi.json",
        "monitoring",
        "gradio_api/runs",
    ):
        assert _get(f"{address}/{path}")[0] in (403, 404), path
    # A name elsewhere that leads to this machine (DNS rebinding).
    assert _get(f"{address}/", Host="elsewhere.example")[0] == 400


def test_no_request_has_a_name(address: str) -> None:
    with urllib.request.urlopen(f"{address}/gradio_api/info") as answer:
        assert answer.read() == b'{"named_endpoints":{},"unnamed_endpoints":{}}'


def test_a_full_queue_says_so(studio: Studio, tmp_path: Path) -> None:
    from t2i_xattn.app.serving import served

    few = Studio(studio.pipe, bounds=Bounds(side=128, steps=9, text=200, queue=1))

    def ask(address: str, name: str) -> tuple[int, str]:
        with urllib.request.urlopen(f"{address}config") as answer:
            functions = json.load(answer)["dependencies"]
        # The first that waits in the queue is the button to paint.
        number = next(each["id"] for each in functions if each["queue"] and each["inputs"])
        data = [PROMPT, 0, 1, 5, 0, 0, ""]
        body = {"data": data, "fn_index": number, "session_hash": name, "trigger_id": None}
        request = urllib.request.Request(
            f"{address}gradio_api/queue/join",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    with served(few) as address, few._one_at_a_time:  # one runs for as long as that
        answers = [ask(address, name) for name in "abcdef"]
    assert answers[0][0] == 200
    status, told = answers[-1]
    sentence = "expected at most 1 requests that wait, but as many wait already; try again"
    assert (status, sentence in told) == (429, True), answers


def test_gradio_s_own_settings_do_not_count(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i_xattn.app.serving import served

    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    theirs = {"GRADIO_ALLOWED_PATHS": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "True"}
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with served(studio) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"]).parent
        assert folder.is_dir()
        url = f"{address}gradio_api/file={tmp_path / 'mine.txt'}"
        assert _get(url)[0] == 403
    assert not folder.exists()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", "port {port}, but: Address already in use; choose another --port"),
        ("no.such.host.invalid", "but: .*; .*leave --host out"),
        ("192.0.2.1", "but: Cannot assign requested address"),
        ("a" * 300, "leave --host out"),
    ],
)
def test_where_nothing_can_listen(studio: Studio, address: str, host: str, said: str) -> None:
    from t2i_xattn.app.serving import served

    port = int(address.rpartition(":")[2])
    with pytest.raises(UserError, match=said.format(port=port)), served(studio, host, port):
        pass


def test_the_first_free_port_is_taken(studio: Studio, address: str) -> None:
    from t2i_xattn.app.serving import served

    with served(studio) as another:
        assert another.rstrip("/") != address
        assert _get(another)[0] == 200


def _get(url: str, **headers: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers
