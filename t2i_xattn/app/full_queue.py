"""A queue that is full says so in a sentence of the app's."""

from __future__ import annotations

import json
from typing import Any

_JOINING = "/queue/join"


class FullQueue:
    """A layer of the server: where Gradio refuses a request since too many wait, the answer says
    how many may, and what to do.

    Gradio's page knows that refusal by its status (503), and has words of its own for it; it shows
    what comes with another one (429).
    """

    def __init__(self, app: Any, most: int) -> None:
        """
        Args:
            app: the layer below.
            most: requests that wait.
        """
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith(_JOINING):
            await self.app(scope, receive, send)
            return
        refusal: dict[str, Any] | None = None
        body = b""

        async def sent(message: Any) -> None:
            nonlocal refusal, body
            if message["type"] == "http.response.start" and message["status"] == 503:
                refusal = message
                return
            if refusal is None:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            if b"Queue is full" in body:
                refusal, body = self._told(refusal)
            await send(refusal)
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, sent)

    def _told(self, refusal: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        sentence = (
            f"expected at most {self.most} requests that wait, but as many wait already; try again "
            "in a while, or start the app with a larger --max-queue"
        )
        body = json.dumps({"detail": sentence}).encode()
        others = [each for each in refusal["headers"] if each[0].lower() != b"content-length"]
        headers = [*others, (b"content-length", str(len(body)).encode())]
        return refusal | {"status": 429, "headers": headers}, body
