"""Leases as the store keeps them."""

import msgspec

from ambientd.core.lease import Held, Lease


class LeaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """One lease that was activated here; times that end in `_at` are RFC 3339. `end_reason` and `ended_at`
    are there exactly when it has ended."""

    held: Held
    issuer: bytes
    activated_at: str
    end_reason: str | None = None
    ended_at: str | None = None

    @property
    def lease(self) -> Lease:
        """What its issuer signed."""
        return self.held.lease

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.end_reason is None
