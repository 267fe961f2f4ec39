"""Events of sessions: the compact rows behind the view `session_events`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from ambientd.core.records import EventRecord, NewEvent
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.store.faults import INT_LIMIT, constraints, text
from ambientd.store.keys import Keys
from ambientd.wire.enums import EventType

PAYLOAD_DEPTH_MAX = 64

_INSERT = (
    "INSERT INTO session_event_rows (session_key, seq, event_type, at_ms, payload_json, event_id)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_LAST_SEQ = "SELECT max(seq) FROM session_event_rows WHERE session_key = ?"
_COLUMNS = "seq, event_type, at_ms, payload_json, event_id"
_AFTER = f"SELECT {_COLUMNS} FROM session_event_rows WHERE session_key = ? AND seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - constant columns
_OF_TYPE = (
    f"SELECT {_COLUMNS} FROM session_event_rows"  # noqa: S608 - constant columns
    " WHERE session_key = ? AND event_type = ? ORDER BY seq LIMIT ?"
)


class _Row(NamedTuple):
    seq: int
    event_type: str
    at_ms: int
    payload_json: str
    event_id: str | None


class Events:
    """Appends and reads events; part of the ledger's repository."""

    def __init__(self, connection: apsw.Connection, keys: Keys) -> None:
        """Both belong to one transaction."""
        self._connection = connection
        self._keys = keys

    def append(self, session_id: str, events: Sequence[NewEvent]) -> int:
        """Appends events with consecutive numbers; returns the last `seq`, 0 when there is none.

        Raises LookupError for an unknown session, ValueError for an event that cannot be stored.
        """
        key = self._keys.need(session_id)
        seq = int(self._connection.execute(_LAST_SEQ, (key,)).get or 0)
        rows = [
            (
                key,
                number,
                event.event_type.value,
                to_ms(event.at),
                encode_payload(event.payload),
                _own_id(event.event_id, session_id, number),
            )
            for number, event in enumerate(events, seq + 1)
        ]
        with constraints(f"events of {session_id}"):
            self._connection.executemany(_INSERT, rows)
        return seq + len(rows)

    def after(self, session_id: str, after_seq: int, limit: int) -> list[EventRecord]:
        """Events with `seq` greater than `after_seq`, in order; none for an unknown session."""
        return self._read(session_id, _AFTER, min(max(after_seq, -1), INT_LIMIT - 1), limit)

    def of_type(self, session_id: str, event_type: str, limit: int) -> list[EventRecord]:
        """Events of one type, in order; raises ValueError for a type that does not exist."""
        return self._read(session_id, _OF_TYPE, EventType(event_type).value, limit)

    def _read(self, session_id: str, sql: str, value: str | int, limit: int) -> list[EventRecord]:
        key = self._keys.find(session_id)
        if key is None:
            return []
        rows = self._connection.execute(sql, (key, value, max(limit, 0)))
        return [_record(session_id, _Row(*row)) for row in rows]


def _own_id(event_id: str | None, session_id: str, seq: int) -> str | None:
    if event_id is None or event_id == f"{session_id}:{seq}":
        return None
    return text(event_id, "event_id")


def _record(session_id: str, row: _Row) -> EventRecord:
    return EventRecord(
        event_id=row.event_id or f"{session_id}:{row.seq}",
        session_id=session_id,
        seq=row.seq,
        event_type=EventType(row.event_type),
        at=from_ms(row.at_ms),
        payload=msgspec.json.decode(row.payload_json),
    )


def encode_payload(payload: Mapping[str, Any]) -> str:
    """A payload as JSON text that reads back equal; raises ValueError where none does.

    NaN and infinities (JSON has none), integers past 64 bits with sign, lone surrogates, keys that are not
    text, more than 64 levels, and types JSON does not know.
    """
    _check(payload, PAYLOAD_DEPTH_MAX)
    return msgspec.json.encode(payload).decode()


def _check(value: object, depth: int) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif isinstance(value, float):
        if value - value != 0:
            raise ValueError("payload: NaN and infinities cannot be stored")
    elif isinstance(value, int):
        if not -INT_LIMIT <= value < INT_LIMIT:
            raise ValueError("payload: an integer past 64 bits cannot be stored")
    elif value is not None:
        _check_items(value, depth)


def _check_text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("payload: a lone surrogate cannot be stored") from None


def _check_items(value: object, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"payload: nested more than {PAYLOAD_DEPTH_MAX} levels")
    if isinstance(value, (dict, Mapping)):  # a dict first: the other test costs ten times as much
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError("payload: keys must be text")  # noqa: TRY004 - bad input is a ValueError here
            _check(key, depth)
            _check(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth - 1)
    else:
        raise ValueError(f"payload: {type(value).__name__} cannot be stored")  # noqa: TRY004 - as above
