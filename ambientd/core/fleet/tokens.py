"""Tokens: how they look, what is stored instead of them, and how refresh tokens follow each other.

A token is a prefix for its kind and 256 random bits. Only its keyed hash is stored: HMAC-SHA-256 under the
secret of its kind, with the kind in the message, so that a token of one kind never passes for another.
"""

import hmac
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import assert_never

from ambientd.core.fleet.records import RefreshTokenRecord
from ambientd.core.fleet.secrets import SecretName

RANDOM_BYTES = 32
ANSWER_LOST = "its answer was lost"  # why a successor that nobody used was revoked
# Two processes with one token, that ask within this time, are no theft.
AT_ONCE = timedelta(seconds=60)


class TokenKind(StrEnum):
    """Kinds by their prefix."""

    ACCESS = "at_"
    REFRESH = "rt_"
    API_KEY = "vcp_"
    JOIN = "jt_"
    DEVICE = "nd_"
    CONNECT = "cs_"


KEY_OF = {
    TokenKind.ACCESS: SecretName.ACCESS_TOKEN_KEY,
    TokenKind.REFRESH: SecretName.REFRESH_TOKEN_PEPPER,
    TokenKind.API_KEY: SecretName.API_KEY_PEPPER,
    TokenKind.JOIN: SecretName.API_KEY_PEPPER,
    TokenKind.DEVICE: SecretName.API_KEY_PEPPER,
    TokenKind.CONNECT: SecretName.CONNECT_SESSION_TOKEN_PEPPER,
}


_KINDS = {kind.value: kind for kind in TokenKind}
_TOKEN = re.compile(f"(?:{'|'.join(_KINDS)})[0-9a-f]{{{2 * RANDOM_BYTES}}}")


def build_token(kind: TokenKind, random: bytes) -> str:
    """A token from fresh random bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a token is made of {RANDOM_BYTES} random bytes")
    return kind.value + random.hex()


def kind_of(token: str) -> TokenKind | None:
    """What a text is by its form; None for what cannot be a token."""
    return _KINDS[token[: -2 * RANDOM_BYTES]] if _TOKEN.fullmatch(token) else None


def keyed_hash(key: bytes, message: bytes) -> hmac.HMAC:
    """HMAC-SHA-256 of a message that may go on."""
    return hmac.new(key, message, "sha256")


class TokenHashes:
    """The hashes that are stored instead of tokens."""

    def __init__(self, keys: Mapping[SecretName, bytes]) -> None:
        # Begun once: the key takes longer than the token.
        self._begun = {
            kind: keyed_hash(keys[name], b"ambient-token-v1\0" + kind.value.encode() + b"\0")
            for kind, name in KEY_OF.items()
            if name in keys
        }

    def of(self, kind: TokenKind, token: str) -> bytes:
        """32 bytes. A lookup by them tells nothing about the token by its time."""
        mac = self._begun[kind].copy()
        mac.update(token.encode("utf-8", "replace"))
        return mac.digest()


class Refresh(Enum):
    """What to do with a refresh token that somebody shows."""

    ROTATE = "its first use: issue a successor"
    REISSUE = "its answer was lost: the successor was never used; revoke that one, issue another"
    REUSE = "its successor was used: it was stolen, or the successor was; revoke the family"
    REVOKED = "revoked"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


def decide_refresh(
    shown: RefreshTokenRecord | None, successor: RefreshTokenRecord | None, now: datetime
) -> Refresh:
    """Rotation with reuse detection that cannot lock anybody out: an answer that was lost on a bad link is no
    theft as long as nobody has used what was in it. Whoever shows a token that was taken for lost had got
    it: somebody else showed the one before.
    """
    if shown is None:
        return Refresh.UNKNOWN
    if shown.revoked_at is not None and shown.revoked_reason == ANSWER_LOST:
        return Refresh.REUSE if shown.revoked_at - shown.issued_at > AT_ONCE else Refresh.REVOKED
    if shown.revoked_at is not None:
        return Refresh.REVOKED
    if now >= shown.expires_at:
        return Refresh.EXPIRED
    if shown.used_at is None:
        return Refresh.ROTATE
    if successor is not None and successor.used_at is None and successor.revoked_at is None:
        return Refresh.REISSUE
    return Refresh.REUSE


def sentence_of(verdict: Refresh) -> str:
    """Why a token was refused, for who shows it. Raises ValueError for one that was not."""
    match verdict:
        case Refresh.REUSE:
            return "this refresh token was used before; all tokens of this log-in are revoked: log in again"
        case Refresh.REVOKED:
            return "this refresh token is revoked; log in again"
        case Refresh.EXPIRED:
            return "this refresh token has expired; log in again"
        case Refresh.UNKNOWN:
            return "there is no such refresh token"
        case Refresh.ROTATE | Refresh.REISSUE:
            raise ValueError("not a refusal")
        case _ as never:
            assert_never(never)
