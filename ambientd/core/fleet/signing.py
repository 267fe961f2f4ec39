"""Requests that a joined node signs with its own key, so that its token alone is worth nothing elsewhere.

The signature covers node, number, method, target and body. Numbers only grow: whoever changes something
takes the next one, and a copy of an old request is refused.
"""

import hashlib

from ambientd.core.canonical import framed
from ambientd.core.ed25519 import SIGNATURE_BYTES, verify

DOMAIN = b"ambient-request-v1"
ENROL_DOMAIN = b"ambient-enrol-v1"
SEQUENCE_MAX = 2**63 - 1


def request_bytes(*, node_id: str, sequence: int, method: str, target: str, body: bytes) -> bytes:
    """What a node signs. `target` is path and query as sent."""
    return framed(
        DOMAIN,
        node_id.encode(),
        sequence.to_bytes(8),
        method.encode(),
        target.encode("utf-8", "surrogateescape"),
        hashlib.sha256(body).digest(),
    )


def enrol_bytes(*, node_id: str, public_key: bytes, join_token: str) -> bytes:
    """What a node signs to prove that the key it brings is its own, when it joins or changes its key."""
    return framed(ENROL_DOMAIN, node_id.encode(), public_key, hashlib.sha256(join_token.encode()).digest())


def parse_sequence(text: str) -> int | None:
    """The number of a request from its header; None for anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    number = int(text)
    return number if 1 <= number <= SEQUENCE_MAX else None


def parse_signature(text: str) -> bytes | None:
    """A signature from its header (hexadecimal); None for anything else."""
    try:
        signature = bytes.fromhex(text)
    except ValueError:
        return None
    return signature if len(signature) == SIGNATURE_BYTES else None


def is_signed(key: bytes, message: bytes, signature: bytes | None, *, sound: bool = False) -> bool:
    """Whether the node's key signed this; `sound` as of `verify`."""
    return signature is not None and verify(key, message, signature, sound=sound)
