"""Rosters: whom the nodes of one owner may trust as LAN peers, signed by a control plane's issuer. Pure.

A roster names nodes with their keys and stands for itself: the one with the highest revision replaces all
others, also those that named more. Times in a body are milliseconds since 1970 (UTC).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from ambientd.core.canonical import UNREADABLE, canonical
from ambientd.core.ed25519 import show_key
from ambientd.core.policy import DAY_MS, TIME_MAX_MS
from ambientd.core.signeditem import BODY_MAX_BYTES, SignedItem, issue

KIND = "roster"
VERSION = 1
# A node that is away for longer trusts nobody by it any more; it is signed anew at half of its life.
LIFE_MS = 90 * DAY_MS
# A clock may be so far behind the control plane's.
SKEW_MS = 5 * 60 * 1000
IN_FUTURE = "issued_in_future"

_Text = Annotated[str, Meta(min_length=1, max_length=64)]
_Digits = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Instant = Annotated[int, Meta(ge=0, le=TIME_MAX_MS)]


class Member(msgspec.Struct, frozen=True, order=True, array_like=True, forbid_unknown_fields=True):
    """One node: its id, and its key in hexadecimal digits. A node that changes its key is named with both."""

    node_id: _Text
    digits: _Digits


class Roster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The nodes of one owner that trust each other, until `not_after` (exclusive)."""

    kind: str = KIND
    v: int = VERSION
    network: _Text
    owner: _Text
    revision: Annotated[int, Meta(ge=1)]
    issued_at: _Instant
    not_after: _Instant
    members: tuple[Member, ...]

    @property
    def keys(self) -> dict[str, str]:
        """Names by key, in its text form."""
        return {show_key(bytes.fromhex(one.digits)): one.node_id for one in self.members}


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What a node holds a roster against; `owner` is empty while it belongs to no control plane."""

    network: str
    owner: str
    issuers: frozenset[bytes]


# --- made by a control plane


def members_of(rows: Iterable[tuple[str, bytes]]) -> tuple[Member, ...]:
    """Nodes and keys in the one order that a roster has."""
    return tuple(sorted({Member(node_id, key.hex()) for node_id, key in rows}))


def is_due(last: Roster | None, members: tuple[Member, ...], now_ms: int) -> bool:
    """Whether a new roster has to be made: others belong to it, or the last one is half over.

    A node alone needs none.
    """
    if last is None:
        return len(members) > 1
    return last.members != members or (now_ms - last.issued_at) * 2 >= last.not_after - last.issued_at


def next_roster(
    last: Roster | None, members: tuple[Member, ...], now_ms: int, *, network: str, owner: str
) -> Roster:
    """The roster that takes the place of the last one. Its revision is the time, so that also one that is
    made after an older database was put back is newer than all that nodes may have."""
    return Roster(
        network=network,
        owner=owner,
        revision=max(now_ms, 1 if last is None else last.revision + 1),
        issued_at=now_ms,
        not_after=now_ms + LIFE_MS,
        members=members,
    )


def that_fit(members: tuple[Member, ...], *, network: str, owner: str) -> tuple[Member, ...]:
    """All of them, or none where a roster cannot hold all: some of them would be nobody's choice."""
    longest = next_roster(None, members, TIME_MAX_MS - LIFE_MS, network=network, owner=owner)
    return members if len(_body(longest)) <= BODY_MAX_BYTES else ()


def _body(roster: Roster) -> bytes:
    return canonical(msgspec.to_builtins(roster))


def sign_roster(seed: bytes, public: bytes, roster: Roster) -> SignedItem:
    """The signed item of a roster that fits into one."""
    return issue(seed, public, _body(roster))


# --- read by a node


def read_roster(body: bytes) -> Roster | None:
    """The roster in a body; None for anything but the one form that a roster has."""
    try:
        roster = msgspec.json.decode(body, type=Roster)
        whole = roster.kind == KIND and roster.v == VERSION and _body(roster) == body
    except (*UNREADABLE, ValueError):
        return None
    in_order = list(roster.members) == sorted(set(roster.members))
    return roster if whole and in_order and roster.issued_at < roster.not_after else None


def judge(item: SignedItem, ground: Ground, now_ms: int) -> Roster | str:
    """The roster, or the code that says why this node does not go by it."""
    roster = read_roster(item.body)
    if roster is None:
        return "malformed"
    if item.issuer not in ground.issuers:
        return "untrusted_issuer"
    if not item.is_genuine:
        return "bad_signature"
    if roster.network != ground.network:
        return "other_network"
    if not ground.owner or roster.owner != ground.owner:
        return "other_owner"
    if roster.issued_at > now_ms + SKEW_MS:
        return IN_FUTURE
    if roster.not_after <= now_ms:
        return "expired"
    return roster


def trusted_by(roster: Roster | None, *, own_key: str | None) -> Mapping[str, str]:
    """Keys that a roster names, with the nodes' ids; this node's own is none of them."""
    if roster is None:
        return {}
    return {key: name for key, name in roster.keys.items() if key != own_key}
