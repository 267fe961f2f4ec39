"""An older copy of the database has been put in its place: what is written down in it before it is used."""

from datetime import datetime

from ambientd.core.records import AuditEntry
from ambientd.ports.fleet.store import FleetTransaction

PUT_BACK = "database_put_back"


def note_put_back(
    tx: FleetTransaction, *, at: datetime, actor: str, made_at: str | None = None, version: str | None = None
) -> int:
    """Begins a new era of revisions, so that nodes miss nothing that is added afterwards, and records it in
    the control plane's own chain. `made_at` and `version` are the copy's, where it says them. The record's
    number."""
    first = tx.items.begin_era()
    detail = {"made_at": made_at, "version": version, "revisions_from": first}
    known = {name: value for name, value in detail.items() if value is not None}
    return tx.audit.append(AuditEntry(kind=PUT_BACK, at=at, actor=actor, subject="fleet", detail=known))
