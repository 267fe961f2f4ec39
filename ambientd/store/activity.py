"""What has happened lately, from the audit."""

import apsw
import msgspec

from ambientd.core.records import AuditLine
from ambientd.core.timefmt import parse_rfc3339

# The chain has no index by kind, and is walked back this far at most.
WALKED_MAX = 20_000
_LATEST = (
    "SELECT seq, at, actor, subject, detail_json FROM audit_records"
    " WHERE kind = ? AND seq > (SELECT max(seq) FROM audit_records) - ? ORDER BY seq DESC LIMIT ?"
)


class SqliteActivity:
    """`ports.store.ActivityRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def latest(self, kind: str, limit: int) -> list[AuditLine]:
        """The newest audit records of a kind among the last 20,000, newest first."""
        return [
            AuditLine(
                seq=row[0],
                at=parse_rfc3339(row[1]),
                actor=row[2],
                subject=row[3],
                detail=msgspec.json.decode(row[4]),
            )
            for row in self._connection.execute(_LATEST, (kind, WALKED_MAX, limit))
        ]
