"""Session leases and the egress check (`/api/v1/node/leases`, `/api/v1/node/egress/check`)."""

from typing import Annotated

import msgspec
from msgspec import Meta

_Text = Annotated[str, Meta(min_length=1, max_length=128)]
_Destination = Annotated[str, Meta(min_length=1, max_length=4096)]


class LeaseItem(msgspec.Struct, forbid_unknown_fields=True):
    """A signed lease or revocation: the canonical JSON of its body as text, the issuer's key (`ed25519:` and
    hexadecimal digits), the signature in hexadecimal digits."""

    body: Annotated[str, Meta(max_length=16384)]
    issuer: Annotated[str, Meta(pattern=r"^ed25519:[0-9a-f]{64}$")]
    signature: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$")]


class LeaseView(msgspec.Struct, omit_defaults=True):
    """One lease. `state` is active or ended. `elapsed_ms` and `bytes` are what it has used, `allowance` the
    bytes that it allows by now, `left_ms` how long it can last. `audit_id` is the record of what was done."""

    jti: str
    session_id: str
    policy_id: str
    issuer: str
    state: str
    activated_at: str
    nbf: str
    exp: str
    protocols: list[str]
    max_duration_ms: int
    max_mbps: int
    elapsed_ms: int
    bytes: int
    denied: int
    max_bytes: int | None = None
    allowance: int | None = None
    left_ms: int | None = None
    ended_at: str | None = None
    end_reason: str | None = None
    audit_id: int | None = None


class LeasesPage(msgspec.Struct):
    """`GET /api/v1/node/leases`: the last activated first."""

    rows: list[LeaseView]


class RevocationAnswer(msgspec.Struct):
    """A revocation that was taken in. `known`: it was here before; `ended`: an active lease ended with it."""

    jti: str
    known: bool
    ended: bool
    audit_id: int


class EgressRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/egress/check`: without a session or a lease the policies alone are asked. `address`
    is what the destination's name was resolved to by whoever is about to connect."""

    destination: _Destination
    protocol: Annotated[str, Meta(max_length=16)] | None = None
    session_id: _Text | None = None
    lease_id: _Text | None = None
    address: Annotated[str, Meta(max_length=64)] | None = None


class MeterRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/v1/node/leases/{jti}/meter`: may so many bytes more go there? They count when they may."""

    destination: _Destination
    bytes: Annotated[int, Meta(ge=0, le=2**40)]
    protocol: Annotated[str, Meta(max_length=16)] | None = None
    address: Annotated[str, Meta(max_length=64)] | None = None


class EgressAnswer(msgspec.Struct, omit_defaults=True):
    """Whether traffic may go out now. `code` says why in one word, `reason` for people; `state` is that of
    the links; `clock_doubt` why the wall clock is not believed. With a lease: `bytes` that it has used, and
    the `allowance` by now."""

    allowed: bool
    code: str
    reason: str
    state: str
    destination: str | None = None
    policy_id: str | None = None
    lease_id: str | None = None
    session_id: str | None = None
    clock_doubt: str | None = None
    bytes: int | None = None
    allowance: int | None = None
