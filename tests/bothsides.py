"""What a node has to tell beside what its control plane has of it: every record of every kind, counted.

Both are read from the databases themselves, past everything that could gloss over a difference.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from ambientd.core.audit import AuditRecord, first_bad

Row = tuple[Any, ...]
Rows = Callable[[str], list[Row]]
MINUTE_MS = 60_000
OPEN_WINDOWS = 2
"""So many windows of Δv at the end may still change, and are not told."""

_SESSION = (
    "session_id, run_id, agent_id, agent_label, model_id, task_title, task_category, status, runtime_ms,"
    " artifact_count, error_code, error_message, source_version, gateway_session_id, started_at, ended_at"
)
_USAGE = (
    "session_id, prompt_tokens, completion_tokens, total_tokens, cache_read_tokens, cache_write_tokens,"
    " runtime_ms, cost_usd, cost_confidence, cost_source, cost_confidence_level, token_source,"
    " token_confidence, runtime_source, runtime_confidence, provider, pricing_version, computed_at"
)
_WINDOW = (
    "SELECT start_ms, sum(value), sum(samples), sum(refused), max(source) FROM delta_v_history"
    " WHERE width_sec = 60 GROUP BY start_ms ORDER BY start_ms"
)
_REPORT = "report_seq, sampled_at, recorded_at FROM node_heartbeat_history"


class Records(NamedTuple):
    """All records of one node, by kind, each kind in its order."""

    sessions: list[Row]
    events: list[Row]
    usage: list[Row]
    audit: list[Row]
    windows: list[Row]

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {name: len(rows) for name, rows in self._asdict().items()}


class Reports(NamedTuple):
    """Numbers of reports: all that were ever given, and those that still lie in the outbox."""

    last: int
    waiting: frozenset[int]


def at_node(rows: Rows) -> Records:
    """What the node has. `rows` answers a query on its database."""
    return Records(
        sessions=[
            _session(row)
            for row in rows(f"SELECT {_SESSION} FROM session_ledger ORDER BY session_id")  # noqa: S608
        ],
        events=[
            (*row[:3], _ms(row[3]), _document(row[4]))
            for row in rows(
                "SELECT session_id, seq, event_type, event_ts, payload_json FROM session_events ORDER BY 1, 2"
            )
        ],
        usage=[
            (*row[:-1], _ms(row[-1]))
            for row in rows(f"SELECT {_USAGE} FROM session_usage ORDER BY session_id")  # noqa: S608
        ],
        audit=[
            (*row[:5], _document(row[5]), *row[6:])
            for row in rows(
                "SELECT seq, kind, at, actor, subject, detail_json, prev_hash, hash FROM audit_records"
                " ORDER BY seq"
            )
        ],
        windows=[tuple(row) for row in rows(_WINDOW)],
    )


def at_plane(rows: Rows, node_id: str) -> Records:
    """What the control plane has of a node."""

    def of_node(what: str, table: str, order: str) -> list[Row]:
        sql = f"SELECT {what} FROM {table} WHERE node_id = '{node_id}' ORDER BY {order}"  # noqa: S608
        return [tuple(row) for row in rows(sql)]

    return Records(
        sessions=of_node(_SESSION, "node_sessions", "session_id"),
        events=[
            (*row[:4], _document(row[4]))
            for row in of_node(
                "session_id, seq, event_type, at, payload", "node_session_events", "session_id, seq"
            )
        ],
        usage=of_node(_USAGE, "node_usage", "session_id"),
        audit=[
            (*row[:5], _document(row[5]), *row[6:])
            for row in of_node("seq, kind, at, actor, subject, detail, prev_hash, hash", "node_audit", "seq")
        ],
        windows=of_node("window_start, value, samples, refused, source", "node_delta_v", "window_start"),
    )


def reports_of(rows: Rows) -> Reports:
    """What the node has numbered. Fails when it has dropped one, or had one refused."""
    ((last, dropped, refused),) = rows(
        "SELECT last_seq, dropped, refused FROM outbox_streams WHERE stream = 'reports'"
    )
    assert (dropped, refused) == (0, 0)
    return Reports(last, frozenset(row[0] for row in rows("SELECT seq FROM outbox_reports")))


def missing(node: Rows, plane: Rows, node_id: str) -> dict[str, Any]:
    """What the control plane does not have yet, by kind; nothing when all is told. The windows of Δv that
    may still change are not told.

    Fails, whatever is under way, when something that was acknowledged is not there.
    """
    # The node is read first: what is new meanwhile may be there already.
    here, numbers = at_node(node), reports_of(node)
    acked: dict[str, int] = dict(node("SELECT stream, acked_seq FROM outbox_streams"))
    there = at_plane(plane, node_id)
    told = reports_at_plane(plane, node_id)
    lost = set(range(1, numbers.last + 1)) - set(told) - numbers.waiting
    assert not lost, f"reports that were acknowledged and are not there: {sorted(lost)[:9]}"
    found: dict[str, Any] = {"reports": sorted(set(range(1, numbers.last + 1)) - set(told))}
    for kind in Records._fields:
        mine = getattr(here, kind)
        mine = mine[:-OPEN_WINDOWS] if kind == "windows" else mine
        theirs = frozenset(getattr(there, kind))
        found[kind] = [row for row in mine if row not in theirs]
    assert not [row for row in found["audit"] if row[0] <= acked["audit"]]
    assert not [row for row in found["windows"] if row[0] // MINUTE_MS <= acked["delta_v"]]
    return {kind: (len(rows), rows[:3]) for kind, rows in found.items() if rows}


def reports_at_plane(plane: Rows, node_id: str) -> list[int]:
    """Numbers of a node's reports in order. Fails when one is there twice, or when their times go back."""
    rows = plane(
        f"SELECT {_REPORT} WHERE node_id = '{node_id}' AND report_seq IS NOT NULL ORDER BY report_seq"
    )
    numbers = [row[0] for row in rows]
    assert len(numbers) == len(set(numbers)), f"{node_id}: a report is there twice"
    sampled = [row[1] for row in rows]
    assert sampled == sorted(sampled), f"{node_id}: the order of reports is another one"
    return numbers


def check_equal(node: Rows, plane: Rows, node_id: str) -> dict[str, int]:
    """Every record on both sides once, in its order, the chain whole; how many of each kind."""
    here, there = at_node(node), at_plane(plane, node_id)
    numbers, told = reports_of(node), reports_at_plane(plane, node_id)
    for kind in ("sessions", "events", "usage", "audit"):
        mine, theirs = getattr(here, kind), getattr(there, kind)
        assert theirs == mine, (kind, sorted(set(mine) ^ set(theirs), key=repr)[:4])
    windows = len(there.windows)
    assert there.windows == here.windows[:windows]
    assert windows >= len(here.windows) - OPEN_WINDOWS
    assert told == list(range(1, numbers.last + 1))
    assert check_chain(there.audit) == here.audit[-1][-1]
    return {"reports": len(told), **there.counts()}


def check_chain(audit: list[Row]) -> str:
    """The hash of the last record of a chain that holds from its first one on."""
    names = ("seq", "kind", "at", "actor", "subject", "detail", "prev_hash", "hash")
    rows = [dict(zip(names, row, strict=True)) for row in audit]
    records = [AuditRecord(**{**row, "detail": json.loads(row["detail"])}) for row in rows]
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert first_bad(records) is None
    return records[-1].hash


def _session(row: Row) -> Row:
    return (*row[:-2], _ms(row[-2]), _ms(row[-1]))


def _ms(text: str | None) -> int | None:
    return None if text is None else round(datetime.fromisoformat(text).timestamp() * 1000)


def _document(value: Any) -> str:
    """A document in one spelling, whether a database gives its text or what it says."""
    found = json.loads(value) if isinstance(value, str | bytes) else value
    return json.dumps(found, sort_keys=True)
