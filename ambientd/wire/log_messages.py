"""Messages about the daemon's log and its configuration (`/api/logs`, `/api/v1/node/…`)."""

from typing import Any

import msgspec


class LogEntry(msgspec.Struct, omit_defaults=True):
    """One line. `seq` counts the lines of this process; `fields` are the facts of the line."""

    seq: int
    ts: str
    level: str
    msg: str
    component: str | None = None
    fields: dict[str, Any] | None = None


class LogsPage(msgspec.Struct, rename="camel"):
    """`GET /api/logs`: oldest first; `lastSeq` is the number of the newest line there is."""

    logs: list[LogEntry]
    last_seq: int
    level: str
    generated_at: str


class LogLevelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/log-level`: for some seconds, or until a reload or restart."""

    level: str
    for_sec: int | None = None


class LogLevelView(msgspec.Struct, omit_defaults=True):
    """What is logged now; `for_sec` is how long a temporary level still holds."""

    level: str
    configured: str
    for_sec: int | None = None


class ReloadView(msgspec.Struct):
    """`POST /api/v1/node/reload`: sections of the configuration that were applied, and those that differ
    but wait for a restart."""

    applied: list[str]
    needs_restart: list[str]
