"""Session leases and revocations in SQLite."""

from typing import Any

import apsw
import msgspec

from ambientd.core.lease import Held, Lease
from ambientd.core.leaserecords import LeaseRow
from ambientd.store.faults import constraints, text, whole

_COLUMNS = (
    "jti, issuer, session_id, policy_id, body, state, end_reason, activated_at, ended_at, activated_ms,"
    " exp_ms, boot_id, boot_ms, elapsed_ms, bytes, denied"
)
_ADD = (
    f"INSERT INTO session_leases ({_COLUMNS})"  # noqa: S608 - constants
    " VALUES (?, ?, ?, ?, ?, 'active', NULL, ?, NULL, ?, ?, ?, ?, ?, ?, ?)"
)
_READ = (
    "SELECT issuer, body, end_reason, activated_at, ended_at, activated_ms, boot_id, boot_ms, elapsed_ms,"
    " bytes, denied FROM session_leases"
)
_NEWEST = " ORDER BY activated_at DESC, jti"
_FIND = f"{_READ} WHERE substr(jti, 1, ?1) = ?2 OR substr(jti, -?1) = ?2{_NEWEST} LIMIT ?3"
_SAVE = (
    "UPDATE session_leases SET boot_id = ?2, boot_ms = ?3, elapsed_ms = max(elapsed_ms, ?4),"
    " bytes = max(bytes, ?5), denied = ?6 WHERE jti = ?1 AND state = 'active'"
)
_SAVE_EXACT = _SAVE.replace("max(bytes, ?5)", "?5")
# Here the bytes that were accounted for ahead of their use are given back.
_END = (
    "UPDATE session_leases SET state = 'ended', end_reason = ?7, ended_at = ?8, boot_id = ?2, boot_ms = ?3,"
    " elapsed_ms = max(elapsed_ms, ?4), bytes = ?5, denied = ?6 WHERE jti = ?1 AND state = 'active'"
)
_REVOKE = "INSERT INTO lease_revocations (jti, issuer, issued_ms, received_at) VALUES (?, ?, ?, ?)"
_FORGET = (
    "DELETE FROM session_leases WHERE jti IN (SELECT jti FROM session_leases"
    " WHERE exp_ms < ? AND state = 'ended' ORDER BY exp_ms LIMIT ?) RETURNING exp_ms"
)
_FORGET_REVOKED = (
    "DELETE FROM lease_revocations WHERE (jti, issuer) IN (SELECT jti, issuer FROM lease_revocations"
    " WHERE issued_ms < ? ORDER BY issued_ms LIMIT ?)"
)


class SqliteLeases:
    """`ports.leases.LeaseRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def add(self, row: LeaseRow, body: bytes) -> None:
        """Inserts an active lease; raises ValueError when its `jti` was used, or its session has one."""
        lease, held = row.lease, row.held
        with constraints("session lease"):
            self._connection.execute(
                _ADD,
                (
                    text(lease.jti, "jti"),
                    row.issuer,
                    text(lease.session_id, "session_id"),
                    text(lease.policy_id, "policy_id"),
                    body,
                    row.activated_at,
                    held.activated_ms,
                    lease.exp,
                    held.boot_id,
                    whole(held.boot_ms, "boot_ms"),
                    whole(held.elapsed_ms, "elapsed_ms"),
                    whole(held.bytes, "bytes"),
                    whole(held.denied, "denied"),
                ),
            )

    def get(self, jti: str) -> LeaseRow | None:
        """One lease by its whole id."""
        found = self._rows(f"{_READ} WHERE jti = ?", (jti,))
        return found[0] if found else None

    def find(self, fragment: str, limit: int) -> list[LeaseRow]:
        """Leases whose id begins or ends with `fragment`, the last activated first."""
        return self._rows(_FIND, (len(fragment), fragment, limit))

    def page(self, *, active: bool | None, limit: int) -> list[LeaseRow]:
        """Leases, the last activated first; `active` leaves out the others."""
        if active is None:
            return self._rows(f"{_READ}{_NEWEST} LIMIT ?", (limit,))
        state = "active" if active else "ended"
        return self._rows(f"{_READ} WHERE state = ?{_NEWEST} LIMIT ?", (state, limit))

    def active(self) -> list[LeaseRow]:
        """All active leases."""
        return self._rows(f"{_READ} WHERE state = 'active'", ())

    def _rows(self, sql: str, bindings: tuple[Any, ...]) -> list[LeaseRow]:
        return [_row(*found) for found in self._connection.execute(sql, bindings)]

    def save(self, held: Held, *, exact: bool = False) -> None:
        """Keeps duration, bytes and denials of an active lease; `bytes` never become fewer unless they are
        exact: nothing more will be used."""
        self._connection.execute(_SAVE_EXACT if exact else _SAVE, _figures(held))

    def end(self, held: Held, reason: str, at: str) -> bool:
        """Ends an active lease with its last figures. False when it had ended."""
        self._connection.execute(_END, (*_figures(held), reason, at))
        return self._connection.changes() > 0

    def count(self) -> int:
        """How many leases are kept."""
        return int(self._connection.execute("SELECT count(*) FROM session_leases").get)

    def revoke(self, jti: str, issuer: bytes, issued_ms: int, at: str) -> bool:
        """Keeps a revocation; False when it was known."""
        if self.is_revoked(jti, issuer):
            return False
        self._connection.execute(_REVOKE, (text(jti, "jti"), issuer, issued_ms, at))
        return True

    def is_revoked(self, jti: str, issuer: bytes) -> bool:
        """Whether this issuer has revoked this lease."""
        sql = "SELECT 1 FROM lease_revocations WHERE jti = ? AND issuer = ?"
        return self._connection.execute(sql, (jti, issuer)).get is not None

    def count_revocations(self) -> int:
        """How many revocations are kept."""
        return int(self._connection.execute("SELECT count(*) FROM lease_revocations").get)

    def forget(self, *, expired_ms: int, revoked_ms: int, limit: int) -> int | None:
        """Drops ended leases that expired before one instant and revocations issued before the other.

        Returns the latest expiry of a lease that was dropped (ms), None when none was.
        """
        self._connection.execute(_FORGET_REVOKED, (revoked_ms, limit))
        return max(
            (int(found[0]) for found in self._connection.execute(_FORGET, (expired_ms, limit))), default=None
        )


def _figures(held: Held) -> tuple[Any, ...]:
    return (
        held.lease.jti,
        held.boot_id,
        whole(held.boot_ms, "boot_ms"),
        whole(held.elapsed_ms, "elapsed_ms"),
        whole(held.bytes, "bytes"),
        whole(held.denied, "denied"),
    )


def _row(
    issuer: bytes, body: bytes, end_reason: str | None, activated_at: str, ended_at: str | None, *figures: Any
) -> LeaseRow:
    activated_ms, boot_id, boot_ms, elapsed, count, denied = figures
    return LeaseRow(
        held=Held(
            lease=msgspec.json.decode(body, type=Lease),
            activated_ms=activated_ms,
            boot_id=boot_id,
            boot_ms=boot_ms,
            elapsed_ms=elapsed,
            bytes=count,
            denied=denied,
        ),
        issuer=issuer,
        activated_at=activated_at,
        end_reason=end_reason,
        ended_at=ended_at,
    )
