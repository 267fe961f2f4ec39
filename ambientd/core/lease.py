"""Session leases: what an issuer signs for one session of one node, and when a node may act on it.

Times are milliseconds since 1970. A body counts only in its canonical form and only with the fields of its
version: a condition that this program does not know must not pass unread.

A lease is checked in this order, and the first refusal is told: issuer, signature, form, network, node; then
what the links allow; revoked, used before, not yet valid, expired, clock; then policy, destinations and
protocols, and room. What a stranger signed is not even parsed.
"""

import functools
from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ambientd.core.canonical import canonical
from ambientd.core.decode import BodyDecoder, Problems
from ambientd.core.ed25519 import show_key
from ambientd.core.policy import Policy
from ambientd.core.signeditem import BODY_MAX_BYTES, SignedItem, issue
from ambientd.core.trustedtime import Trusted
from ambientd.wire.enums import Connectivity
from ambientd.wire.messages import ErrorDetail

LEASE, REVOCATION = "lease", "lease_revocation"
DAY_MS = 86_400_000
# As of policies. With it, a revocation can be forgotten when no lease that it may mean is valid any more.
LIFE_MAX_MS = 400 * DAY_MS
# An issuer's clock may be ahead of ours by so much.
AHEAD_MAX_MS = 5 * 60 * 1000
MBPS_MAX = 100_000
BYTES_PER_MS = 125  # of one megabit a second
# A session that has just begun may send what its rate allows for one second.
FIRST_MS = 1_000
COUNT_MAX = 2**53 - 1
TIME_MAX_MS = 253_402_300_799_999
# Names of routes beside `leases/{jti}`.
RESERVED = frozenset(("revocations",))

_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}\Z")]
_Jti = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]
_Network = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
_PolicyId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
_Key = Annotated[str, Meta(pattern=r"\Aed25519:[0-9a-f]{64}\Z")]
_Time = Annotated[int, Meta(ge=0, le=TIME_MAX_MS)]
_Protocol = Literal["http", "https", "quic", "tcp", "udp"]


class Lease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one session may use: a policy, from `nbf` until `exp` (exclusive), for `max_duration_ms` at most.

    `node` is the public key of the one node that it is for. `max_mbps` is the mean rate since the activation
    in megabits a second; `max_bytes` bounds the sum as well.
    """

    kind: Literal["lease"] = "lease"
    v: Literal[1] = 1
    network: _Network
    jti: _Jti
    node: _Key
    session_id: _Name
    policy_id: _PolicyId
    issued_at: _Time
    nbf: _Time
    exp: _Time
    max_duration_ms: Annotated[int, Meta(ge=1, le=LIFE_MAX_MS)]
    max_mbps: Annotated[int, Meta(ge=1, le=MBPS_MAX)]
    max_bytes: Annotated[int, Meta(ge=1, le=COUNT_MAX)] | None = None
    protocols: Annotated[tuple[_Protocol, ...], Meta(min_length=1, max_length=5)]


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Takes a lease of the same issuer back, whether this node has seen it or not."""

    kind: Literal["lease_revocation"] = "lease_revocation"
    v: Literal[1] = 1
    network: _Network
    jti: _Jti
    issued_at: _Time


Content = Lease | Revocation


class Refusal(NamedTuple):
    """Why not; `code` is one of `REASONS`. `detail` says more for the person who asked."""

    code: str
    detail: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        text = REASONS[self.code]
        return f"{text}: {self.detail}" if self.detail else text


REASONS = {
    # an item that is brought
    "untrusted_issuer": "its issuer is none of policy.lease_issuers",
    "bad_signature": "the signature is not the issuer's over this content",
    "malformed": "the item is not well formed",
    "other_kind": "this is another kind of item",
    "other_network": "it is of another network (policy.network)",
    "other_node": "it is bound to another node",
    "no_identity": "this node has no identity that a lease could be bound to",
    "no_upstream": "the node has no upstream",
    "not_probed": "the links have not been probed yet",
    "revoked": "its issuer has revoked it",
    "used": "it was used before; a lease works once",
    "record_lost": "it was issued before this node lost its record of used leases",
    "not_yet_valid": "it is not valid yet",
    "issued_in_future": "it was issued in the future; is a clock wrong?",
    "expired": "it has expired",
    "clock_in_doubt": "the clock is in doubt, so it may have expired",
    "policy_unknown": "no policy with this id is in force",
    "no_destinations": "its policy allows no destination",
    "protocol_exceeds_policy": "it allows a protocol that its policy does not",
    "session_busy": "another lease of this session is just beginning or ending; try again",
    "full": "there is no room for more leases",
    # traffic
    "no_lease": "no lease of this session is active",
    "lease_unknown": "no lease with this id is known",
    "lease_ended": "the lease has ended",
    "other_session": "the lease is bound to another session",
    "duration": "the session has lasted as long as its lease allows",
    "protocol_not_in_lease": "the lease does not allow this protocol",
    "bandwidth": "more bytes than the lease allows by now",
}


def no_link(state: Connectivity) -> Refusal:
    """The refusal of a state of the links that does not allow it."""
    return Refusal("not_probed" if state is Connectivity.UNKNOWN else "no_upstream", state.value)


class End(StrEnum):
    """Why an active lease ended. It never becomes active again."""

    EXPIRED = "expired"
    DURATION = "duration"
    REVOKED = "revoked"
    OPERATOR = "operator"
    REPLACED = "replaced"
    SESSION_OVER = "session_over"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """An active lease. It was activated at `activated_ms` by trusted time, and had lasted `elapsed_ms` when
    the boot clock of `boot_id` said `boot_ms`. `bytes` are accounted for, some of them ahead of their use."""

    lease: Lease
    activated_ms: int
    boot_id: str
    boot_ms: int
    elapsed_ms: int = 0
    bytes: int = 0
    denied: int = 0


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Who may issue, and whom a lease must be for."""

    network: str
    node: bytes | None
    issuers: Collection[bytes]


# --- items


def build_item(seed: bytes, public: bytes, content: Content) -> SignedItem:
    """Signs a lease or a revocation; raises ValueError for one that `parse_body` refuses."""
    fields = msgspec.to_builtins(content)
    body = canonical({name: value for name, value in fields.items() if value is not None})
    parsed = parse_body(body)
    if not isinstance(parsed, Problems):
        return issue(seed, public, body)
    raise ValueError("; ".join(f"{one.field} {one.message}" for one in parsed.details))


@functools.cache
def _decoders() -> dict[str, BodyDecoder[Any]]:
    """Made when the first item comes: most nodes never see one."""
    return {LEASE: BodyDecoder(Lease), REVOCATION: BodyDecoder(Revocation)}


def parse_body(body: bytes) -> Content | Problems:
    """The lease or revocation in a body, or everything that is wrong with it. Never raises."""
    if len(body) > BODY_MAX_BYTES:
        return _problem("body", "length", f"is longer than {BODY_MAX_BYTES} bytes")
    fields = _fields(body)
    if fields is None:
        return _problem("body", "syntax", "is no canonical JSON object")
    kind = fields.get("kind")
    decoder = _decoders().get(kind) if isinstance(kind, str) else None
    if decoder is None:
        return _problem("kind", "enum", f"must be {LEASE} or {REVOCATION}")
    missing = [name for name in ("kind", "v") if name not in fields]
    if missing:
        return _problem(missing[0], "required", "is required")
    found: Content | Problems = decoder.decode(body)
    return found if isinstance(found, (Problems, Revocation)) else _sound(found)


def _fields(body: bytes) -> dict[str, Any] | None:
    """The object in a body, if this is the one way to write it."""
    try:
        fields = msgspec.json.decode(body)
        is_canonical = isinstance(fields, dict) and canonical(fields) == body
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    return fields if is_canonical else None


def _problem(field: str, kind: str, message: str) -> Problems:
    return Problems((ErrorDetail(field, kind, message),))


def _sound(lease: Lease) -> Lease | Problems:
    """What only the whole can tell."""
    found = []
    if lease.jti in RESERVED:
        found.append(ErrorDetail("jti", "reserved", "is the name of a route"))
    if lease.exp <= max(lease.nbf, lease.issued_at):
        found.append(ErrorDetail("exp", "range", "must be after nbf and issued_at"))
    if lease.exp - lease.issued_at > LIFE_MAX_MS:
        found.append(ErrorDetail("exp", "range", f"must be within {LIFE_MAX_MS // DAY_MS} days of issued_at"))
    if len(set(lease.protocols)) != len(lease.protocols):
        found.append(ErrorDetail("protocols", "duplicate", "must name nothing twice"))
    return Problems(tuple(found)) if found else lease


def authentic(item: SignedItem, ground: Ground) -> Content | Refusal:
    """What a trusted issuer says to this node, or why it is not that."""
    if item.issuer not in ground.issuers:
        return Refusal("untrusted_issuer")
    if not item.is_genuine:
        return Refusal("bad_signature")
    content = parse_body(item.body)
    if isinstance(content, Problems):
        return Refusal("malformed", "; ".join(f"{one.field} {one.message}" for one in content.details))
    if content.network != ground.network:
        return Refusal("other_network")
    if isinstance(content, Lease):
        if ground.node is None:
            return Refusal("no_identity")
        if content.node != show_key(ground.node):
            return Refusal("other_node")
    return content


# --- activating


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What this node remembers of one `jti`. Of leases that are forgotten the latest expiry is kept:
    `forgotten_ms`; whatever expires by then may have been one of them. Nothing is remembered of before
    `since_ms`, when a record was lost."""

    used: bool
    revoked: bool
    forgotten_ms: int = 0
    since_ms: int = 0


def admit(lease: Lease, record: Record, time: Trusted, policy: Policy | None) -> Refusal | None:
    """Why a genuine lease may not become active at this moment; None when it may."""
    if record.revoked:
        return Refusal("revoked")
    if record.used:
        return Refusal("used")
    if lease.issued_at < record.since_ms:
        return Refusal("record_lost")
    refused = _untimely(lease, record, time)
    if refused is not None:
        return refused
    if policy is None:
        return Refusal("policy_unknown")
    if not policy.destinations:
        return Refusal("no_destinations")
    beyond = sorted(set(lease.protocols) - {protocol.value for protocol in policy.protocols})
    return Refusal("protocol_exceeds_policy", ", ".join(beyond)) if beyond else None


def _untimely(lease: Lease, record: Record, time: Trusted) -> Refusal | None:
    """Both bounds of the time must fit: what may be too early or too late is refused."""
    if lease.exp <= max(time.earliest_ms, record.forgotten_ms):
        return Refusal("expired")
    if lease.issued_at > time.earliest_ms + AHEAD_MAX_MS:
        return Refusal("clock_in_doubt" if time.doubt else "issued_in_future")
    if lease.nbf > time.earliest_ms:
        return Refusal("clock_in_doubt" if time.doubt else "not_yet_valid")
    return _unsure(lease, time)


def _unsure(lease: Lease, time: Trusted) -> Refusal | None:
    if time.latest_ms is None or time.latest_ms >= lease.exp:
        return Refusal("clock_in_doubt", time.doubt or "")
    return None


# --- active leases


def elapsed_ms(held: Held, time: Trusted) -> int:
    """How long a lease has been active: by the boot clock, and over a start of the machine by what trusted
    time says at least. Never less than was kept."""
    if held.boot_id == time.boot_id:
        return held.elapsed_ms + max(0, time.boot_ms - held.boot_ms)
    return max(held.elapsed_ms, time.earliest_ms - held.activated_ms)


def rebased(held: Held, time: Trusted) -> Held:
    """The same with its duration up to now. Nothing changes while it is not known how long the machine was
    off."""
    if held.boot_id != time.boot_id and time.latest_ms is None:
        return held
    return msgspec.structs.replace(
        held, boot_id=time.boot_id, boot_ms=time.boot_ms, elapsed_ms=elapsed_ms(held, time)
    )


def over(held: Held, time: Trusted) -> End | None:
    """Whether a lease has ended by itself. A wall clock that is not believed ends nothing."""
    if time.earliest_ms >= held.lease.exp:
        return End.EXPIRED
    return End.DURATION if elapsed_ms(held, time) >= held.lease.max_duration_ms else None


def left_ms(held: Held, time: Trusted) -> int:
    """How long a lease can last from now on, at most."""
    return max(0, min(held.lease.exp - time.earliest_ms, held.lease.max_duration_ms - elapsed_ms(held, time)))


def unusable(held: Held, time: Trusted) -> Refusal | None:
    """Why an active lease allows nothing at this moment; None when it does."""
    match over(held, time):
        case End.EXPIRED:
            return Refusal("expired")
        case End.DURATION:
            return Refusal("duration")
        case _:
            return _unsure(held.lease, time)


def allowance(lease: Lease, elapsed: int) -> int:
    """Bytes that a lease allows from its activation until now."""
    span = min(max(elapsed, FIRST_MS), max(lease.max_duration_ms, FIRST_MS))
    by_rate = lease.max_mbps * BYTES_PER_MS * span
    return by_rate if lease.max_bytes is None else min(by_rate, lease.max_bytes)
