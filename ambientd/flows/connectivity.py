"""Records that a node's links have changed."""

from datetime import datetime

import msgspec

from ambientd.core.connectivity import Changed
from ambientd.core.records import AuditEntry
from ambientd.ports.store import Store

KIND = "node_state_transition"
NODE = "node"


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """A change with its instant. `lost` counts those before it that could not be recorded."""

    changed: Changed
    at: datetime
    lost: int = 0


async def record_change(store: Store, noted: Noted) -> int:
    """Appends one record to the audit; its number. Raises StoreError and UnavailableError with
    nothing written."""
    detail: dict[str, str | int] = {
        "from": noted.changed.before.value,
        "to": noted.changed.after.value,
        "reason": noted.changed.reason,
    }
    if noted.lost:
        detail["lost"] = noted.lost
    entry = AuditEntry(kind=KIND, at=noted.at, actor=NODE, subject=NODE, detail=detail)
    return await store.write(lambda tx: tx.audit.append(entry))
