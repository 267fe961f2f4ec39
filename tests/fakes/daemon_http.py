"""A daemon as the CLI sees it: a Unix socket that answers HTTP, with a small ledger behind it.

Answers are built from the wire's own messages, so their shapes are right. `script` replaces the answer of a
path by a fixed one, which may be late, cut off, chunked or no HTTP at all. `tests/ctl/test_fake_daemon.py`
holds it to the contract.
"""

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ambientd.wire import enums, routes
from ambientd.wire import messages as m
from ambientd.wire.errors import ERRORS

STARTED = "2026-11-20T15:28:11.000Z"
HEALTH_HEADER = "X-Ambient-Health"


class Seen(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """One answer. `raw` is sent as it is, instead of everything else; `delay` is in seconds."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    raw: bytes | None = None
    delay: float = 0.0
    chunked: bool = False


def refused(code: str, message: str, details: tuple[m.ErrorDetail, ...] = ()) -> Reply:
    """The error envelope of `code`."""
    body = m.ErrorEnvelope(m.ErrorBody(code, message, list(details), "req-1"))
    return Reply(ERRORS[code].status, msgspec.json.encode(body))


def summary(session_id: str, **changes: Any) -> m.SessionSummary:
    """A row of the ledger: a running session unless told otherwise."""
    row = m.SessionSummary(
        session_id=session_id,
        agent_id="tony",
        agent_label="Tony",
        model_id="opus-5",
        status=enums.SessionStatus.RUNNING,
        started_at=STARTED,
        runtime_ms=0,
        artifact_count=0,
        ingested_at=STARTED,
        running_since=STARTED,
        task_title="Refactor the ingest gate",
    )
    return msgspec.structs.replace(row, **changes)


def status_document(health: str = "ok") -> m.StatusDocument:
    """A node with one agent."""
    return m.StatusDocument(
        schema=routes.SCHEMA_STATUS,
        generated_at="2026-11-20T15:40:03.120Z",
        health=enums.Health(health),
        node=m.NodeStatus("edge-07", "sha256:ab", "auto", "0.1.0", 1183, "production", STARTED, 712),
        heartbeat=m.HeartbeatStatus(True, 1842, 60.0, 0, 1842),
        ledger=m.LedgerStatus(ready=True, sessions=2),
        sessions=m.SessionsStatus(running=1, queued=0),
        intake=m.IntakeStatus(),
        agents=[
            m.AgentView(
                "tony", "Tony", enums.AgentStatus.RUNNING, STARTED, "active session", task="Gate", running=1
            ),
            m.AgentView("bruce", "Bruce", enums.AgentStatus.IDLE, None, "no session"),
        ],
        problems=[],
    )


class FakeDaemon:
    """Answers on `socket_path` between `__enter__` and `__exit__`; state may be changed at any time."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.health = "ok"
        self.screen = "● edge-07  running            ambientd 0.1.0 · up 11m52s · pid 1183\n"
        self.sessions: dict[str, m.SessionSummary] = {}
        self.events: dict[str, list[m.SessionEvent]] = {}
        self.dies_when_told = True
        self.script: dict[str, Reply | list[Reply]] = {}
        self.seen: list[Seen] = []
        self.changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._listener.bind(self.socket_path)
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Goes away with its socket. Repeating it is harmless."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with self.changed:
            self.changed.notify_all()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        Path(self.socket_path).unlink(missing_ok=True)

    def say(self, session_id: str, kind: str, payload: dict[str, Any]) -> None:
        """Appends an event and wakes whoever polls for it."""
        with self.changed:
            events = self.events.setdefault(session_id, [])
            seq = len(events) + 1
            events.append(
                m.SessionEvent(
                    f"{session_id}:{seq}", session_id, seq, enums.EventType(kind), STARTED, payload
                )
            )
            self.changed.notify_all()

    def end(self, session_id: str, status: str, **changes: Any) -> None:
        """Closes a session, with its last event."""
        row = self.sessions[session_id]
        self.say(session_id, "state_transition", {"from": row.status.value, "to": status})
        with self.changed:
            self.sessions[session_id] = msgspec.structs.replace(
                row,
                status=enums.SessionStatus(status),
                ended_at="2026-11-20T15:40:00.000Z",
                runtime_ms=709_000,
                **changes,
            )
            self.changed.notify_all()

    # --- the socket

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            link.settimeout(10)
            self._start(self._serve, link)

    def _serve(self, link: socket.socket) -> None:
        with link:
            try:
                seen = _read(link)
                self.seen.append(seen)
                reply = self._scripted(seen.path) or self._answer(seen)
                self._stopping.wait(reply.delay)
                link.sendall(_bytes(reply))
            except OSError:
                return

    def _scripted(self, path: str) -> Reply | None:
        found = self.script.get(path)
        if isinstance(found, list):
            return found.pop(0) if found else None
        return found

    # --- the routes

    def _answer(self, seen: Seen) -> Reply:
        if seen.path == routes.STATUS:
            return self._status(seen)
        if seen.path == routes.SPAWN:
            return self._spawn(msgspec.json.decode(seen.body, type=m.SpawnRequest))
        if seen.path == routes.KILL:
            return self._kill(msgspec.json.decode(seen.body, type=m.KillRequest))
        if seen.path == routes.MIGRATIONS:
            row = m.MigrationRow(1, "ledger", STARTED)
            return _json(m.MigrationsView(routes.SCHEMA_MIGRATIONS, 1, 1, [row]))
        if seen.path == routes.LEDGER:
            return self._page(seen.query)
        if seen.path.startswith(routes.LEDGER + "/"):
            return self._one(seen)
        return refused("NOT_FOUND", "no such path")

    def _status(self, seen: Seen) -> Reply:
        health = ((HEALTH_HEADER, self.health),)
        if seen.headers.get("accept") == "text/plain":
            text = self.screen.splitlines()[0] if seen.query.get("short") == "1" else self.screen
            text = text.replace("●", "*").replace("·", "-") if seen.query.get("ascii") == "1" else text
            text = f"\x1b[32m{text}\x1b[0m" if seen.query.get("color") == "1" else text
            return Reply(200, text.encode(), health, "text/plain; charset=utf-8")
        return Reply(200, msgspec.json.encode(status_document(self.health)), health)

    def _spawn(self, request: m.SpawnRequest) -> Reply:
        if request.agent_id == "nobody":
            return refused("NOT_FOUND", "no agent is called 'nobody'")
        session_id = f"ses_{len(self.sessions):026d}"
        queued = enums.SessionStatus.QUEUED
        row = summary(session_id, status=queued, running_since=None, task_text=request.prompt)
        with self.changed:
            self.sessions[session_id] = row
            self.changed.notify_all()
        return _json(m.SpawnAnswer(True, session_id, queued, 7))

    def _resolve(self, fragment: str) -> m.SessionSummary | Reply:
        found = [
            row for key, row in self.sessions.items() if key.startswith(fragment) or key.endswith(fragment)
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            return refused("NOT_FOUND", f"no session has the id '{fragment}'")
        details = tuple(m.ErrorDetail(row.session_id, "candidate", "tony  running") for row in found)
        return refused("AMBIGUOUS", f"'{fragment}' fits {len(found)} sessions; give more of the id", details)

    def _kill(self, request: m.KillRequest) -> Reply:
        row = self._resolve(request.session_id)
        if isinstance(row, Reply):
            return row
        if row.status in enums.TERMINAL:
            return refused("NOTHING_RUNS", f"session {row.session_id} has already ended: {row.status}")
        queued = row.status is enums.SessionStatus.QUEUED
        if queued:
            self.end(row.session_id, "cancelled")
        elif self.dies_when_told:
            self.end(row.session_id, "killed")
        return _json(m.KillAnswer(True, row.session_id, "cancelled" if queued else "sent", queued, 5521))

    def _page(self, query: dict[str, str]) -> Reply:
        rows = sorted(self.sessions.values(), key=lambda row: row.session_id, reverse=True)
        if query.get("status"):
            rows = [row for row in rows if row.status in query["status"].split(",")]
        cursor = query.get("cursor", "")
        after = int(cursor) if cursor.isdigit() else 0
        limit = int(query.get("limit", "50"))
        following = str(after + limit) if after + limit < len(rows) else None
        return _json(m.LedgerPage(len(rows), rows[after : after + limit], following))

    def _one(self, seen: Seen) -> Reply:
        fragment, _, rest = unquote(seen.path.removeprefix(routes.LEDGER + "/")).partition("/")
        row = self._resolve(fragment)
        if isinstance(row, Reply):
            return row
        if rest == "events":
            return self._events(row.session_id, seen.query)
        return _json(m.SessionDetail(row, self.events.get(row.session_id, [])))

    def _events(self, session_id: str, query: dict[str, str]) -> Reply:
        after, limit = int(query.get("after", "0")), int(query.get("limit", "200"))

        def is_news() -> bool:
            return (
                self._stopping.is_set()
                or self.sessions[session_id].status in enums.TERMINAL
                or len(self.events.get(session_id, [])) > after
            )

        with self.changed:
            self.changed.wait_for(is_news, timeout=float(query.get("wait", "0")))
            found = self.events.get(session_id, [])[after : after + limit]
            row = self.sessions[session_id]
            whole = after + len(found) >= len(self.events.get(session_id, []))
        return _json(m.EventsPage(session_id, row.status, whole and row.status in enums.TERMINAL, found))


def _json(value: Any) -> Reply:
    return Reply(200, msgspec.json.encode(value))


def _read(link: socket.socket) -> Seen:
    raw = b""
    while b"\r\n\r\n" not in raw:
        piece = link.recv(65536)
        if not piece:
            raise ConnectionResetError
        raw += piece
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += link.recv(65536)
    method, target, _ = first.split(" ")
    parts = urlsplit(target)
    return Seen(method, parts.path, dict(parse_qsl(parts.query, strict_parsing=False)), headers, body)


def _bytes(reply: Reply) -> bytes:
    if reply.raw is not None:
        return reply.raw
    lines = [f"HTTP/1.1 {reply.status} X", f"Content-Type: {reply.content_type}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    if not reply.chunked:
        lines.append(f"Content-Length: {len(reply.body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body
    lines.append("Transfer-Encoding: chunked")
    half = len(reply.body) // 2 or 1
    pieces = [reply.body[:half], reply.body[half:]]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + chunks + b"0\r\n\r\n"


@contextmanager
def serving() -> Iterator[FakeDaemon]:
    """A fake daemon on a short path of its own."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="actl-") as folder,
        FakeDaemon(folder + "/d.sock") as daemon,
    ):
        yield daemon
