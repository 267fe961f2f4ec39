"""A snapshot: signed items that one node sends to one other, and how it is checked.

Bytes: framed(DOMAIN, head, body, seal). `head` is canonical JSON, `body` a MessagePack array of items,
`seal` the SHA3-256 of framed(DOMAIN, head, body) and the sender's Ed25519 signature over framed(SEAL_DOMAIN,
digest).
What was received is what is hashed and verified; nothing is encoded again for that. A snapshot cannot carry
keys: the head has no place for one and an item is signed by an issuer whom the receiver trusts, or is none.
"""

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta

from ambientd.core.canonical import UNREADABLE, framed, unframed
from ambientd.core.ed25519 import PREFIX, SIGNATURE_BYTES, show_key, verify
from ambientd.core.peers.floors import JUMP_MAX, Floors, SignerFloor
from ambientd.core.signeditem import SignedItem

DOMAIN = b"ambient-snapshot-v1"
SEAL_DOMAIN = b"ambient-snapshot-seal-v1"
VERSION = 1
SUPPORTED = frozenset({1})

MAX_BYTES = 256 * 1024  # FAULTS P3
# As many of the smallest items as MAX_BYTES hold; more would be nothing but work.
MAX_ITEMS = 2048
HEAD_MAX_BYTES = 1024
DIGEST_BYTES = 32

MINUTE_MS = 60_000
DAY_MS = 86_400_000
VALIDITY_MAX_MS = 7 * DAY_MS
# Clocks of honest nodes differ by so much at most (FAULTS P5).
AHEAD_MAX_MS = 5 * MINUTE_MS

_KEY = r"^ed25519:[0-9a-f]{64}\Z"
_NAME = r"^[A-Za-z0-9._-]{1,64}\Z"
_COUNT = Meta(ge=1, le=2**63 - 1)


class Reason(StrEnum):
    """Why a snapshot was refused."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    VERSION = "version"
    NETWORK = "network"
    AUDIENCE = "audience"
    UNKNOWN_SIGNER = "unknown_signer"
    KEY_ROLE = "key_role"
    DOWNGRADE = "downgrade"
    EXPIRED = "expired"
    TOO_OLD = "too_old"
    FROM_FUTURE = "from_future"
    REPLAYED = "replayed"
    JUMP = "jump"
    UNPROVEN = "unproven"
    BAD_SIGNATURE = "bad_signature"
    BAD_DIGEST = "bad_digest"


class Refused(msgspec.Struct, frozen=True):
    """A snapshot that was not taken; nothing of it may be used. `text` is for the operator."""

    code: Reason
    text: str


class _Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In alphabetical order, so that the encoder makes canonical JSON of it. What must be equal to something
    that the reader knows has no pattern of its own."""

    audience: str
    challenge: str
    issued_at: Annotated[int, _COUNT]
    items: Annotated[int, Meta(ge=0, le=MAX_ITEMS)]
    label: Annotated[str, Meta(pattern=_NAME)]
    line: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    network: str
    not_after: Annotated[int, _COUNT]
    sender: Annotated[str, Meta(pattern=_KEY)]
    sequence: Annotated[int, _COUNT]
    version: int


class _AnyHead(msgspec.Struct, frozen=True):
    """What the heads of all versions have in common."""

    version: int


_head = msgspec.json.Decoder(_Head)
_any_head = msgspec.json.Decoder(_AnyHead)
_items = msgspec.msgpack.Decoder(Annotated[tuple[SignedItem, ...], Meta(max_length=MAX_ITEMS)])


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says. Keys are raw, times are milliseconds since the epoch (UTC); `challenge` is the
    receiver's nonce of the link that it was made for, empty when it was made for none. `label` is a name for
    people, not an identity."""

    network: str
    sender: bytes
    label: str
    audience: bytes
    line: str
    sequence: int
    issued_at: int
    not_after: int
    challenge: bytes = b""
    version: int = VERSION
    items: tuple[SignedItem, ...] = ()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that passed every check. Write `floor` down as the sender's *before* the items are used;
    `time_unverified` says that the clock was in doubt and only the counter was checked."""

    snapshot: Snapshot
    digest: bytes
    floor: SignerFloor
    time_unverified: bool = False


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Whose snapshots are taken. `peers` are the trusted keys of nodes, `revoked` is stronger than that;
    `other_roles` are keys that may issue items or leases: they are known, and no peers for that."""

    peers: frozenset[bytes]
    revoked: frozenset[bytes] = frozenset()
    other_roles: frozenset[bytes] = frozenset()

    def refusal(self, key: bytes, own: bytes) -> Refused | None:
        """Why a key is no peer's; None when it is one."""
        if key == own:
            return Refused(Reason.KEY_ROLE, "it bears this node's own key")
        if key in self.revoked:
            return Refused(Reason.UNKNOWN_SIGNER, f"the key {short(key)} was revoked")
        if key in self.peers:
            return None
        if key in self.other_roles:
            return Refused(
                Reason.KEY_ROLE, f"the key {short(key)} issues policies or leases; it is no peer's"
            )
        return Refused(Reason.UNKNOWN_SIGNER, f"the key {short(key)} is not trusted: ambientctl peers trust")


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """Who checks, and within which limits; `max_age_ms` is `peers.max_age`."""

    key: bytes
    network: str
    trust: Trust
    max_bytes: int = MAX_BYTES
    max_items: int = MAX_ITEMS
    max_age_ms: int = DAY_MS


class Moment(msgspec.Struct, frozen=True):
    """An instant: `now` in monotonic seconds, `at_ms` of the trusted clock in milliseconds since the epoch,
    and why that clock is not believed (None when it is)."""

    now: float
    at_ms: int
    doubt: str | None = None


def short(key: bytes) -> str:
    """The beginning of a key's text, for people."""
    return f"{PREFIX}{key[:4].hex()}…"


def build(snapshot: Snapshot, sign: Callable[[bytes], bytes]) -> bytes:
    """The bytes of a snapshot. `sign` makes the sender's detached signature (`NodeIdentity.sign`).

    Items are put into their order; doubles (same issuer, same body) must not be among them.
    """
    items = sorted(snapshot.items)
    head = _Head(
        audience=show_key(snapshot.audience),
        challenge=snapshot.challenge.hex(),
        issued_at=snapshot.issued_at,
        items=len(items),
        label=snapshot.label,
        line=snapshot.line,
        network=snapshot.network,
        not_after=snapshot.not_after,
        sender=show_key(snapshot.sender),
        sequence=snapshot.sequence,
        version=snapshot.version,
    )
    content = framed(DOMAIN, msgspec.json.encode(head), msgspec.msgpack.encode(items))
    digest = hashlib.sha3_256(content).digest()
    return content + framed(digest + sign(framed(SEAL_DOMAIN, digest)))


def size_of(items: Iterable[SignedItem]) -> int:
    """How many bytes a snapshot with these items has at most."""
    return _EMPTY_MAX_BYTES + sum(len(item.body) + _ITEM_ROOM for item in items)


def pack(items: Sequence[SignedItem], *, max_bytes: int, max_items: int = MAX_ITEMS) -> int:
    """How many of these items, from the first, fit into one snapshot; 0 when the first alone does not."""
    size = _EMPTY_MAX_BYTES
    for count, item in enumerate(items[:max_items]):
        size += len(item.body) + _ITEM_ROOM
        if size > max_bytes:
            return count
    return min(len(items), max_items)


# Frames of four parts, domain, head and seal; an item's key, signature, lengths.
_EMPTY_MAX_BYTES = 4 * 8 + len(DOMAIN) + HEAD_MAX_BYTES + DIGEST_BYTES + SIGNATURE_BYTES + 5
_ITEM_ROOM = 32 + SIGNATURE_BYTES + 3 + 2 + 2 + 1


def check(
    raw: bytes, *, reader: Reader, floors: Floors, moment: Moment, challenge: bytes = b""
) -> Checked | Refused:
    """What a snapshot says, or why it is refused. Changes nothing and never raises for foreign bytes.

    In this order, cheapest first, the signature before anything of the body: size; frames, head, version;
    network, audience, sender's trust; version against the sender's floor; times; counter; signature; digest;
    body. `challenge` is the nonce that this node sent on the link on which the snapshot came: it must be in
    it. Without one (a file), only a line that is known, or one that began after this node remembers, counts.
    """
    opened = _opened(raw, reader)
    if isinstance(opened, Refused):
        return opened
    head, body, seal = opened
    sender = bytes.fromhex(head.sender[len(PREFIX) :])
    floor = floors.of(sender)
    refused = (
        _address_refusal(head, sender, floor, reader)
        or _time_refusal(head, moment, reader)
        or _count_refusal(
            head, floor, since=max(floors.since, floor.since), moment=moment, challenge=challenge
        )
        or _seal_refusal(raw, sender, seal)
    )
    if refused is not None:
        return refused
    items = _read_items(body, head.items)
    if items is None:
        return Refused(Reason.MALFORMED, "its items are not what the head announces, or not in order")
    return Checked(
        snapshot=Snapshot(
            network=head.network,
            sender=sender,
            label=head.label,
            audience=reader.key,
            line=head.line,
            sequence=head.sequence,
            issued_at=head.issued_at,
            not_after=head.not_after,
            challenge=challenge,
            version=head.version,
            items=items,
        ),
        digest=seal[:DIGEST_BYTES],
        floor=floor.raised(
            version=head.version, line=head.line, sequence=head.sequence, issued_at=head.issued_at
        ),
        time_unverified=moment.doubt is not None,
    )


def _opened(raw: bytes, reader: Reader) -> tuple[_Head, bytes, bytes] | Refused:
    if len(raw) > reader.max_bytes:
        return Refused(Reason.TOO_LARGE, f"it has {len(raw)} bytes, at most {reader.max_bytes} are read")
    parts = unframed(raw, 4)
    if parts is None or parts[0] != DOMAIN:
        return Refused(Reason.MALFORMED, "it is no snapshot, or not all of it")
    _, head, body, seal = parts
    if len(seal) != DIGEST_BYTES + SIGNATURE_BYTES or len(head) > HEAD_MAX_BYTES:
        return Refused(Reason.MALFORMED, "its frames have wrong lengths")
    try:
        read = _head.decode(head)
    except UNREADABLE:
        return _unread(head)
    if read.version not in SUPPORTED:
        return _unread(head)
    if msgspec.json.encode(read) != head:
        return Refused(Reason.MALFORMED, "its head is not written canonically")
    if read.items > reader.max_items:
        return Refused(Reason.TOO_LARGE, f"it has {read.items} items, at most {reader.max_items} are read")
    return read, body, seal


def _unread(head: bytes) -> Refused:
    """Why a head was not read: its version, where it has one, else its form."""
    try:
        version = _any_head.decode(head).version
    except UNREADABLE:
        version = VERSION
    if version not in SUPPORTED:
        return Refused(Reason.VERSION, f"its version is {version}, this node reads {VERSION}")
    return Refused(Reason.MALFORMED, "its head lacks a field, or has one that does not belong there")


def _address_refusal(head: _Head, sender: bytes, floor: SignerFloor, reader: Reader) -> Refused | None:
    if head.network != reader.network:
        return Refused(Reason.NETWORK, f"it belongs to another network than {reader.network}")
    if head.audience != show_key(reader.key):
        return Refused(Reason.AUDIENCE, "it was made for another node")
    refused = reader.trust.refusal(sender, reader.key)
    if refused is None and head.version < floor.version:
        text = f"version {head.version}, after this sender has used {floor.version}"
        return Refused(Reason.DOWNGRADE, text)
    return refused


def _time_refusal(head: _Head, moment: Moment, reader: Reader) -> Refused | None:
    if not 0 < head.not_after - head.issued_at <= VALIDITY_MAX_MS:
        return Refused(Reason.MALFORMED, "it does not expire within 7 days of its making")
    if moment.doubt is not None:
        return None
    age = moment.at_ms - head.issued_at
    if -age > AHEAD_MAX_MS:
        return Refused(Reason.FROM_FUTURE, f"it was made {-age // 1000} s ahead of this node's clock")
    if moment.at_ms >= head.not_after:
        return Refused(Reason.EXPIRED, f"it expired {(moment.at_ms - head.not_after) // 1000} s ago")
    if age > reader.max_age_ms:
        return Refused(Reason.TOO_OLD, f"it is {age // 1000} s old, {reader.max_age_ms // 1000} are allowed")
    return None


def _count_refusal(
    head: _Head, floor: SignerFloor, *, since: int, moment: Moment, challenge: bytes
) -> Refused | None:
    if head.challenge != challenge.hex():
        return Refused(Reason.REPLAYED, "it was made for another link")
    known = floor.line(head.line)
    if known is not None and head.sequence <= known.sequence:
        return Refused(Reason.REPLAYED, f"its number {head.sequence} is not above {known.sequence}")
    if head.sequence - (known.sequence if known else 0) > JUMP_MAX:
        return Refused(Reason.JUMP, f"its number {head.sequence} is too far ahead of what was seen")
    if known is None and not challenge and (moment.doubt or head.issued_at <= since + AHEAD_MAX_MS):
        return Refused(Reason.UNPROVEN, "it may have been taken before this node's memory of it was lost")
    return None


def _seal_refusal(raw: bytes, sender: bytes, seal: bytes) -> Refused | None:
    digest, signature = seal[:DIGEST_BYTES], seal[DIGEST_BYTES:]
    if not verify(sender, framed(SEAL_DOMAIN, digest), signature):
        return Refused(Reason.BAD_SIGNATURE, "its signature is not its sender's")
    content = memoryview(raw)[: -len(seal) - 8]
    if hashlib.sha3_256(content).digest() != digest:
        return Refused(Reason.BAD_DIGEST, "its content is not what was signed")
    return None


def _read_items(body: bytes, count: int) -> tuple[SignedItem, ...] | None:
    try:
        items = _items.decode(body)
    except UNREADABLE:
        return None
    rising = all(map(operator.lt, items, islice(items, 1, None)))
    return items if rising and len(items) == count else None
