"""The audit chain in SQLite."""

import apsw
import msgspec

from ambientd.core.audit import GENESIS, AuditRecord, record_hash
from ambientd.core.canonical import canonical
from ambientd.core.records import AuditEntry
from ambientd.core.timefmt import rfc3339_ms
from ambientd.store.faults import constraints, text

_HEAD = "SELECT seq, hash FROM audit_records ORDER BY seq DESC LIMIT 1"
_INSERT = (
    "INSERT INTO audit_records (seq, kind, at, actor, subject, detail_json, prev_hash, hash)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_AFTER = (
    "SELECT seq, kind, at, actor, subject, detail_json, prev_hash, hash FROM audit_records"
    " WHERE seq > ? ORDER BY seq LIMIT ?"
)


class SqliteAudit:
    """`ports.store.AuditRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def append(self, entry: AuditEntry) -> int:
        """Appends a record in O(1); returns its sequence number.

        Raises ValueError for a detail without canonical bytes (a float, a key that is not ASCII).
        """
        seq, prev_hash = self._connection.execute(_HEAD).fetchone() or (0, GENESIS)
        at = rfc3339_ms(entry.at)
        kind, actor, subject = (
            text(entry.kind, "kind"),
            text(entry.actor, "actor"),
            text(entry.subject, "subject"),
        )
        digest = record_hash(
            prev_hash=prev_hash,
            seq=seq + 1,
            kind=entry.kind,
            at=at,
            actor=entry.actor,
            subject=entry.subject,
            detail=entry.detail,
        )
        row = (seq + 1, kind, at, actor, subject, canonical(entry.detail).decode(), prev_hash, digest)
        with constraints("audit record"):
            self._connection.execute(_INSERT, row)
        return int(seq) + 1

    def records(self, after_seq: int, limit: int) -> list[AuditRecord]:
        """Records with `seq` greater than `after_seq`, in order."""
        return [
            AuditRecord(
                seq=row[0],
                kind=row[1],
                at=row[2],
                actor=row[3],
                subject=row[4],
                detail=msgspec.json.decode(row[5]),
                prev_hash=row[6],
                hash=row[7],
            )
            for row in self._connection.execute(_AFTER, (after_seq, limit))
        ]
