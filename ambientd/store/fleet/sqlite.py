"""`ports.fleet.store.FleetStore` on SQLite, for one process: the node's store with other repositories."""

from collections.abc import Sequence

from ambientd.core.fleet.records import NodeReport, ReportOutcome
from ambientd.store.fleet.unit import SQLITE_FLEET, FleetUnit
from ambientd.store.sqlite import SqliteDatabase


class SqliteFleetStore(SqliteDatabase[FleetUnit]):
    """The control plane's database in one file."""

    kind = SQLITE_FLEET

    async def write_reports(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """See FleetStore."""
        return await self.write(lambda tx: tx.nodes.report(reports))
