"""Issuers, policies and bundles for tests."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ambientd.core.destination import Protocol
from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.policy import DAY_MS, LIFE_MAX_MS, Policy, Tombstone, build_item
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import to_ms

NETWORK = "fleet-1"
AT = to_ms(datetime(2026, 11, 20, 12, 0, tzinfo=UTC))


class Issuer:
    """An issuer with a key of its own."""

    def __init__(self, number: int = 1) -> None:
        self.seed = bytes([number]) * 32
        self.public = public_of(self.seed)
        self.name = show_key(self.public)

    def policy(self, policy_id: str, revision: int = 1, *destinations: str, **more: Any) -> SignedItem:
        """Signed; allows `https://<id>.example` unless told otherwise, for a hundred days."""
        facts: dict[str, Any] = {
            "network": NETWORK,
            "destinations": destinations or (f"https://{policy_id.lower().replace('_', '-')}.example",),
            "protocols": (Protocol.HTTPS,),
            "issued_at": AT - DAY_MS + min(revision, 1000),
            "not_before": AT - DAY_MS,
            "not_after": AT + 100 * DAY_MS,
        }
        return build_item(self.seed, self.public, Policy(id=policy_id, revision=revision, **(facts | more)))

    def tombstone(self, policy_id: str, revision: int = 1, **more: Any) -> SignedItem:
        """Signed; lives as long as it has to."""
        issued = more.pop("issued_at", AT - DAY_MS + min(revision, 1000))
        facts: dict[str, Any] = {"network": NETWORK, "issued_at": issued, "not_after": issued + LIFE_MAX_MS}
        return build_item(
            self.seed, self.public, Tombstone(id=policy_id, revision=revision, **(facts | more))
        )


def line_of(item: SignedItem) -> dict[str, str]:
    """An item as it stands in a bundle."""
    return {"body": item.body.decode(), "issuer": show_key(item.issuer), "signature": item.signature.hex()}


def bundle(items: Sequence[SignedItem]) -> str:
    """Items as NDJSON."""
    return "".join(json.dumps(line_of(item)) + "\n" for item in items)
