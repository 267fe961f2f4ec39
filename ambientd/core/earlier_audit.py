"""The audit log of the earlier generation, for checking only; nothing here is ever written.

One JSON object a line. Its hash is SHA3-256 over event type, session id, details, two little-endian numbers
and the hash before as text, without frames: bytes moved from one field to its neighbour do not show. A log
that holds here is therefore not proven to be untouched.
"""

import hashlib
from collections.abc import Iterable

import msgspec

from ambientd.core.audit import Break
from ambientd.core.canonical import UNREADABLE

GENESIS = "GENESIS"
_NUMBER_LIMIT = 2**64


class EarlierRecord(msgspec.Struct, frozen=True):
    """One line: `at` in seconds since 1970."""

    event_type: str
    session_id: str
    details: str
    bytes: int
    at: int
    prev_hash: str
    hash: str


def earlier_hash(record: EarlierRecord) -> str | None:
    """The hash that a record should have; None when its numbers or texts could never have been written."""
    if not (0 <= record.bytes < _NUMBER_LIMIT and 0 <= record.at < _NUMBER_LIMIT):
        return None
    try:
        texts = (record.event_type + record.session_id + record.details).encode()
        numbers = record.bytes.to_bytes(8, "little") + record.at.to_bytes(8, "little")
        return hashlib.sha3_256(texts + numbers + record.prev_hash.encode()).hexdigest()
    except UnicodeEncodeError:
        return None


def is_earlier(line: bytes) -> bool:
    """Whether a line is a record of this form."""
    try:
        msgspec.json.decode(line, type=EarlierRecord)
    except UNREADABLE:
        return False
    return True


class EarlierCheck:
    """Goes along a log line by line. `records` held so far; the first line has number 1."""

    def __init__(self) -> None:
        self.records = 0
        self._head = GENESIS

    def take(self, line: bytes) -> Break | None:
        """The next line; a break when it does not hold."""
        number = self.records + 1
        try:
            record = msgspec.json.decode(line, type=EarlierRecord)
        except UNREADABLE:
            return Break(number, f"line {number} is no record, or was torn")
        if record.prev_hash != self._head:
            return Break(number, f"line {number} does not follow on the one before")
        if record.hash != earlier_hash(record):
            return Break(number, f"line {number} was changed: its hash does not fit what it says")
        self._head, self.records = record.hash, number
        return None


def first_bad(lines: Iterable[bytes]) -> Break | None:
    """The first line that does not hold."""
    check = EarlierCheck()
    return next((found for line in lines if (found := check.take(line)) is not None), None)
