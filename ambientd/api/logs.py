"""The daemon's newest log lines (SystemPulse), and how much it logs."""

from collections.abc import Awaitable, Callable

import msgspec

from ambientd.api.router import Access, Answer, Audited, QueryParameter, Route, actor_of
from ambientd.config.schema import LogLevel
from ambientd.core.rejection import reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.http import Request, Response
from ambientd.ports.logbook import LogBook
from ambientd.wire.log_messages import LogLevelRequest, LogLevelView, LogsPage
from ambientd.wire.routes import (
    LOG_LEVEL,
    LOG_LEVEL_MAX_SEC,
    LOGS,
    LOGS_DEFAULT,
    LOGS_MAX,
    LONG_POLL_MAX_SEC,
)

LEVELS = tuple(level.value for level in LogLevel)
LOOK_EVERY_SEC = 0.25  # while somebody waits for a line; lines come from any thread

_QUERY = (
    QueryParameter(name="level", doc="Leave out what is less severe.", choices=LEVELS),
    QueryParameter(
        name="after", doc="Only lines after this `seq`, the oldest first.", kind="integer", minimum=0
    ),
    QueryParameter(name="limit", doc="Lines at most.", kind="integer", minimum=1, maximum=LOGS_MAX),
    QueryParameter(
        name="wait",
        doc="With `after`: seconds to wait for a line when there is none.",
        kind="integer",
        minimum=0,
        maximum=LONG_POLL_MAX_SEC,
    ),
)

Sleep = Callable[[float], Awaitable[object]]


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes of the log need. `sleep` pauses for some seconds."""

    book: LogBook
    clock: Clock
    sleep: Sleep
    audited: Audited


def log_routes(logs: Logs) -> tuple[Route, ...]:
    """`GET /api/logs`, and the level under `/api/v1/node/log-level`."""
    book = logs.book

    async def lines(request: Request) -> Answer:
        query = request.query
        level = LogLevel(query.get("level", LogLevel.DEBUG))
        after = int(query["after"]) if "after" in query else None
        limit = int(query.get("limit", LOGS_DEFAULT))
        found = book.recent(level=level, after=after, limit=limit)
        looks = int(int(query.get("wait", "0")) / LOOK_EVERY_SEC) if after is not None else 0
        while not found and looks > 0:
            await logs.sleep(LOOK_EVERY_SEC)
            looks -= 1
            found = book.recent(level=level, after=after, limit=limit)
        return Response(200, _page(found))

    def _page(found: list[bytes]) -> bytes:
        # Lines are kept as JSON, and a thousand of them are not read only to be written again.
        tail = f'],"lastSeq":{book.last_seq},"level":"{book.level}","generatedAt":"'
        return b'{"logs":[' + b",".join(found) + tail.encode() + rfc3339_ms(logs.clock.now()).encode() + b'"}'

    async def level(request: Request) -> Answer:
        return _view(book)

    async def change(request: Request, body: LogLevelRequest) -> Answer:
        actor, pid = actor_of(request.caller), request.caller.pid
        if body.level not in LEVELS:
            refused = reject(
                "VALIDATION_ERROR",
                "there is no such level",
                ("level", "enum", "must be one of " + ", ".join(LEVELS)),
            )
        elif body.for_sec is not None and not 1 <= body.for_sec <= LOG_LEVEL_MAX_SEC:
            refused = reject(
                "VALIDATION_ERROR",
                "the time is out of range",
                ("for_sec", "range", f"must be >= 1 and <= {LOG_LEVEL_MAX_SEC}"),
            )
        else:
            book.set_level(LogLevel(body.level), body.for_sec)
            logs.audited(action="log-level", actor=actor, pid=pid, set=body.level, for_sec=body.for_sec)
            return _view(book)
        logs.audited(action="log-level", actor=actor, pid=pid, refused=refused.code)
        return refused

    return (
        Route(
            method="GET",
            path=LOGS,
            handler=lines,
            summary="The newest lines of the daemon's log, oldest first.",
            query=_QUERY,
            answers={200: LogsPage},
        ),
        Route(
            method="GET",
            path=LOG_LEVEL,
            handler=level,
            summary="What is logged now, and until when.",
            answers={200: LogLevelView},
        ),
        Route(
            method="POST",
            path=LOG_LEVEL,
            handler=change,
            summary="Logs from another level on, for a time or until a reload.",
            access=Access.WRITE,
            body=LogLevelRequest,
            answers={200: LogLevelView},
            action="log-level",
        ),
    )


def _view(book: LogBook) -> LogLevelView:
    left = book.left()
    return LogLevelView(
        level=book.level.value,
        configured=book.configured.value,
        for_sec=None if left is None else max(1, round(left)),
    )
