"""Overrides of rate limits."""

import ipaddress
from datetime import datetime

from ambientd.core.fleet.ratelimit import Rate, Tier
from ambientd.core.fleet.throttle import Override
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Row, Sql, marks, ms, one

_COLUMNS = "override_id, tier, network, user_id, rpm, burst, reason, created_by, created_at, expires_at"
_ADD = f"INSERT INTO throttle_overrides ({_COLUMNS}) VALUES ({marks(_COLUMNS)})"
_ALL = f"SELECT {_COLUMNS} FROM throttle_overrides WHERE expires_at > ? ORDER BY created_at, override_id"
_REPLACE = "DELETE FROM throttle_overrides WHERE tier = ? AND {column} = ? RETURNING override_id"
_REMOVE = "DELETE FROM throttle_overrides WHERE override_id = ?"
_REMOVE_EXPIRED = (
    "DELETE FROM throttle_overrides WHERE override_id IN"
    " (SELECT override_id FROM throttle_overrides WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"
)
_REVISION = "SELECT value FROM fleet_counters WHERE name = 'throttle_revision'"
_CHANGED = "UPDATE fleet_counters SET value = value + 1 WHERE name = 'throttle_revision'"


class Throttles:
    """`ports.fleet.throttle.ThrottleRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def lock(self) -> None:
        """Nobody else changes overrides until the end of this transaction."""
        self._sql.serialize("throttle")

    def all(self, now: datetime) -> list[Override]:
        """Those that have not expired, oldest first."""
        return [_override(row) for row in self._sql.rows(_ALL, (ms(now),))]

    def revision(self) -> int:
        """Grows with each change."""
        ((value,),) = self._sql.rows(_REVISION)
        return int(value)

    def put(self, override: Override) -> str | None:
        """Adds one in place of the one for the same tier and client or account, whose id is returned."""
        network = None if override.network is None else str(override.network)
        column, subject = ("user_id", override.user_id) if network is None else ("network", network)
        before = one(self._sql.rows(_REPLACE.format(column=column), (override.tier, subject)))
        row = (
            override.override_id,
            override.tier,
            network,
            override.user_id,
            int(override.rate.per_minute),
            override.rate.burst,
            override.reason,
            override.created_by,
            ms(override.created_at),
            ms(override.expires_at),
        )
        self._sql.run(_ADD, row)
        self._sql.run(_CHANGED)
        return None if before is None else str(before[0])

    def remove(self, override_id: str) -> bool:
        """False when there is no such override."""
        if self._sql.run(_REMOVE, (override_id,)) == 0:
            return False
        self._sql.run(_CHANGED)
        return True

    def remove_expired(self, before: datetime, limit: int) -> int:
        """Removes what expired before an instant; how many."""
        return self._sql.run(_REMOVE_EXPIRED, (ms(before), limit))


def _override(row: Row) -> Override:
    return Override(
        override_id=row[0],
        tier=Tier(row[1]),
        network=None if row[2] is None else ipaddress.ip_network(row[2]),
        user_id=row[3],
        rate=Rate(row[4], row[5]),
        reason=row[6],
        created_by=row[7],
        created_at=from_ms(row[8]),
        expires_at=from_ms(row[9]),
    )
