"""Rate limits that an administrator has changed for a while: durable, and at hand where requests are counted.

What was changed here counts at once; what another process has changed, with the next `refresh`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from ambientd.core.fleet.records import Caller
from ambientd.core.fleet.throttle import OVERRIDES_MAX, Override, Overrides
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import reject
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import Rejected
from ambientd.ports.fleet.store import FleetStore, FleetTransaction

NO_OVERRIDE = Rejected("NOT_FOUND", "there is no such override that is still in force")
TOKENS_MAX = 4096  # whose account is remembered: half a MiB; a forgotten one costs a read
_NO_USER = reject(
    "VALIDATION_ERROR", "the override is not valid", ("user_id", "unknown", "there is no such account")
)


class Throttle:
    """The use cases of overrides, and the table that requests are counted by."""

    def __init__(
        self, *, store: FleetStore, clock: Clock, caller: Callable[[str], Awaitable[Caller | None]]
    ) -> None:
        """`caller` finds who a token stands for."""
        self._store = store
        self._clock = clock
        self._caller = caller
        self._users: OrderedDict[bytes, str] = OrderedDict()
        self._changes = 0
        self.table = Overrides()

    async def put(self, override: Override) -> Override | Rejected:
        """Takes an override that was found valid, in place of the one for the same tier and subject."""
        now = self._clock.now()

        def work(tx: FleetTransaction) -> Overrides | Rejected:
            tx.throttle.lock()
            tx.throttle.remove_expired(now, OVERRIDES_MAX)
            if override.user_id is not None and tx.users.get(override.user_id) is None:
                return _NO_USER
            rows = tx.throttle.all(now)
            same = any(one.tier is override.tier and one.subject == override.subject for one in rows)
            if not same and len(rows) >= OVERRIDES_MAX:
                text = f"there are {OVERRIDES_MAX} overrides; remove one, or change the configuration"
                return Rejected("CONFLICT", text)
            tx.throttle.put(override)
            tx.audit.append(
                AuditEntry(
                    kind="throttle_override_set",
                    at=now,
                    actor=f"user:{override.created_by}",
                    subject=override.override_id,
                    detail=_told(override),
                )
            )
            return Overrides(tx.throttle.all(now), revision=tx.throttle.revision())

        after = await self._store.write(work)
        if isinstance(after, Rejected):
            return after
        self._changed(after)
        return override

    async def remove(self, override_id: str, by: str) -> Rejected | None:
        """Takes an override back before its time; why not, when there is none."""
        now = self._clock.now()

        def work(tx: FleetTransaction) -> Overrides | Rejected:
            tx.throttle.lock()
            found = next((one for one in tx.throttle.all(now) if one.override_id == override_id), None)
            if found is None or not tx.throttle.remove(override_id):
                return NO_OVERRIDE
            tx.audit.append(
                AuditEntry(
                    kind="throttle_override_removed",
                    at=now,
                    actor=by,
                    subject=override_id,
                    detail=_told(found),
                )
            )
            return Overrides(tx.throttle.all(now), revision=tx.throttle.revision())

        after = await self._store.write(work)
        if isinstance(after, Rejected):
            return after
        self._changed(after)
        return None

    async def all(self) -> list[Override]:
        """Those that have not expired, oldest first."""
        now = self._clock.now()
        return await self._store.read(lambda tx: tx.throttle.all(now))

    async def refresh(self) -> None:
        """Reads what other processes have changed. Raises as `FleetStore.read`."""
        now, changes = self._clock.now(), self._changes

        def work(tx: FleetTransaction) -> Overrides:
            return Overrides(tx.throttle.all(now), revision=tx.throttle.revision())

        found = await self._store.read(work)
        if self._changes == changes:  # else what was read may be older than what is here
            self.table = found

    def _changed(self, after: Overrides) -> None:
        self._changes += 1
        if after.revision > self.table.revision:
            self.table = after

    async def user_of(self, token: str) -> str | None:
        """The account of a token; None when it opens nothing. For counting only: what was found once is
        remembered, also when the token is no longer good. Raises as `FleetStore.read`."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._users.get(digest)
        if known is not None:
            self._users.move_to_end(digest)
            return known
        caller = await self._caller(token)
        if caller is None:
            return None
        self._users[digest] = caller.user_id
        if len(self._users) > TOKENS_MAX:
            self._users.popitem(last=False)
        return caller.user_id


def _told(override: Override) -> dict[str, object]:
    """An override as the audit keeps it."""
    return {
        "tier": override.tier.value,
        "for": override.subject,
        "rpm": int(override.rate.per_minute),
        "burst": override.rate.burst,
        "expires_at": rfc3339_ms(override.expires_at),
    }
