"""What becomes of a signed item that reaches this node: who may bring it, and what it may change.

Of each policy id a node keeps the item *in force* and, where peers know more than the node may act upon, the
highest one of those as *held*. What a node tells its peers is the highest item of each id, so nodes that talk
long enough tell the same, in whatever order items came, while nothing in force was changed by a peer.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from ambientd.core.policy import LIFE_MAX_MS, Content, Malformed, Tombstone, parse_body
from ambientd.core.signeditem import SignedItem

# The largest step of a revision, so that one item cannot use up all revisions of its policy (FAULTS P10).
JUMP_MAX = 2**20
# An issuer's clock may be ahead of ours by so much.
AHEAD_MAX_MS = 5 * 60 * 1000


class Way(StrEnum):
    """Where an item came from. Peers and an operator who is cut off only add; the others decide."""

    CONTROL_PLANE = "control_plane"
    OPERATOR = "operator"
    PEER = "peer"


class Outcome(StrEnum):
    """What became of an item."""

    ADDED = "added"  # the id was unknown; in force now
    REPLACED = "replaced"  # a newer revision took the place of an older one
    REMOVED = "removed"  # a tombstone took the place of a policy
    HELD = "held"  # newer than what is in force, kept behind it
    KNOWN = "known"  # this very item is here already
    OLDER = "older"  # older than what is known; nothing to do
    REFUSED = "refused"


# Why an item is refused, with a sentence for people.
REFUSALS = {
    "malformed": "the item is not well formed",
    "other_network": "it is of another network (policy.network)",
    "untrusted_issuer": "its issuer is none of policy.issuers",
    "bad_signature": "the signature is not the issuer's over this content",
    "expired": "it has expired",
    "issued_in_future": "it was issued in the future; is a clock wrong?",
    "revision_jump": f"its revision is more than {JUMP_MAX} past the one known",
    "downgrade": "its revision is lower than the one in force",
    "superseded": "a higher revision of it was known here and has expired",
    "revision_conflict": "another content with the same revision is in force",
    "removed": "a tombstone removes this revision",
    "tombstone_too_short": "the tombstone would expire before what it removes",
    "full": "there is no room for more items (policy.max_items)",
    "not_allowed": "the state of the links does not allow it",
}


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Whose items count, at which instant (ms since 1970). `doubt`: the clock is not believed, so that an
    issue in the future says nothing."""

    network: str
    issuers: Collection[bytes]
    now: int
    doubt: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One item as decisions see it."""

    item_id: bytes
    is_tombstone: bool
    revision: int
    not_after: int

    @property
    def rank(self) -> tuple[int, bool, bytes]:
        """Orders the items of one policy id: the same on every node."""
        return self.revision, self.is_tombstone, self.item_id


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What this node knows of one policy id.

    `floor` is the highest revision ever seen and `removed` the highest that a tombstone has named, both
    remembered until `floor_until`, when no item of these revisions can be valid any more.
    """

    in_force: Entry | None = None
    held: Entry | None = None
    floor: int = 0
    removed: int = 0
    floor_until: int = 0


UNKNOWN = Known()


class Candidate(NamedTuple):
    """An item that passed for genuine, with what it says."""

    item: SignedItem
    entry: Entry
    content: Content


class Refused(NamedTuple):
    """An item that did not. `detail` says more for the person who brings it."""

    code: str
    detail: str = ""


class Step(NamedTuple):
    """What is known afterwards, and what became of the item."""

    known: Known
    outcome: Outcome
    code: str = ""


def examine(item: SignedItem, item_id: bytes, trust: Trust) -> Candidate | Refused:
    """Whether an item is well formed, of this network, of a trusted issuer, genuine and valid in time."""
    if item.issuer not in trust.issuers:
        return Refused("untrusted_issuer")
    # Verified before it is read: what a stranger wrote is never parsed.
    if not item.is_genuine:
        return Refused("bad_signature")
    content = parse_body(item.body)
    if isinstance(content, Malformed):
        return Refused("malformed", content.sentence)
    if content.network != trust.network:
        return Refused("other_network")
    if content.not_after <= trust.now:
        return Refused("expired")
    if content.issued_at > trust.now + AHEAD_MAX_MS and not trust.doubt:
        return Refused("issued_in_future")
    entry = Entry(
        item_id=item_id,
        is_tombstone=isinstance(content, Tombstone),
        revision=content.revision,
        not_after=content.not_after,
    )
    return Candidate(item, entry, content)


def settle(known: Known, now: int) -> Known:
    """What is left of it at an instant: expired items go, and what was held behind them takes their place,
    because there is no entry any more that it would overwrite."""
    in_force, held = _alive(known.in_force, now), _alive(known.held, now)
    if in_force is None:
        in_force, held = held, None
    if known.floor_until <= now and in_force is None:
        return UNKNOWN
    return _replaced(known, in_force=in_force, held=held)


def _alive(entry: Entry | None, now: int) -> Entry | None:
    return entry if entry is not None and entry.not_after > now else None


def step(known: Known, candidate: Candidate, *, decides: bool) -> Step:
    """Merges one item into what is known of its id; `known` must be settled.

    With `decides` it comes from the control plane, or from an operator while the node is online: higher
    revisions replace and tombstones remove. Otherwise nothing that is in force is changed.
    """
    entry = candidate.entry
    refused = _refusal(known, entry, decides=decides)
    if known.in_force is not None and known.in_force.item_id == entry.item_id:
        return Step(known, Outcome.KNOWN)
    if known.held is not None and known.held.item_id == entry.item_id and not decides:
        return Step(known, Outcome.KNOWN)
    if refused:
        return Step(known, Outcome.REFUSED, refused)
    if decides or known.in_force is None or _revives(known.in_force, entry):
        return _take_force(known, candidate)
    top = known.held or known.in_force
    if entry.rank <= top.rank:
        return Step(known, Outcome.OLDER)
    return Step(_noted(known, candidate, in_force=known.in_force, held=entry), Outcome.HELD)


def _revives(in_force: Entry, entry: Entry) -> bool:
    """A tombstone is no entry that an import could overwrite: a later policy or tombstone may follow it."""
    return in_force.is_tombstone and entry.rank > in_force.rank


def _refusal(known: Known, entry: Entry, *, decides: bool) -> str:
    """Why an item may not even be kept; empty when it may."""
    if entry.revision > known.floor + JUMP_MAX:
        return "revision_jump"
    if not entry.is_tombstone and entry.revision <= known.removed:
        return "removed"
    current = known.in_force
    if current is None:
        return "superseded" if entry.revision <= known.floor and not entry.is_tombstone else ""
    if entry.is_tombstone and entry.revision >= current.revision and entry.not_after < current.not_after:
        return "tombstone_too_short"
    if not decides:
        return ""
    if entry.revision < current.revision:
        return "downgrade"
    is_removal = entry.is_tombstone and not current.is_tombstone
    return "revision_conflict" if entry.revision == current.revision and not is_removal else ""


def _take_force(known: Known, candidate: Candidate) -> Step:
    entry, before = candidate.entry, known.in_force
    held = known.held if known.held is not None and known.held.rank > entry.rank else None
    after = _noted(known, candidate, in_force=entry, held=held)
    if before is None or (before.is_tombstone and not entry.is_tombstone):
        return Step(after, Outcome.ADDED)
    removes = entry.is_tombstone and not before.is_tombstone
    return Step(after, Outcome.REMOVED if removes else Outcome.REPLACED)


def _noted(known: Known, candidate: Candidate, *, in_force: Entry | None, held: Entry | None) -> Known:
    entry, content = candidate.entry, candidate.content
    until = max(known.floor_until, content.not_after, content.issued_at + LIFE_MAX_MS)
    return Known(
        in_force=in_force,
        held=held,
        floor=max(known.floor, entry.revision),
        removed=max(known.removed, entry.revision) if entry.is_tombstone else known.removed,
        floor_until=until,
    )


def _replaced(known: Known, **changes: Any) -> Known:
    return msgspec.structs.replace(known, **changes)


def exposed(known: Known) -> Entry | None:
    """The item of this id that peers are told of."""
    return known.held or known.in_force
