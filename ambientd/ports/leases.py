"""What session leases need: a place to be kept, and the policies that they name."""

from typing import Protocol

from ambientd.core.lease import Held
from ambientd.core.leaserecords import LeaseRow
from ambientd.core.policy import Policy, Verdict


class LeaseRepository(Protocol):
    """Activated leases and revocations."""

    def add(self, row: LeaseRow, body: bytes) -> None:
        """Inserts an active lease; raises ValueError when its `jti` was used, or its session has one."""

    def get(self, jti: str) -> LeaseRow | None:
        """One lease by its whole id."""

    def find(self, fragment: str, limit: int) -> list[LeaseRow]:
        """Leases whose id begins or ends with `fragment`, the last activated first."""

    def page(self, *, active: bool | None, limit: int) -> list[LeaseRow]:
        """Leases, the last activated first; `active` leaves out the others."""

    def active(self) -> list[LeaseRow]:
        """All active leases."""

    def save(self, held: Held, *, exact: bool = False) -> None:
        """Keeps duration, bytes and denials of an active lease; `bytes` never become fewer unless they are
        exact: nothing more will be used."""

    def end(self, held: Held, reason: str, at: str) -> bool:
        """Ends an active lease with its last figures. False when it had ended."""

    def count(self) -> int:
        """How many leases are kept."""

    def revoke(self, jti: str, issuer: bytes, issued_ms: int, at: str) -> bool:
        """Keeps a revocation; False when it was known."""

    def is_revoked(self, jti: str, issuer: bytes) -> bool:
        """Whether this issuer has revoked this lease."""

    def count_revocations(self) -> int:
        """How many revocations are kept."""

    def forget(self, *, expired_ms: int, revoked_ms: int, limit: int) -> int | None:
        """Drops ended leases that expired before one instant and revocations issued before the other.

        Returns the latest expiry of a lease that was dropped (ms), None when none was.
        """


class EgressPolicies(Protocol):
    """Policies in force, asked for by what they allow. Both raise as `Store.read` does."""

    async def check(
        self,
        destination: str,
        protocol: str | None = None,
        *,
        policy_id: str | None = None,
        address: str | None = None,
    ) -> Verdict:
        """Whether any policy in force, or this one, allows a destination now; the links are not asked."""

    async def policy(self, policy_id: str) -> Policy | None:
        """The policy in force and valid under an id."""
