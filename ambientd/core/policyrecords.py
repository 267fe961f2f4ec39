"""Policies as they are kept and as they are asked for."""

import msgspec

from ambientd.core.policy import POLICY, TOMBSTONE, Content, Tombstone
from ambientd.core.policymerge import Candidate, Way
from ambientd.core.signeditem import SignedItem


class PolicyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One kept item with where it came from; times in ms since 1970."""

    item_id: bytes
    policy_id: str
    kind: str
    revision: int
    in_force: bool
    not_after: int
    issued_at: int
    item: SignedItem
    way: Way
    sender: str
    received_at: int


def record_of(candidate: Candidate, *, way: Way, sender: str, at: int) -> PolicyRecord:
    """An accepted item as it is kept; not in force yet."""
    content: Content = candidate.content
    return PolicyRecord(
        item_id=candidate.entry.item_id,
        policy_id=content.id,
        kind=TOMBSTONE if isinstance(content, Tombstone) else POLICY,
        revision=content.revision,
        in_force=False,
        not_after=content.not_after,
        issued_at=content.issued_at,
        item=candidate.item,
        way=way,
        sender=sender,
        received_at=at,
    )


class PolicyQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which policies to list, by id from `after` on (exclusive).

    `state`: "in_force", "removed" (a tombstone is in force), "held" (something newer waits), or "all".
    `text` must be in the id.
    """

    state: str = "all"
    text: str = ""
    after: str = ""
    limit: int = 100


class PolicyTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over all items of trusted issuers; `soon` is when the next policy in force expires,
    `next_expiry` when any item does, or did (ms)."""

    policies: int = 0
    tombstones: int = 0
    held: int = 0
    revision: int = 0
    soon: int | None = None
    next_expiry: int | None = None
    untrusted: int = 0
