"""The bytes of a link: two open hellos, then sealed frames that are counted.

A frame before sealing: 16 bytes that name the link and the direction, the frame's number as 8 bytes,
big-endian, a MessagePack message. Boxes between two keys open on every link and in both directions; the
first 16 bytes see to it that a frame counts on its own link and in its own direction only, the number that
none is left out, doubled or moved.
"""

import hashlib
from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from ambientd.core.canonical import UNREADABLE, framed, unframed
from ambientd.core.ed25519 import SIGNATURE_BYTES, show_key
from ambientd.core.itemset import BUCKETS, ID_BYTES, MARK_BYTES, MASK_BYTES

HELLO_DOMAIN = b"ambient-peer-hello-v1"
PROOF_DOMAIN = b"ambient-peer-proof-v1"
LINK_DOMAIN = b"ambient-peer-link-v1"

LINK_VERSIONS = (1,)
NONCE_BYTES = 32
HELLO_MAX_BYTES = 512
TAG_BYTES = 16
NUMBER_BYTES = 8
# A frame around a snapshot of the longest kind: tag, number, type, request, state, lengths.
FRAME_ROOM = 256

# A page of a listing: 32 KiB of ids.
LISTED_AT_ONCE = 1024
# Of one request: few enough that a lost one is cheap to ask for again.
WANTED_AT_ONCE = 256
OFFERED_AT_ONCE = 64

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
_Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Request = Annotated[int, Meta(ge=1, le=2**32 - 1)]
_Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Mask = Annotated[bytes, Meta(min_length=MASK_BYTES, max_length=MASK_BYTES)]


class CloseReason(StrEnum):
    """Why a link ended."""

    LEAVING = "leaving"
    NOT_TRUSTED = "not_trusted"
    NETWORK = "network"
    VERSION = "version"
    OWN_KEY = "own_key"
    BAD_PROOF = "bad_proof"
    PROTOCOL = "protocol"
    OUT_OF_ORDER = "out_of_order"
    TOO_LARGE = "too_large"
    FLOOD = "flood"
    REFUSALS = "refusals"
    SILENT = "silent"
    PEER_LEFT = "peer_left"


class Answer(IntEnum):
    """Whether a request is answered with what was asked for."""

    HERE = 0
    NOT_NOW = 1  # the node may not send at the moment, or has sent much


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=str.lower): ...


class Hello(_Message, frozen=True):
    """The first message, open: who one is, and a nonce that the other has to sign."""

    versions: Annotated[tuple[Annotated[int, Meta(ge=1, le=65_535)], ...], Meta(min_length=1, max_length=8)]
    network: _Name
    key: _Bytes32
    nonce: _Bytes32


class Proof(_Message, frozen=True):
    """The first sealed message: the signature over both hellos, a name for people, and what one can take."""

    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    label: _Name
    max_bytes: Annotated[int, Meta(ge=4096, le=2**31)]
    max_items: Annotated[int, Meta(ge=1, le=2**31)]


class Digest(_Message, frozen=True):
    """What one holds; `gives` whether one may send items at the moment, `asks` for the other's digest."""

    root: _Bytes32
    count: _Count
    gives: bool
    asks: bool


class Compare(_Message, frozen=True):
    """Asks for the ids in the buckets that differ from these marks."""

    request: _Request
    marks: Annotated[bytes, Meta(min_length=BUCKETS * MARK_BYTES, max_length=BUCKETS * MARK_BYTES)]


class More(_Message, frozen=True):
    """Asks for the next ids in these buckets."""

    request: _Request
    buckets: _Mask
    after: Annotated[bytes, Meta(max_length=ID_BYTES)]


class Listing(_Message, frozen=True):
    """Answers Compare and More: ids in order; `last` when there are no more in these buckets."""

    request: _Request
    answer: Answer
    buckets: _Mask
    ids: Annotated[bytes, Meta(max_length=LISTED_AT_ONCE * ID_BYTES)]
    last: bool


class Want(_Message, frozen=True):
    """Asks for items."""

    request: _Request
    ids: Annotated[bytes, Meta(min_length=ID_BYTES, max_length=WANTED_AT_ONCE * ID_BYTES)]


class Items(_Message, frozen=True):
    """Answers Want with a snapshot, or brings one unasked (request 0); empty when there is nothing (more) to
    send. `last` when the request is answered."""

    request: _Count
    answer: Answer
    snapshot: bytes
    last: bool


class Offer(_Message, frozen=True):
    """Tells ids of items that are new here."""

    ids: Annotated[bytes, Meta(min_length=ID_BYTES, max_length=OFFERED_AT_ONCE * ID_BYTES)]


class Bye(_Message, frozen=True):
    """The last message."""

    reason: Annotated[str, Meta(max_length=32)]


Message = Proof | Digest | Compare | More | Listing | Want | Items | Offer | Bye

_hello = msgspec.msgpack.Decoder(Hello)
_message: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def frame_limit(max_bytes: int) -> int:
    """The longest frame, before sealing, on a link whose snapshots have at most `max_bytes`."""
    return max_bytes + FRAME_ROOM


def encode_hello(hello: Hello) -> bytes:
    return framed(HELLO_DOMAIN, msgspec.msgpack.encode(hello))


def decode_hello(raw: bytes) -> Hello | None:
    """The hello; None for anything else."""
    parts = unframed(raw, 2) if len(raw) <= HELLO_MAX_BYTES else None
    if parts is None or parts[0] != HELLO_DOMAIN:
        return None
    try:
        return _hello.decode(parts[1])
    except UNREADABLE:
        return None


def decode_message(raw: bytes) -> Message | None:
    """The message; None for anything else."""
    try:
        return _message.decode(raw)
    except UNREADABLE:
        return None


def version_of(own: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """The highest version that both speak. Both lists are signed, so nobody can talk two nodes down."""
    return max(set(own) & set(other), default=None)


def proof_bytes(*, signer: bytes, own_hello: bytes, peer_hello: bytes) -> bytes:
    """What the sender of `own_hello` signs: its key first, so that no proof can be sent back."""
    return framed(PROOF_DOMAIN, show_key(signer).encode(), own_hello, peer_hello)


def link_id(one_hello: bytes, other_hello: bytes) -> bytes:
    """32 bytes that name a link, the same at both ends and never the same twice."""
    return hashlib.sha3_256(framed(LINK_DOMAIN, *sorted((one_hello, other_hello)))).digest()


class Counted:
    """One direction of a link: makes its frames, or opens them in their order."""

    __slots__ = ("_next", "_tag")

    def __init__(self, link: bytes, sender: bytes) -> None:
        self._tag = hashlib.sha3_256(framed(LINK_DOMAIN, link, sender)).digest()[:TAG_BYTES]
        self._next = 0

    def wrap(self, message: Message) -> bytes:
        """The next frame."""
        head = self._tag + self._next.to_bytes(NUMBER_BYTES)
        self._next += 1
        return head + msgspec.msgpack.encode(message)

    def unwrap(self, frame: bytes) -> bytes | None:
        """The message in the next frame; None when it is not the next of this direction of this link."""
        at = TAG_BYTES + NUMBER_BYTES
        if frame[:at] != self._tag + self._next.to_bytes(NUMBER_BYTES):
            return None
        self._next += 1
        return frame[at:]
