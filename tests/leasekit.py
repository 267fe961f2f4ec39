"""Leases for tests."""

from typing import Any

from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.lease import Lease, Revocation, build_item
from ambientd.core.signeditem import SignedItem
from tests.fakes.trustedtime import START_MS

NETWORK = "fleet-1"
NODE_SEED = bytes([77]) * 32
NODE = public_of(NODE_SEED)
HOUR = 3_600_000
DAY = 24 * HOUR


class LeaseIssuer:
    """An issuer of leases with a key of its own."""

    def __init__(self, number: int = 9) -> None:
        self.seed = bytes([number]) * 32
        self.public = public_of(self.seed)
        self.name = show_key(self.public)

    def lease(self, jti: str = "lease-1", **more: Any) -> SignedItem:
        """Signed; for the session `ses-1` and the policy `web`, for a day, an hour at 8 Mbit/s."""
        return build_item(self.seed, self.public, lease_of(jti, **more))

    def revocation(self, jti: str = "lease-1", **more: Any) -> SignedItem:
        """Signed."""
        facts: dict[str, Any] = {"network": NETWORK, "issued_at": START_MS}
        return build_item(self.seed, self.public, Revocation(jti=jti, **(facts | more)))


def lease_of(jti: str = "lease-1", **more: Any) -> Lease:
    """As above, not signed."""
    facts: dict[str, Any] = {
        "network": NETWORK,
        "node": show_key(NODE),
        "session_id": "ses-1",
        "policy_id": "web",
        "issued_at": START_MS - 1_000,
        "nbf": START_MS - 1_000,
        "exp": START_MS + DAY,
        "max_duration_ms": HOUR,
        "max_mbps": 8,
        "protocols": ("https",),
    }
    return Lease(jti=jti, **(facts | more))
