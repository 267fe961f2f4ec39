"""How reports reach the store without each paying for a commit of its own."""

from collections.abc import Sequence
from typing import Protocol

from ambientd.core.fleet.records import NodeReport, ReportOutcome


class ReportIntake(Protocol):
    """Takes reports of one request together with those of others."""

    async def take(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Returns once they are durable; raises as `FleetStore.write`, and ValueError for what cannot be
        stored. Cancelled before its batch began: nothing is written."""
