"""All repositories over one transaction."""

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from ambientd.ports.backup import Progress, SnapshotFacts
from ambientd.store.activity import SqliteActivity
from ambientd.store.alerts import SqliteAlerts
from ambientd.store.audit import SqliteAudit, SqliteIdentity
from ambientd.store.delta_v import SqliteDeltaV
from ambientd.store.ingest import SqliteIngest
from ambientd.store.keys import Keys
from ambientd.store.kind import DatabaseKind
from ambientd.store.ledger import SqliteLedger
from ambientd.store.migrate import applied_migrations
from ambientd.store.retention import SqliteRetention
from ambientd.store.runs import SqliteRuns
from ambientd.store.search import index_noted, register
from ambientd.store.settings import SqliteSettings
from ambientd.store.snapshot import copy_database
from ambientd.store.tasks import SqliteTasks
from ambientd.store.usage import SqliteUsage

if TYPE_CHECKING:
    from ambientd.store.assignments import SqliteAssignments
    from ambientd.store.leases import SqliteLeases
    from ambientd.store.outbox import SqliteOutbox
    from ambientd.store.peers import SqlitePeers
    from ambientd.store.performance import SqlitePerformance
    from ambientd.store.policies import SqlitePolicies


class SqliteMigrations:
    """`ports.store.MigrationRepository`."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def applied(self) -> list[tuple[int, str, str]]:
        """Applied migrations: version, name, time of application."""
        return [(row.version, row.name, row.applied_at) for row in applied_migrations(self._connection)]


class SqliteTransaction:
    """`ports.store.Transaction`; good for as long as the transaction around it."""

    def __init__(self, connection: apsw.Connection, now: datetime) -> None:
        """`now` becomes `ingested_at` of what is added."""
        self.keys = Keys(connection)
        self.ledger = SqliteLedger(connection, self.keys, now)
        self.usage = SqliteUsage(connection, self.keys, now)
        self.ingest = SqliteIngest(connection, self.keys, now)
        self.runs = SqliteRuns(connection, self.keys)
        self.tasks = SqliteTasks(connection)
        self.audit = SqliteAudit(connection)
        self.activity = SqliteActivity(connection)
        self.identity = SqliteIdentity(connection)
        self.retention = SqliteRetention(connection)
        self.alerts = SqliteAlerts(connection)
        self.settings = SqliteSettings(connection)
        self.delta_v = SqliteDeltaV(connection, self.keys)
        self.migrations = SqliteMigrations(connection)
        self._connection = connection
        self._now = now

    # What a node does not need that is alone is loaded with the first use.

    @cached_property
    def performance(self) -> "SqlitePerformance":
        from ambientd.store.performance import SqlitePerformance

        return SqlitePerformance(self._connection, self._now)

    @cached_property
    def policies(self) -> "SqlitePolicies":
        from ambientd.store.policies import SqlitePolicies

        return SqlitePolicies(self._connection)

    @cached_property
    def leases(self) -> "SqliteLeases":
        from ambientd.store.leases import SqliteLeases

        return SqliteLeases(self._connection)

    @cached_property
    def peers(self) -> "SqlitePeers":
        from ambientd.store.peers import SqlitePeers

        return SqlitePeers(self._connection)

    @cached_property
    def outbox(self) -> "SqliteOutbox":
        from ambientd.store.outbox import SqliteOutbox

        return SqliteOutbox(self._connection, self.keys, self.ledger, self.usage)

    @cached_property
    def assignments(self) -> "SqliteAssignments":
        from ambientd.store.assignments import SqliteAssignments

        return SqliteAssignments(self._connection)

    def is_joined(self) -> bool:
        """See the port."""
        row = self._connection.execute("SELECT joined FROM outbox_state").fetchone()
        return row is not None and bool(row[0])

    def copy_to(self, target: Path, progress: Progress) -> SnapshotFacts:
        """Copies the database as this read transaction sees it to a new file; raises as `copy_database`."""
        return copy_database(self._connection, target, progress)


NODE = DatabaseKind(
    migrations="node",
    prepare=register,
    begin=SqliteTransaction,
    undone=lambda unit: unit.keys.forget(),
    finish=index_noted,
    head=lambda connection: SqliteAudit(connection).head().seq,
    appended=lambda unit: unit.audit.appended,
)
