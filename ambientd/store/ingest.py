"""Ingested sessions in SQLite: their rows, their events under the sender's numbers, and what was taken."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import apsw
import msgspec

from ambientd.core.ingest import StoredSession
from ambientd.core.records import KeptEvent, KeptKey, PlacedEvent
from ambientd.core.timefmt import rfc3339_ms, to_ms
from ambientd.store.faults import constraints, text
from ambientd.store.keys import Keys
from ambientd.wire.enums import SessionStatus

_COLUMNS = (
    "session_id, run_id, agent_id, agent_label, model_id, task_title, task_text, task_category, status,"
    " started_at, ended_at, runtime_ms, running_since, artifact_count, error_code, error_message,"
    " source_version, source, gateway_session_id"
)
_GET = f"SELECT {_COLUMNS} FROM session_ledger WHERE session_key = ?"  # noqa: S608 - constant columns
_INSERT = (
    f"INSERT INTO session_ledger ({_COLUMNS}, ingested_at)"  # noqa: S608 - constant columns
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_IDENTITY = {"session_id", "agent_id", "started_at", "source", "gateway_session_id"}
_SETTABLE = frozenset(_COLUMNS.replace(",", " ").split()) - _IDENTITY
_OF_GATEWAY = (
    f"SELECT {_COLUMNS} FROM session_ledger WHERE gateway_session_id = ?"  # noqa: S608 - constant columns
    " ORDER BY started_at DESC, session_key DESC LIMIT ?"
)
_OPEN_OF = (
    f"SELECT {_COLUMNS} FROM session_ledger WHERE status IN ('queued', 'running')"  # noqa: S608 - constants
    " AND source = ? ORDER BY started_at, session_key LIMIT ?"
)
_BY_SEQ = (
    "SELECT session_key, seq, event_type, at_ms, payload_json, event_id FROM session_event_rows"
    " WHERE session_key = ? AND seq IN (SELECT value FROM json_each(?))"
)
_BY_ID = (
    "SELECT session_key, seq, event_type, at_ms, payload_json, event_id FROM session_event_rows"
    " WHERE event_id IN (SELECT value FROM json_each(?))"
)
_ADD_EVENT = (
    "INSERT INTO session_event_rows (session_key, seq, event_type, at_ms, payload_json, event_id)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_KEY = (
    "SELECT l.session_id, k.fingerprint FROM ingest_keys AS k"
    " JOIN session_ledger AS l ON l.session_key = k.session_key WHERE k.key = ?"
)
_PUT_KEY = "INSERT OR REPLACE INTO ingest_keys (key, session_key, fingerprint, at) VALUES (?, ?, ?, ?)"

_TAKEN = "SELECT 1 FROM session_event_rows WHERE event_id >= ? AND event_id < ? LIMIT 1"

_encoder = msgspec.json.Encoder()


class SqliteIngest:
    """`ports.store.IngestRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection, keys: Keys, now: datetime) -> None:
        """`now` becomes `ingested_at` of what is added."""
        self._connection = connection
        self._keys = keys
        self._now = now

    def key(self, key: str) -> KeptKey | None:
        """What was taken under an idempotency key."""
        row = self._connection.execute(_KEY, (key,)).fetchone()
        return None if row is None else KeptKey(session_id=row[0], fingerprint=row[1])

    def put_key(self, key: str, kept: KeptKey, at: datetime) -> None:
        """Remembers what was taken under a key, instead of what was before."""
        row = (text(key, "key"), self._keys.need(kept.session_id), kept.fingerprint, rfc3339_ms(at))
        with constraints("idempotency key"):
            self._connection.execute(_PUT_KEY, row)

    def session(self, session_id: str) -> StoredSession | None:
        """A session as it is stored."""
        key = self._keys.find(session_id)
        row = None if key is None else self._connection.execute(_GET, (key,)).fetchone()
        return None if row is None else _stored(row)

    def add(self, session: StoredSession) -> None:
        """Inserts a session in whatever state; raises ValueError when the id exists."""
        row = (
            text(session.session_id, "session_id"),
            text(session.run_id, "run_id"),
            text(session.agent_id, "agent_id"),
            text(session.agent_label, "agent_label"),
            text(session.model_id, "model_id"),
            text(session.task_title, "task_title"),
            text(session.task_text, "task_text"),
            text(session.task_category, "task_category"),
            session.status.value,
            rfc3339_ms(session.started_at),
            _column(session.ended_at, "ended_at"),
            session.runtime_ms,
            _column(session.running_since, "running_since"),
            session.artifact_count,
            text(session.error_code, "error_code"),
            text(session.error_message, "error_message"),
            text(session.source_version, "source_version"),
            text(session.source, "source"),
            text(session.gateway_session_id, "gateway_session_id"),
            rfc3339_ms(self._now),
        )
        with constraints(f"session {session.session_id}"):
            self._connection.execute(_INSERT, row)
        self._keys.remember(session.session_id, self._connection.last_insert_rowid())

    def change(self, session_id: str, columns: Mapping[str, Any]) -> None:
        """Sets columns of a stored session; identity is not among those that can be set."""
        if not columns.keys() <= _SETTABLE:
            raise ValueError(f"not settable: {sorted(columns.keys() - _SETTABLE)}")
        assigned = ", ".join(f"{name} = ?" for name in columns)
        values = [_column(value, name) for name, value in columns.items()]
        with constraints(f"session {session_id}"):
            self._connection.execute(
                f"UPDATE session_ledger SET {assigned} WHERE session_key = ?",  # noqa: S608 - checked names
                (*values, self._keys.need(session_id)),
            )

    def events_by_seq(self, session_id: str, numbers: Sequence[int]) -> list[KeptEvent]:
        """Stored events of a session with these numbers."""
        key = self._keys.find(session_id)
        if key is None or not numbers:
            return []
        rows = self._connection.execute(_BY_SEQ, (key, json.dumps(list(numbers))))
        return [_kept(session_id, row) for row in rows]

    def events_by_id(self, session_id: str, ids: Sequence[str]) -> list[KeptEvent]:
        """Stored events of any session with these ids; of another one, `session_id` is empty.

        An event without an id of its own is known as `<session_id>:<seq>`.
        """
        if not ids:
            return []
        key = self._keys.find(session_id)
        found = [
            _kept(session_id if row[0] == key else "", row)
            for row in self._connection.execute(_BY_ID, (json.dumps(list(ids)),))
        ]
        for event_id in ids:
            owner, _, number = event_id.rpartition(":")
            if owner and owner != session_id and number.isascii() and number.isdigit() and len(number) < 16:
                found += [
                    msgspec.structs.replace(event, session_id="")
                    for event in self.events_by_seq(owner, [int(number)])
                    if event.event_id == event_id
                ]
        return found

    def has_ids_like_numbers_of(self, session_id: str) -> bool:
        """Whether any event has an id of its own that begins as those of this session's numbers do."""
        found = self._connection.execute(_TAKEN, (f"{session_id}:", f"{session_id};")).get
        return found is not None

    def last_seq(self, session_id: str) -> int:
        """The highest number of a session's events, 0 when it has none."""
        sql = "SELECT max(seq) FROM session_event_rows WHERE session_key = ?"
        return int(self._connection.execute(sql, (self._keys.find(session_id),)).get or 0)

    def append(self, session_id: str, events: Sequence[PlacedEvent]) -> None:
        """Inserts events under their numbers; raises ValueError when a number or an id is taken."""
        key = self._keys.need(session_id)
        rows = [
            (
                key,
                event.seq,
                event.event_type.value,
                to_ms(event.at),
                _encoder.encode(event.payload).decode(),  # checked with its contract
                None if event.event_id is None else text(event.event_id, "event_id"),
            )
            for event in events
        ]
        with constraints(f"events of {session_id}"):
            self._connection.executemany(_ADD_EVENT, rows)

    def count_artifacts(self, session_id: str) -> int:
        """How many artifact events a session has."""
        sql = "SELECT count(*) FROM session_event_rows WHERE session_key = ? AND event_type = 'artifact'"
        return int(self._connection.execute(sql, (self._keys.find(session_id),)).get)

    def of_gateway_session(self, gateway_session_id: str, limit: int) -> list[StoredSession]:
        """The runs of a gateway's session, newest start first."""
        return [_stored(row) for row in self._connection.execute(_OF_GATEWAY, (gateway_session_id, limit))]

    def open_of(self, source: str, limit: int) -> list[StoredSession]:
        """Sessions of a source that have not ended, oldest start first."""
        return [_stored(row) for row in self._connection.execute(_OPEN_OF, (source, limit))]


def _column(value: Any, name: str) -> str | int | None:
    if isinstance(value, datetime):
        return rfc3339_ms(value)
    if isinstance(value, SessionStatus):
        return value.value
    if value is None or isinstance(value, int):
        return value
    return text(value, name)


def _instant(stored: str | None) -> datetime | None:
    return None if stored is None else datetime.fromisoformat(stored)


def _stored(row: tuple[Any, ...]) -> StoredSession:
    values = dict(zip(StoredSession.__struct_fields__, row, strict=True))
    values["status"] = SessionStatus(values["status"])
    for name in ("started_at", "ended_at", "running_since"):
        values[name] = _instant(values[name])
    return StoredSession(**values)


def _kept(session_id: str, row: tuple[Any, ...]) -> KeptEvent:
    return KeptEvent(
        session_id=session_id,
        seq=row[1],
        event_type=row[2],
        at_ms=row[3],
        payload=msgspec.json.decode(row[4]),
        event_id=row[5] or f"{session_id}:{row[1]}",
    )
