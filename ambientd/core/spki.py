"""The public key inside an X.509 certificate, for pins: its SHA-256 over the DER of SubjectPublicKeyInfo."""

import hashlib

_SEQUENCE, _VERSION = 0x30, 0xA0
_BEFORE_KEY = 5  # serial number, signature algorithm, issuer, validity, subject


def pin_of(certificate: bytes) -> str | None:
    """`sha256:` and 64 hexadecimal digits; None for what is no certificate."""
    try:
        key = _key_info(certificate)
    except (IndexError, ValueError):
        return None
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


def _key_info(certificate: bytes) -> bytes:
    _, begin, _ = _element(certificate, 0, _SEQUENCE)
    _, at, end = _element(certificate, begin, _SEQUENCE)
    if certificate[at] == _VERSION:
        at = _element(certificate, at)[2]
    for _ in range(_BEFORE_KEY):
        at = _element(certificate, at)[2]
    begin, _, after = _element(certificate, at, _SEQUENCE)
    if after > end:
        raise ValueError("longer than what holds it")
    return certificate[begin:after]


def _element(raw: bytes, at: int, wanted: int | None = None) -> tuple[int, int, int]:
    """An element's begin, the begin of its content, and its end. Raises IndexError, ValueError."""
    if wanted is not None and raw[at] != wanted:
        raise ValueError("another element")
    first = raw[at + 1]
    content = at + 2
    length = first
    if first >= 0x80:
        count = first & 0x7F
        if not 1 <= count <= 4:
            raise ValueError("a length that no certificate has")
        length = int.from_bytes(raw[content : content + count])
        content += count
    if content + length > len(raw):
        raise ValueError("cut off")
    return at, content, content + length
