"""Signed items on their way down: what they are, and whether this control plane passes them on."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import msgspec

from ambientd.core import lease, policy
from ambientd.core.decode import Problems
from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import from_ms
from ambientd.wire.fleet_enums import ItemKind
from ambientd.wire.messages import ErrorDetail


class Believed(msgspec.Struct, frozen=True, kw_only=True):
    """Of whose items this fleet's nodes are told, and under which name."""

    network: str
    issuers: Collection[bytes]
    lease_issuers: Collection[bytes]


class Refused(NamedTuple):
    """Why an item is not passed on."""

    details: tuple[ErrorDetail, ...]


def read_item(item: SignedItem, believed: Believed, at: datetime) -> FleetItem | Refused:
    """The item with its kind, subject and expiry, or everything that is wrong with it."""
    content = _content(item.body)
    if isinstance(content, Refused):
        return content
    known = (
        believed.lease_issuers if isinstance(content, lease.Lease | lease.Revocation) else believed.issuers
    )
    if item.issuer not in known:
        return _refused("issuer", "unknown", "is none that this fleet believes")
    if not item.is_genuine:
        return _refused("signature", "invalid", "is not the issuer's over this body")
    if content.network != believed.network:
        return _refused("body.network", "other", f"must be {believed.network}")
    kind, subject, ends_ms = _facts(content)
    expires_at = from_ms(ends_ms)
    if expires_at <= at:
        return _refused("body", "expired", "has expired")
    return FleetItem(kind=kind, subject=subject, item=item, created_at=at, expires_at=expires_at)


def _content(body: bytes) -> policy.Content | lease.Content | Refused:
    try:
        kind = msgspec.json.decode(body, type=_Kind).kind
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _refused("body", "syntax", "is no canonical JSON object with a kind")
    if kind in (policy.POLICY, policy.TOMBSTONE):
        content = policy.parse_body(body)
        if isinstance(content, policy.Malformed):
            return _below(content.details)
        return content
    if kind in (lease.LEASE, lease.REVOCATION):
        found = lease.parse_body(body)
        return _below(found.details) if isinstance(found, Problems) else found
    words = "policy, tombstone, lease or lease_revocation"
    return _refused("body.kind", "enum", f"must be {words}")


class _Kind(msgspec.Struct):
    kind: str


def _facts(content: policy.Content | lease.Content) -> tuple[ItemKind, str, int]:
    match content:
        case policy.Policy():
            return ItemKind.POLICY, content.id, content.not_after
        case policy.Tombstone():
            return ItemKind.TOMBSTONE, content.id, content.not_after
        case lease.Lease():
            return ItemKind.LEASE, content.jti, content.exp
        case lease.Revocation():
            # The lease that it means is not valid any more by then.
            return ItemKind.REVOCATION, content.jti, content.issued_at + lease.LIFE_MAX_MS


def _refused(field: str, issue: str, message: str) -> Refused:
    return Refused((ErrorDetail(field, issue, message),))


def _below(details: tuple[ErrorDetail, ...]) -> Refused:
    return Refused(tuple(msgspec.structs.replace(detail, field=f"body.{detail.field}") for detail in details))
