"""Signed heads of an audit chain, in the form of signed notes (C2SP signed-note, tlog-checkpoint).

    ambient-audit-v1/<host id>
    <number of the last record>
    <its hash, Base64>
    time <RFC 3339>

    — ed25519:<key> <Base64 of the key's id and the signature>

The signature is over the text before the empty line. Such a text begins with a letter and every other
message that this key signs with the length of its tag, so neither can pass for the other. Whoever holds a
checkpoint, a peer or the control plane, notices when records that it covers are changed or removed later;
what came after the last checkpoint that anybody else holds, whoever owns the node's key can rewrite.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection, Iterable

import msgspec

from ambientd.core.audit import Break, Place, StoredRecord, Walk
from ambientd.core.ed25519 import KEY_BYTES, SIGNATURE_BYTES, parse_key, show_key, verify
from ambientd.core.timefmt import parse_rfc3339

ORIGIN = "ambient-audit-v1/"
NOTE_MAX = 1024  # characters; ours have about 360
_ID_BYTES = 4
_HASH_BYTES = 32
_SIGNED = "\u2014 "
_TIME = "time "


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A head of a chain: where the chain is, its last record, when that was signed (RFC 3339)."""

    origin: str
    seq: int
    hash: str
    at: str

    @property
    def place(self) -> Place:
        """The record that it signs, and with it all before."""
        return Place(self.seq, self.hash)

    @property
    def text(self) -> str:
        """What is signed."""
        digest = base64.b64encode(bytes.fromhex(self.hash)).decode()
        return f"{self.origin}\n{self.seq}\n{digest}\n{_TIME}{self.at}\n"


class SignedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint with the public key that the note names and its signature; not yet verified."""

    checkpoint: Checkpoint
    key: bytes
    signature: bytes

    @property
    def is_genuine(self) -> bool:
        """Whether that key has signed it. Says nothing about whose key it is."""
        return verify(self.key, self.checkpoint.text.encode(), self.signature)


def build_note(checkpoint: Checkpoint, key: bytes, sign: Callable[[bytes], bytes]) -> str:
    """The signed note; `sign` makes a detached signature with the seed of `key`, and its errors pass."""
    text = checkpoint.text
    return f"{text}\n{_signature_line(key, sign(text.encode()))}\n"


def _signature_line(key: bytes, signature: bytes) -> str:
    name = show_key(key)
    return f"{_SIGNED}{name} {base64.b64encode(_key_id(name, key) + signature).decode()}"


def _key_id(name: str, key: bytes) -> bytes:
    """As the signed-note form has it: the algorithm number of Ed25519 is 1."""
    return hashlib.sha256(name.encode() + b"\n\x01" + key).digest()[:_ID_BYTES]


def parse_note(note: str) -> SignedCheckpoint | None:
    """The checkpoint of a note; None for anything but exactly such a note."""
    if len(note) > NOTE_MAX:
        return None
    text, empty, line = note.partition("\n\n")
    checkpoint, signed = _parse_text(text + "\n"), _parse_signature(line)
    if not empty or checkpoint is None or signed is None:
        return None
    key, signature = signed
    # Base64 and numbers have several spellings: only the one that we write is signed.
    if f"{checkpoint.text}\n{_signature_line(key, signature)}\n" != note:
        return None
    return SignedCheckpoint(checkpoint=checkpoint, key=key, signature=signature)


def _parse_text(text: str) -> Checkpoint | None:
    lines = text.split("\n")
    if len(lines) != 5 or not lines[0].startswith(ORIGIN) or not lines[3].startswith(_TIME):
        return None
    origin, size, digest, time, _ = lines
    raw, at = _decoded(digest), time.removeprefix(_TIME)
    if len(raw) != _HASH_BYTES or not size.isascii() or not size.isdigit() or len(size) > 18:
        return None
    try:
        parse_rfc3339(at)
    except ValueError:
        return None
    return Checkpoint(origin=origin, seq=int(size), hash=raw.hex(), at=at)


def _parse_signature(line: str) -> tuple[bytes, bytes] | None:
    name, _, blob = line.removesuffix("\n").removeprefix(_SIGNED).partition(" ")
    key, raw = parse_key(name), _decoded(blob)
    if key is None or len(key) != KEY_BYTES or len(raw) != _ID_BYTES + SIGNATURE_BYTES:
        return None
    return key, raw[_ID_BYTES:]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError):
        return b""


# --- witnesses


def check_note(note: str, keys: Collection[bytes]) -> Checkpoint | str:
    """The checkpoint that one of these keys has signed, or a sentence that says why it is none."""
    signed = parse_note(note)
    if signed is None:
        return "it is no checkpoint"
    if not signed.is_genuine:
        return "its signature is not genuine"
    if signed.key not in keys:
        return f"it is signed by {show_key(signed.key)}, which is none of the node's keys"
    return signed.checkpoint


def extends(older: Checkpoint, newer: Checkpoint, records: Iterable[StoredRecord]) -> Break | None:
    """Whether a chain has only grown from one checkpoint to another; `records` are those in between.

    A break when records are missing, changed, or lead to another head than the newer one signs.
    """
    if newer.seq < older.seq:
        return Break(newer.seq + 1, f"the chain ends at {newer.seq}, and {older.seq} was signed before")
    walk = Walk(older.place)
    found = walk.take(records)
    if found is not None:
        return found
    if walk.place == newer.place:
        return None
    if walk.place.seq < newer.seq:
        return Break(walk.place.seq + 1, f"record {walk.place.seq + 1} is missing")
    return Break(newer.seq, f"record {newer.seq} is not the one that was signed")


def contradicts(checkpoint: Checkpoint, hash_at: str | None, head: int) -> Break | None:
    """What a checkpoint says against a chain that ends at `head` and has `hash_at` at its place.

    None when it agrees. `hash_at` is None where the chain has no record of that number.
    """
    if checkpoint.seq > head:
        missing = checkpoint.seq - head
        many = f"{missing} record{'s' * (missing != 1)}"
        return Break(
            head + 1,
            f"at least {many} after {head} {'is' if missing == 1 else 'are'} missing:"
            f" the checkpoint of {checkpoint.at} signed {checkpoint.seq}",
        )
    if hash_at is None:
        return Break(checkpoint.seq, f"record {checkpoint.seq} is missing")
    if hash_at != checkpoint.hash:
        return Break(
            checkpoint.seq,
            f"record {checkpoint.seq}, or one before it, is not the one that the checkpoint of"
            f" {checkpoint.at} signed",
        )
    return None
