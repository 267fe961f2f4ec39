"""What has happened lately, from the audit."""

from datetime import UTC, datetime

import apsw

from ambientd.core.records import AuditLine
from ambientd.core.timefmt import parse_rfc3339
from ambientd.store.audit import STORED, record_of, shown

# The chain has no index by kind, and is walked back this far at most.
WALKED_MAX = 20_000
_UNREADABLE = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = (
    f"{STORED} WHERE kind = ? AND seq > (SELECT max(seq) FROM audit_records) - ? ORDER BY seq DESC LIMIT ?"  # noqa: S608 - constants
)


class SqliteActivity:
    """`ports.store.ActivityRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def latest(self, kind: str, limit: int) -> list[AuditLine]:
        """The newest audit records of a kind among the last 20,000, newest first; of a damaged one what can
        be read."""
        rows = self._connection.execute(_LATEST, (kind, WALKED_MAX, limit))
        records = (shown(record_of(row)) for row in rows)
        return [
            AuditLine(
                seq=one.seq, at=_instant(one.at), actor=one.actor, subject=one.subject, detail=one.detail
            )
            for one in records
        ]


def _instant(text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except ValueError:
        return _UNREADABLE
