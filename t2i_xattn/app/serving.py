"""The page on a port of this machine, and nothing else than it."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_xattn.errors import UserError, shown

if TYPE_CHECKING:
    from t2i_xattn.app.studio import Studio

LOCAL = ("127.0.0.1", "localhost")
PORTS = range(7860, 7960)
"""Of which the first free one is taken, where none is named."""

POLICY = {
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""What browsers hold the page to: nothing is asked of any other machine."""


@contextmanager
def served(studio: Studio, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """The page of a studio, for as long as the context lasts; gives its address.

    What is uploaded and written lies in a folder that goes with it.

    Args:
        studio: whom the page asks.
        host: the address to listen at; `127.0.0.1` is reached from this machine alone, and
            `0.0.0.0` from all that reach it.
        port: the port; None: the first free one of `PORTS`.

    Raises:
        UserError: if Gradio is not installed, or nothing can listen there.
    """
    with tempfile.TemporaryDirectory(prefix="t2i-xattn-app-") as folder, _own_settings(folder):
        check_installed()
        from t2i_xattn.app.handlers import Handlers
        from t2i_xattn.app.layout import page
        from t2i_xattn.app.theme import DARK, readable_theme

        port = free_port(host, port)
        blocks = page(Handlers(studio, Path(folder) / "runs"))
        blocks.queue(max_size=studio.bounds.queue, default_concurrency_limit=1, api_open=False)
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            show_error=False,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            allowed_paths=[],
            max_file_size=studio.bounds.upload,
            state_session_capacity=100,
            theme=readable_theme(),
            css=DARK,
            app_kwargs=_app(host, studio.bounds.queue),
        )
        try:
            yield address
        finally:
            blocks.close(verbose=False)


def check_installed() -> None:
    """Raises `UserError` if Gradio is not installed."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            "expected Gradio to be installed for the app, but it is not; pip install "
            "'t2i-xattn[app]', or pip install gradio"
        ) from error


def free_port(host: str, port: int | None) -> int:
    """The port, or the first free one.

    Raises:
        UserError: if nothing can listen there.
    """
    reason = ""
    for each in PORTS if port is None else [port]:
        try:
            if not host.strip():  # which would mean every address of the machine
                raise ValueError
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, each, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
            return each
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "there is no such name"
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                break
    ports = f"port {port}" if port else f"a port from {PORTS[0]} to {PORTS[-1]}"
    raise UserError(
        f"expected to listen at {shown(host)}, {ports}, but: {reason}; choose another --port, or "
        "leave --host out"
    )


def _app(host: str, queue: int) -> dict[str, Any]:
    """Of the server: no pages of its interface, the policy, a sentence where the queue is full, and
    on this machine alone no names that lead here from elsewhere (DNS rebinding)."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from t2i_xattn.app.full_queue import FullQueue

    layers = [Middleware(_Policy), Middleware(FullQueue, most=queue)]
    if host in LOCAL:
        layers.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL)))
    return {"docs_url": None, "redoc_url": None, "openapi_url": None, "middleware": layers}


class _Policy:
    """Adds the policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in POLICY.items()]
                message = message | {"headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self.app(scope, receive, sent)


@contextmanager
def _own_settings(folder: str) -> Iterator[None]:
    """Gradio reads settings from the environment (folders that it hands out, tunnels to elsewhere):
    for as long as it serves, none but these."""
    # The last one it sets by itself, and leaves behind.
    ours = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": f"{folder}/cache",
        "HF_HUB_DISABLE_TELEMETRY": "True",
    }
    theirs = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("GRADIO_") or name in ours
    }
    for name in theirs:
        del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ.update(theirs)
