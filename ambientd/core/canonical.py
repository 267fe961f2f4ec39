"""Bytes that are hashed or signed: one JSON text for each value, and frames that cannot be shifted.

The JSON text equals RFC 8785 for the values that are let through: no floats, ASCII keys only.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

DEPTH_MAX = 16
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for foreign bytes."""

_INT_LIMIT = 2**63
_LENGTH_BYTES = 8


def framed(*parts: bytes) -> bytes:
    """The parts, each after its length as 8 bytes, big-endian; the first is the domain tag.

    Framed, so that bytes moved between neighbouring parts change the whole; tagged, so that no message of
    another kind can pass for this one.
    """
    return b"".join(len(part).to_bytes(_LENGTH_BYTES) + part for part in parts)


def unframed(raw: bytes, parts: int) -> tuple[bytes, ...] | None:
    """What `framed` was given, when it was exactly so many parts; None for anything else.

    Lengths are held against the bytes that are there before anything is copied.
    """
    found, at = [], 0
    for _ in range(parts):
        begin = at + _LENGTH_BYTES
        end = begin + int.from_bytes(raw[at:begin])
        if begin > len(raw) or end > len(raw):
            return None
        found.append(raw[begin:end])
        at = end
    return tuple(found) if at == len(raw) else None


def canonical(value: Mapping[str, Any]) -> bytes:
    """The one JSON text of a value: sorted ASCII keys, no white space, no floats.

    Raises ValueError for what has no such text: a float, an integer past 64 bits with sign, a key that is
    not ASCII text, a lone surrogate, more than 16 levels.
    """
    _check(value, DEPTH_MAX)
    return msgspec.json.encode(value, order="sorted")


def _check(value: object, depth: int) -> None:
    if depth < 0:
        raise ValueError("nested too deeply for a canonical record")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and key.isascii() for key in value):
            raise ValueError("keys of a canonical record are ASCII text")
        for item in value.values():
            _check(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth - 1)
    else:
        _check_scalar(value)


def _check_scalar(value: object) -> None:
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError
    elif isinstance(value, int):
        if not -_INT_LIMIT <= value < _INT_LIMIT:
            raise ValueError("an integer past 64 bits has no place in a canonical record")
    elif value is not None:
        raise ValueError(f"{type(value).__name__} has no place in a canonical record")
