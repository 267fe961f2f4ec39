"""Reads and checks the peer message of the system that was there before; this node never sends one.

Its hash has no lengths between fields, so different messages share one hash. The tests hold that against
`core/snapshot`, and nothing else uses it.
"""

import hashlib
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from ambientd.core.canonical import UNREADABLE
from ambientd.core.ed25519 import verify

_Bytes = list[Annotated[int, Meta(ge=0, le=255)]]


class Policy(msgspec.Struct, frozen=True):
    id: str
    allowed_destinations: list[str]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The message; the last two fields came with a later form."""

    sender_node_id: str
    egress_policies: list[Policy]
    verification_keys: dict[str, _Bytes]
    snapshot_at: Annotated[int, Meta(ge=0)]
    content_hash: str
    signature: _Bytes | None = None
    signer_public_key: _Bytes | None = None


class Fault(Enum):
    """What is wrong with a message."""

    MALFORMED = "malformed"
    HASH = "its hash is another"
    SIGNATURE = "its signature does not verify"


_decoder = msgspec.json.Decoder(Message)


def hashed_bytes(message: Message) -> bytes:
    """What is hashed: fields in a row, policies and keys sorted by id, nothing between them."""
    parts = [message.sender_node_id.encode()]
    for policy in sorted(message.egress_policies, key=lambda one: one.id.encode()):
        parts += [policy.id.encode(), *(destination.encode() for destination in policy.allowed_destinations)]
    for name, key in sorted(message.verification_keys.items(), key=lambda one: one[0].encode()):
        parts += [name.encode(), bytes(key)]
    return b"".join([*parts, message.snapshot_at.to_bytes(8, "little")])


def content_hash(message: Message) -> str:
    """SHA3-256 of `hashed_bytes`, in hexadecimal."""
    return hashlib.sha3_256(hashed_bytes(message)).hexdigest()


def read(raw: bytes) -> Message | Fault:
    """The message, when its hash is right and its signature, where it has one. Says nothing about trust."""
    try:
        message = _decoder.decode(raw)
    except UNREADABLE:
        return Fault.MALFORMED
    if message.snapshot_at >= 2**64:
        return Fault.MALFORMED
    if content_hash(message) != message.content_hash:
        return Fault.HASH
    if message.signature is None and message.signer_public_key is None:
        return message
    key, signature = bytes(message.signer_public_key or []), bytes(message.signature or [])
    return message if verify(key, message.content_hash.encode(), signature) else Fault.SIGNATURE
