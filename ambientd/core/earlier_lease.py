"""Leases of the earlier generation: read and checked as their own program did, and never activated.

They are bound to no node, say nothing of their beginning, and can be used any number of times; `core/lease`
took their place. Signed are the claims as compact JSON in the order of their fields.
"""

import json
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ambientd.core.decode import BodyDecoder, Problems
from ambientd.core.ed25519 import verify

_Byte = Annotated[int, Meta(ge=0, le=255)]
_Whole = Annotated[int, Meta(ge=0)]


class EarlierClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed; times in seconds since 1970."""

    session_id: str
    egress_policy_id: str
    issued_at: _Whole
    expires_at: _Whole
    max_duration_secs: _Whole
    max_bandwidth_mbps: _Whole
    allowed_protocols: list[Literal["Tcp", "Udp", "Http", "Https", "Quic"]]

    @property
    def signed_bytes(self) -> bytes:
        """Their one JSON text; raises UnicodeEncodeError for a lone surrogate."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


class EarlierLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One lease with the id of the key that signed it."""

    key_id: str
    claims: EarlierClaims
    signature: Annotated[list[_Byte], Meta(min_length=64, max_length=64)]


_DECODER = BodyDecoder(EarlierLease)


def parse_earlier(raw: bytes) -> EarlierLease | Problems:
    """The lease in a JSON text, or everything that is wrong with it."""
    return _DECODER.decode(raw)


def is_valid_earlier(lease: EarlierLease, key: bytes, now: int) -> bool:
    """Whether its signature is the key's and it has not expired at `now` (s); nothing else counted there."""
    return now < lease.claims.expires_at and verify(key, lease.claims.signed_bytes, bytes(lease.signature))
