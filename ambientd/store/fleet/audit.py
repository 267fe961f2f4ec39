"""Audit chains: those of nodes, word for word, and the control plane's own."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ambientd.core.audit import GENESIS, AuditRecord, record_hash
from ambientd.core.canonical import canonical
from ambientd.core.fleet.pushed import AuditHead
from ambientd.core.records import AuditEntry
from ambientd.core.timefmt import rfc3339_ms, to_ms
from ambientd.store.fleet.sql import Bulk, Row, Sql, all_of_batch, one

_COLUMNS = "seq, kind, at, actor, subject, detail, prev_hash, hash"
_INCARNATION = "(SELECT incarnation FROM nodes WHERE nodes.node_id = node_audit.node_id)"
_HEAD = (
    f"SELECT seq, hash FROM node_audit WHERE node_id = ? AND incarnation = {_INCARNATION}"
    " ORDER BY seq DESC LIMIT 1"
)
_AFTER = (
    f"SELECT {_COLUMNS} FROM node_audit WHERE node_id = ? AND incarnation = {_INCARNATION}"
    " AND seq > ? ORDER BY seq LIMIT ?"
)
_ROW = (
    ("node_id", "text"),
    ("incarnation", "bigint"),
    ("seq", "bigint"),
    ("kind", "text"),
    ("at", "text"),
    ("actor", "text"),
    ("subject", "text"),
    ("detail", "text"),
    ("prev_hash", "text"),
    ("hash", "text"),
    ("received_at", "bigint"),
)
_NAMES = ", ".join(name for name, _ in _ROW)
_ADD = Bulk(_ROW, f"INSERT INTO node_audit ({_NAMES}) SELECT {all_of_batch(_ROW)} FROM batch WHERE true")
_OWN = "control_audit"
_OWN_HEAD = "SELECT seq, hash FROM control_audit ORDER BY seq DESC LIMIT 1"
_OWN_ADD = f"INSERT INTO control_audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_OWN_AFTER = f"SELECT {_COLUMNS} FROM control_audit WHERE seq > ? ORDER BY seq LIMIT ?"


class NodeAudits:
    """`ports.fleet.pushed.NodeAuditRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def head(self, node_id: str) -> AuditHead:
        """The last record that is here, of the node's present incarnation. In a write nobody else appends to
        this chain until its end."""
        self._sql.serialize(f"audit:{node_id}")
        row = one(self._sql.rows(_HEAD, (node_id,)))
        return AuditHead(seq=0, hash=GENESIS) if row is None else AuditHead(seq=row[0], hash=row[1])

    def add(self, node_id: str, records: Sequence[AuditRecord], at: datetime) -> None:
        """Appends records behind the head. The caller has checked that they follow it; raises ValueError
        when their first number does not."""
        expected = self.head(node_id).seq + 1
        if not records:
            return
        if [record.seq for record in records] != list(range(expected, expected + len(records))):
            raise ValueError(f"audit records of {node_id} must begin with number {expected}")
        node = one(self._sql.rows("SELECT incarnation FROM nodes WHERE node_id = ?", (node_id,)))
        if node is None:
            raise LookupError(f"no node has the id {node_id}")
        received = to_ms(at)
        rows = [
            (
                node_id,
                node[0],
                record.seq,
                record.kind,
                record.at,
                record.actor,
                record.subject,
                canonical(record.detail).decode(),
                record.prev_hash,
                record.hash,
                received,
            )
            for record in records
        ]
        self._sql.bulk(_ADD, rows)

    def records(self, node_id: str, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records with `seq` greater than `after_seq`, in order."""
        return [_record(row) for row in self._sql.rows(_AFTER, (node_id, after_seq, limit))]


class ControlAudit:
    """`ports.fleet.pushed.ControlAuditRepository`. `appended`: whether this transaction added a record."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql
        self.appended = False

    def head(self) -> AuditHead:
        """The last record; seq 0 and the genesis hash for an empty chain."""
        seq, digest = one(self._sql.rows(_OWN_HEAD)) or (0, GENESIS)
        return AuditHead(seq=seq, hash=digest)

    def append(self, entry: AuditEntry) -> int:
        """Appends a record; returns its number. Raises ValueError for a detail without canonical bytes.

        Appends wait for each other from here to the commit: there is one chain.
        """
        detail = canonical(entry.detail).decode()
        self._sql.serialize(_OWN)
        self.appended = True
        head = self.head()
        at = rfc3339_ms(entry.at)
        digest = record_hash(
            prev_hash=head.hash,
            seq=head.seq + 1,
            kind=entry.kind,
            at=at,
            actor=entry.actor,
            subject=entry.subject,
            detail=entry.detail,
        )
        row = (head.seq + 1, entry.kind, at, entry.actor, entry.subject, detail, head.hash, digest)
        self._sql.run(_OWN_ADD, row)
        return head.seq + 1

    def records(self, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records with `seq` greater than `after_seq`, in order."""
        return [_record(row) for row in self._sql.rows(_OWN_AFTER, (after_seq, limit))]


def _record(row: Row) -> AuditRecord:
    return AuditRecord(
        seq=row[0],
        kind=row[1],
        at=row[2],
        actor=row[3],
        subject=row[4],
        detail=msgspec.json.decode(row[5]),
        prev_hash=row[6],
        hash=row[7],
    )
