"""What administrators read."""

from ambientd.core.audit import AuditRecord
from ambientd.core.fleet.records import UserRecord
from ambientd.ports.fleet.store import FleetStore


class Admin:
    """The use cases of administrators; whether somebody is one is looked at before."""

    def __init__(self, *, store: FleetStore) -> None:
        self._store = store

    async def users(self, limit: int, after: str | None) -> list[UserRecord]:
        """Accounts by user name."""
        return await self._store.read(lambda tx: tx.users.page(limit, after))

    async def audit(self, after_seq: int, limit: int) -> list[AuditRecord]:
        """The control plane's own audit chain, in order."""
        return await self._store.read(lambda tx: tx.audit.records(after_seq, limit))
