"""The door of the reward server: who may come in, how many at a time, with how much.

It counts requests before it reads them, so that a flood costs neither memory nor time, and reads them with a deadline,
so that who sends slowly does not keep a place. Who sends no token is sent away before that; only health and schemas
need none. It is one token for all and travels as it is: the server knows no users and encrypts nothing.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.responses import JSONResponse

from pgrpo_ray.config.serving import ServerSection
from pgrpo_ray.errors import OverloadError
from pgrpo_ray.reward_model.http_failures import explain, failure

OPEN = ("/health", "/docs", "/openapi.json")
"""What can be read without a token: probes send none, and a browser's address line cannot."""
BYTES_PER_CHARACTER = 6
"""In JSON at most, but for rare characters: an escaped one such as \\u00e9."""


class Door:
    """ASGI middleware before everything else: asks for the token, bounds the requests on their way, and size and
    arrival of each."""

    def __init__(self, app: Any, section: ServerSection, token: str | None):
        self._app = app
        self._token = None if token is None else token.encode()
        self._section = section
        self._inside = 0
        texts = 2 * section.max_items
        self._max_bytes = BYTES_PER_CHARACTER * texts * section.max_characters + 1024 * texts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not ((scope["method"] == "GET" and scope["path"] in OPEN) or self._knows(headers)):
            message = "Send the server's token in the header `Authorization: Bearer TOKEN`."
            await failure(401, "unauthorised", message, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if refusal := self._refusal(headers):
            await refusal(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._let_in(scope, receive, send)
        finally:
            self._inside -= 1

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return self._token is None or (scheme.lower() == b"bearer" and hmac.compare_digest(given, self._token))

    async def _let_in(self, scope: Any, receive: Any, send: Any) -> None:
        deadline_s = self._section.deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                body = await _read(receive)
        except TimeoutError:
            message = f"The body did not arrive within {deadline_s:g} s; nothing was done. Send less, or faster."
            # Closed, for the rest of the body may still come, and is no request.
            await failure(408, "slow_body", message, {"Connection": "close"})(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _refusal(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        if self._inside >= self._section.max_requests:
            return explain(
                OverloadError(f"{self._inside} requests are on their way already.", self._section.retry_after_s)
            )
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return failure(411, "length_required", "Send the body with Content-Length, not in chunks.")
        # Of thousands of digits CPython makes no integer, and 20 are too large already.
        size = int(length.lstrip(b"0")[:20] or 0)
        if size > self._max_bytes:
            return failure(413, "too_large", f"The body has {size} bytes, at most {self._max_bytes} are read.")
        return None


async def _read(receive: Any) -> bytes | None:
    """Return the whole body; None where the caller has left meanwhile."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _replay(body: bytes, receive: Any) -> Callable[[], Awaitable[Any]]:
    """Return a `receive` that gives the body, and then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return waiting.pop() if waiting else await receive()

    return receive_again
