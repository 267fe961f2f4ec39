"""Another client of the gateway: acts as its other users do, and notes what the gateway itself says and when.

Only what both versions know: no device, protocol 3 or 4.
"""

import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

Json = dict[str, Any]
CALL_SEC = 30.0
LARGEST = 32 * 2**20
SCOPES = ["operator.read", "operator.write", "operator.admin"]


class RefusedError(Exception):
    """The gateway's own words."""


class Seen(NamedTuple):
    """A row that the gateway told, with the monotonic second at which it arrived."""

    at: float
    session_id: str
    status: str
    active: bool | None


def call(url: str, token: str, method: str, params: Json | None = None) -> Any:
    """One request on a connection of its own. Raises RefusedError, and OSError when there is no gateway."""

    async def once() -> Any:
        with trio.fail_after(CALL_SEC):
            async with _connected(url, token) as link:
                return await _ask(link, method, params or {})

    try:
        return trio.run(once)
    except* (HandshakeError, ConnectionClosed) as group:
        raise OSError(f"no gateway at {url}") from group


class Watcher:
    """Listens for changes of sessions in a thread of its own; `seen` grows."""

    def __init__(self, url: str, token: str) -> None:
        self.seen: list[Seen] = []
        self._url, self._token = url, token
        self._scope = trio.CancelScope()
        self._ready = threading.Event()
        self._trio: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._listen,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(CALL_SEC), "the gateway does not let another client listen"
        return self

    def __exit__(self, *_: object) -> None:
        if self._trio is not None and self._thread.is_alive():
            try:
                self._trio.run_sync_soon(self._scope.cancel)
            except trio.RunFinishedError:
                return
            self._thread.join(5)

    def when(self, session_id: str, status: str, since: float = 0.0) -> float | None:
        """When the session was first told to have this status."""
        for row in list(self.seen):
            if row.session_id == session_id and row.status == status and row.at >= since:
                return row.at
        return None

    async def _listen(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        with self._scope:
            try:
                async with _connected(self._url, self._token) as link:
                    await _ask(link, "sessions.subscribe", {})
                    self._ready.set()
                    while True:
                        self._note(json.loads(await link.get_message()))
            except ConnectionClosed:
                return

    def _note(self, frame: Json) -> None:
        row = (
            (frame.get("payload") or {}).get("session") if frame.get("event") == "sessions.changed" else None
        )
        if isinstance(row, dict) and "sessionId" in row:
            at, active = time.monotonic(), row.get("hasActiveRun")
            self.seen.append(Seen(at, row["sessionId"], str(row.get("status") or ""), active))


@asynccontextmanager
async def _connected(url: str, token: str) -> AsyncIterator[WebSocketConnection]:
    async with open_websocket_url(url, max_message_size=LARGEST, disconnect_timeout=2) as link:
        await link.get_message()  # the challenge, which only devices answer
        params = {
            "minProtocol": 3,
            "maxProtocol": 4,
            "client": {"id": "gateway-client", "mode": "backend", "version": "0", "platform": "linux"},
            "role": "operator",
            "scopes": SCOPES,
            "caps": [],
            "commands": [],
            "permissions": {},
            "locale": "en-US",
            "userAgent": "live-test",
            "auth": {"token": token},
        }
        await _ask(link, "connect", params)
        yield link


async def _ask(link: WebSocketConnection, method: str, params: Json) -> Any:
    await link.send_message(json.dumps({"type": "req", "id": method, "method": method, "params": params}))
    while True:
        frame = json.loads(await link.get_message())
        if frame.get("type") == "res" and frame.get("id") == method:
            if not frame.get("ok"):
                error = frame.get("error") or {}
                raise RefusedError(f"{error.get('code')}: {error.get('message')}")
            return frame.get("payload")
