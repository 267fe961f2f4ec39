"""The audit chain in SQLite."""

import hashlib
import re
from typing import Any

import apsw
import msgspec

from ambientd.core.audit import (
    BEGINNING,
    BROKEN_MARK,
    CONTROL,
    AuditQuery,
    AuditRecord,
    Break,
    ChainState,
    KnownBreak,
    Place,
    StoredRecord,
    record_hash,
)
from ambientd.core.canonical import UNREADABLE, canonical
from ambientd.core.records import AuditEntry
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.faults import constraints, text

_HASH = re.compile(rb"[0-9a-f]{64}")
_HEAD = "SELECT seq, CAST(hash AS BLOB) FROM audit_records ORDER BY seq DESC LIMIT 1"
_STATE = "SELECT acknowledged_seq, pruned_seq, CAST(pruned_hash AS BLOB) FROM audit_state"
_INSERT = (
    "INSERT INTO audit_records (seq, kind, at, actor, subject, detail_json, prev_hash, hash)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
# As bytes: what somebody wrote into the table past us need not be text.
STORED = (
    "SELECT seq, CAST(kind AS BLOB), CAST(at AS BLOB), CAST(actor AS BLOB), CAST(subject AS BLOB),"
    " CAST(detail_json AS BLOB), CAST(prev_hash AS BLOB), CAST(hash AS BLOB) FROM audit_records"
)
_AFTER = f"{STORED} WHERE seq > ? ORDER BY seq LIMIT ?"
_LATEST = f"{STORED} WHERE kind = ? ORDER BY seq DESC LIMIT ?"
_OLDEST = (
    "SELECT seq, hash FROM (SELECT seq, hash FROM audit_records WHERE seq <= ? ORDER BY seq LIMIT ?)"
    " ORDER BY seq DESC LIMIT 1"
)
_CHECKPOINTS = (
    "SELECT checkpoint_key, seq, CAST(note AS BLOB) FROM audit_checkpoints"
    " WHERE seq > ? AND seq <= ? ORDER BY seq, checkpoint_key LIMIT ?"
)
_NEWEST = "SELECT seq, CAST(note AS BLOB) FROM audit_checkpoints ORDER BY checkpoint_key DESC LIMIT 1"
_BREAKS = (
    "SELECT seq, CAST(reason AS BLOB), found_at, CAST(note AS BLOB), accepted_at, accepted_by"
    " FROM audit_breaks"
)
_KNOWN = "SELECT 1 FROM audit_breaks WHERE note = ?1 OR (?1 IS NULL AND seq = ?2)"


class SqliteAudit:
    """`ports.audit.AuditRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection
        self.appended = False

    def append(self, entry: AuditEntry) -> int:
        """Appends a record in O(1); returns its sequence number.

        What an operator orders while the chain is known to be broken says so. Raises ValueError for a
        detail without canonical bytes (a float, a key that is not ASCII).
        """
        seq, prev_hash = self.head()
        at = rfc3339_ms(entry.at)
        kind, actor, subject = (
            text(entry.kind, "kind"),
            text(entry.actor, "actor"),
            text(entry.subject, "subject"),
        )
        detail = self._marked(entry)
        digest = record_hash(
            prev_hash=prev_hash,
            seq=seq + 1,
            kind=entry.kind,
            at=at,
            actor=entry.actor,
            subject=entry.subject,
            detail=detail,
        )
        row = (seq + 1, kind, at, actor, subject, canonical(detail).decode(), prev_hash, digest)
        with constraints("audit record"):
            self._connection.execute(_INSERT, row)
        self.appended = True
        return seq + 1

    def _marked(self, entry: AuditEntry) -> dict[str, Any]:
        if not entry.kind.startswith(CONTROL):
            return dict(entry.detail)
        found = self._connection.execute("SELECT min(seq) FROM audit_breaks WHERE accepted_at IS NULL").get
        return dict(entry.detail) | ({} if found is None else {BROKEN_MARK: found})

    def head(self) -> Place:
        """The last record, else the anchor, else the beginning."""
        found = self._connection.execute(_HEAD).fetchone()
        return self.state().pruned if found is None else Place(int(found[0]), _followed(found[1] or b""))

    def state(self) -> ChainState:
        """How far it was acknowledged and pruned."""
        found = self._connection.execute(_STATE).fetchone()
        if found is None:  # somebody has taken it away
            return ChainState(0, BEGINNING)
        acknowledged, seq, digest = found
        return ChainState(acknowledged, Place(seq, _followed(digest or b"")))

    def hash_at(self, seq: int) -> str | None:
        """The hash of a record, or of the anchor."""
        found = self._connection.execute(
            "SELECT CAST(hash AS BLOB) FROM audit_records WHERE seq = ?", (seq,)
        ).get
        if found is not None:
            return _followed(found)
        pruned = self.state().pruned
        return pruned.hash if pruned.seq == seq else None

    def page(self, query: AuditQuery) -> list[AuditRecord]:
        """Records that fit, newest first."""
        wanted = {
            "seq < ?": query.before,
            "actor = ?": query.actor,
            "at >= ?": None if query.since is None else rfc3339_ms(query.since),
            "at < ?": None if query.until is None else rfc3339_ms(query.until),
        }
        conditions = [name for name, value in wanted.items() if value is not None]
        values: list[Any] = [value for value in wanted.values() if value is not None]
        if query.kind is not None:
            conditions.append("(kind = ? OR (kind > ? AND kind < ?))")
            values += [query.kind, f"{query.kind}.", f"{query.kind}/"]  # "/" comes after "."
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        sql = f"{STORED}{where} ORDER BY seq DESC LIMIT ?"
        return [shown(record_of(row)) for row in self._connection.execute(sql, (*values, query.limit))]

    def records(self, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records with `seq` greater than `after_seq`, in order."""
        return [shown(record) for record in self.stored(after_seq, limit)]

    def stored(self, after_seq: int, limit: int) -> list[StoredRecord]:
        """The same as they stand there."""
        return [record_of(row) for row in self._connection.execute(_AFTER, (after_seq, limit))]

    def latest(self, kind: str, limit: int) -> list[AuditRecord]:
        """The newest records of exactly this kind."""
        return [shown(record_of(row)) for row in self._connection.execute(_LATEST, (kind, limit))]

    # --- what a control plane has taken over

    def acknowledge(self, seq: int) -> None:
        """Moves the mark forward; ValueError for a number that the chain does not have."""
        if seq > self.head().seq:
            raise ValueError(f"the chain has no record {seq}")
        self._connection.execute(
            "UPDATE audit_state SET acknowledged_seq = ?1 WHERE acknowledged_seq < ?1", (seq,)
        )

    def unacknowledged(self, limit: int) -> list[AuditRecord]:
        """The oldest records that are not acknowledged."""
        return self.records(self.state().acknowledged_seq, limit)

    def prune(self, upto: int, limit: int) -> int:
        """Removes the oldest acknowledged records; the triggers let none of the others go."""
        state = self.state()
        if upto > state.acknowledged_seq:
            raise ValueError(f"only records up to {state.acknowledged_seq} were acknowledged, not {upto}")
        last = self._connection.execute(_OLDEST, (upto, limit)).fetchone()
        if last is None:
            return 0
        self._connection.execute("UPDATE audit_state SET pruned_seq = ?, pruned_hash = ?", last)
        self._connection.execute(
            "DELETE FROM audit_checkpoints WHERE seq <= ?"
            " AND checkpoint_key < (SELECT max(checkpoint_key) FROM audit_checkpoints)",
            last[:1],
        )
        self._connection.execute("DELETE FROM audit_records WHERE seq <= ?", last[:1])
        return self._connection.changes()

    # --- checkpoints and breaks

    def keep_checkpoint(self, seq: int, note: str) -> None:
        """Keeps the signed note of a head."""
        self._connection.execute("INSERT INTO audit_checkpoints (seq, note) VALUES (?, ?)", (seq, note))

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """The one kept last."""
        found = self._connection.execute(_NEWEST).fetchone()
        return None if found is None else (int(found[0]), _readable(found[1]))

    def checkpoints(self, after_seq: int, upto_seq: int, limit: int) -> list[tuple[int, int, str]]:
        """Key, record and note, in order."""
        rows = self._connection.execute(_CHECKPOINTS, (after_seq, upto_seq, limit))
        return [(int(key), int(seq), _readable(note)) for key, seq, note in rows]

    def breaks(self) -> list[KnownBreak]:
        """Every break that was noted."""
        return _breaks(self._connection.execute(f"{_BREAKS} ORDER BY break_key"))

    def note_break(self, found: Break, *, found_at: str, note: str | None) -> bool:
        """Notes a break once: one that a checkpoint shows by that, another by its record."""
        if self._connection.execute(_KNOWN, (note, found.seq)).fetchone() is not None:
            return False
        self._connection.execute(
            "INSERT INTO audit_breaks (seq, reason, note, found_at) VALUES (?, ?, ?, ?)",
            (found.seq, found.reason, note, found_at),
        )
        return True

    def accept_breaks(self, *, at: str, by: str) -> list[KnownBreak]:
        """Marks all open breaks as looked into."""
        found = _breaks(self._connection.execute(f"{_BREAKS} WHERE accepted_at IS NULL ORDER BY break_key"))
        self._connection.execute(
            "UPDATE audit_breaks SET accepted_at = ?, accepted_by = ? WHERE accepted_at IS NULL",
            (at, text(by, "by")),
        )
        return found


class SqliteIdentity:
    """`ports.audit.IdentityRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def rollovers(self) -> list[str]:
        """All statements, oldest first."""
        rows = self._connection.execute("SELECT statement FROM identity_rollovers ORDER BY rollover_key")
        return [str(statement) for (statement,) in rows]

    def keep_rollover(self, *, old_key: str, new_key: str, statement: str) -> bool:
        """Keeps a statement; ValueError for a second one about a key."""
        known = self._connection.execute(
            "SELECT 1 FROM identity_rollovers WHERE statement = ?", (statement,)
        ).fetchone()
        if known is not None:
            return False
        with constraints("rollover"):
            self._connection.execute(
                "INSERT INTO identity_rollovers (old_key, new_key, statement) VALUES (?, ?, ?)",
                (old_key, new_key, statement),
            )
        return True


def _breaks(rows: apsw.Cursor) -> list[KnownBreak]:
    return [
        KnownBreak(
            seq=seq,
            reason=_plain(_readable(reason)),
            found_at=found_at,
            note=None if note is None else _readable(note),
            accepted_at=at,
            accepted_by=by,
        )
        for seq, reason, found_at, note, at, by in rows
    ]


def record_of(row: Any) -> StoredRecord:
    """What is no text keeps a sign of it, so that it fits no hash."""
    seq, kind, at, actor, subject, detail, prev_hash, digest = row
    return StoredRecord(
        seq=seq,
        kind=_readable(kind),
        at=_readable(at),
        actor=_readable(actor),
        subject=_readable(subject),
        detail=detail or b"",
        prev_hash=_readable(prev_hash),
        hash=_readable(digest),
    )


def _followed(raw: bytes) -> str:
    """The hash that the next record follows on. Where somebody has left something else in its place the
    chain goes on all the same, behind a break: the node must be able to record what is ordered."""
    return raw.decode() if _HASH.fullmatch(raw) else hashlib.sha3_256(raw).hexdigest()


def _readable(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="surrogateescape")


def shown(record: StoredRecord) -> AuditRecord:
    """For people and programs; a damaged record is shown as far as it can be."""
    try:
        detail = msgspec.json.decode(record.detail, type=dict[str, Any])
    except UNREADABLE:
        detail = {"damaged": record.detail.decode(errors="replace")}
    return AuditRecord(
        seq=record.seq,
        kind=_plain(record.kind),
        at=_plain(record.at),
        actor=_plain(record.actor),
        subject=_plain(record.subject),
        detail=detail,
        prev_hash=_plain(record.prev_hash),
        hash=_plain(record.hash),
    )


def _plain(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")
