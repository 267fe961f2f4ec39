"""Egress policies and tombstones: the body that an issuer signs, and what policies allow.

Times in a body are milliseconds since 1970 (UTC), so that its canonical bytes hold no fractions. A body is
taken only in its canonical form and only with the fields of its version: what it says can then be said in one
way, and nothing in it passes by unread (keys above all: no body makes a key trusted).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ambientd.core.canonical import canonical
from ambientd.core.destination import (
    DEFAULT_PORTS,
    BadDestinationError,
    Destination,
    Pattern,
    Protocol,
    is_address,
    is_own,
    matches_host,
    parse_destination,
    parse_host,
    parse_pattern,
)
from ambientd.core.signeditem import BODY_MAX_BYTES, SignedItem, issue
from ambientd.wire.messages import ErrorDetail

VERSION = 1
POLICY, TOMBSTONE = "policy", "tombstone"
DAY_MS = 24 * 3600 * 1000
# No policy lives longer, and a tombstone lives at least so long: so every tombstone outlives what it removes,
# and a removed policy cannot come back when its tombstone is gone. 13 months, for a renewal once a year.
LIFE_MAX_MS = 400 * DAY_MS
REVISION_MAX = 2**63 - 1
DESTINATIONS_MAX = 256
TEXT_MAX = 300  # of one pattern; a name has 253 characters at most
TIME_MAX_MS = 253_402_300_799_999  # the end of the year 9999

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NETWORK = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Names of routes beside `policies/{id}`.
RESERVED_IDS = frozenset(("check", "export", "import"))


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What one egress policy allows, from `not_before` until `not_after` (exclusive); times in ms."""

    network: str
    id: str
    revision: int
    destinations: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    not_before: int
    not_after: int
    issued_at: int


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """Removes the revisions of one policy up to its own, until `not_after`; times in ms."""

    network: str
    id: str
    revision: int
    not_after: int
    issued_at: int


Content = Policy | Tombstone


class Malformed(NamedTuple):
    """Why a body was refused, every problem, in the order of its fields."""

    details: tuple[ErrorDetail, ...]

    @property
    def sentence(self) -> str:
        """All problems in one line."""
        return "; ".join(f"{detail.field} {detail.message}" for detail in self.details)


# --- bodies


def build_body(content: Content) -> bytes:
    """The canonical bytes that an issuer signs; raises ValueError when `parse_body` would refuse them."""
    body = canonical(_fields(content))
    match parse_body(body):
        case Malformed() as malformed:
            raise ValueError(malformed.sentence)
        case _:
            return body


def build_item(seed: bytes, public: bytes, content: Content) -> SignedItem:
    """Signs a policy or a tombstone with an issuer's seed; raises ValueError as `build_body`."""
    return issue(seed, public, build_body(content))


def _fields(content: Content) -> dict[str, Any]:
    fields = {name: getattr(content, name) for name in content.__struct_fields__}
    kind = POLICY if isinstance(content, Policy) else TOMBSTONE
    return {"kind": kind, "v": VERSION} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
    }


def parse_body(body: bytes) -> Content | Malformed:
    """The policy or tombstone in a body, or everything that is wrong with it. Never raises."""
    if len(body) > BODY_MAX_BYTES:
        return Malformed((_detail("body", "length", f"is longer than {BODY_MAX_BYTES} bytes"),))
    try:
        fields = msgspec.json.decode(body)
        is_canonical = isinstance(fields, dict) and canonical(fields) == body
    except (ValueError, msgspec.MsgspecError, RecursionError):
        is_canonical = False
    if not is_canonical:
        return Malformed((_detail("body", "syntax", "is no canonical JSON object"),))
    return parse_fields(fields)


def parse_fields(fields: Mapping[str, Any]) -> Content | Malformed:
    """The policy or tombstone that these values say, or everything that is wrong with them."""
    kind = fields.get("kind")
    check = _Check(fields)
    if kind not in (POLICY, TOMBSTONE):
        return Malformed((_detail("kind", "enum", f"must be {POLICY} or {TOMBSTONE}"),))
    if fields.get("v") != VERSION or isinstance(fields.get("v"), bool):
        return Malformed((_detail("v", "unsupported", f"must be {VERSION}"),))
    common: dict[str, Any] = {
        "network": check.text("network", _NETWORK),
        "id": check.policy_id(),
        "revision": check.whole("revision", 1, REVISION_MAX),
    }
    if kind == POLICY:
        common |= {
            "destinations": check.destinations(),
            "protocols": check.protocols(),
            "not_before": check.whole("not_before", 0, TIME_MAX_MS),
        }
    common |= {name: check.whole(name, 0, TIME_MAX_MS) for name in ("not_after", "issued_at")}
    check.unknown({"kind", "v", *common})
    if not check.found:
        check.times(common)
    if not check.found and kind == POLICY:
        check.can_match(common["destinations"], common["protocols"])
    if check.found:
        return Malformed(tuple(check.found))
    return Policy(**common) if kind == POLICY else Tombstone(**common)


def _detail(field: str, issue_: str, message: str) -> ErrorDetail:
    return ErrorDetail(field=field, issue=issue_, message=message)


class _Check:
    """Reads one field after the other and collects what is wrong."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self.found: list[ErrorDetail] = []

    def _wrong(self, field: str, kind: str, message: str) -> None:
        self.found.append(_detail(field, kind, message))

    def _required(self, name: str) -> Any:
        if name not in self._fields:
            self._wrong(name, "required", "is required")
        return self._fields.get(name)

    def text(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self._required(name)
        if name in self._fields and not (isinstance(value, str) and pattern.fullmatch(value)):
            self._wrong(name, "pattern", f"must match {pattern.pattern}")
        return value if isinstance(value, str) else ""

    def policy_id(self) -> str:
        value = self.text("id", _ID)
        if value in RESERVED_IDS:
            self._wrong("id", "reserved", f"must be none of {', '.join(sorted(RESERVED_IDS))}")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        value = self._required(name)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if name in self._fields and not (is_whole and low <= value <= high):
            self._wrong(name, "range", f"must be an integer from {low} to {high}")
        return value if is_whole else 0

    def _list(self, name: str, most: int) -> list[Any]:
        value = self._required(name)
        if name in self._fields and not (isinstance(value, (list, tuple)) and 1 <= len(value) <= most):
            self._wrong(name, "length", f"must be a list of 1 to {most} texts")
            return []
        items = list(value or ())
        if len({repr(item) for item in items}) != len(items):
            self._wrong(name, "duplicate", "must name nothing twice")
        return items

    def destinations(self) -> tuple[str, ...]:
        items = self._list("destinations", DESTINATIONS_MAX)
        for index, item in enumerate(items):
            field = f"destinations[{index}]"
            if not isinstance(item, str) or len(item) > TEXT_MAX:
                self._wrong(field, "type", f"must be a text of at most {TEXT_MAX} characters")
                continue
            try:
                parse_pattern(item)
            except BadDestinationError as error:
                self._wrong(field, "format", str(error))
        return tuple(item for item in items if isinstance(item, str))

    def protocols(self) -> tuple[Protocol, ...]:
        items = self._list("protocols", len(Protocol))
        known = {item.value: item for item in Protocol}
        for index, item in enumerate(items):
            if not isinstance(item, str) or item not in known:
                self._wrong(f"protocols[{index}]", "enum", f"must be one of {', '.join(known)}")
        return tuple(known[item] for item in items if isinstance(item, str) and item in known)

    def unknown(self, known: Iterable[str]) -> None:
        for name in sorted(set(self._fields) - set(known)):
            shown = name if len(name) <= 64 and name.isprintable() else "a field"
            self._wrong(shown, "unknown", "is not a field of a policy or a tombstone of version 1")

    def times(self, values: Mapping[str, Any]) -> None:
        life = values["not_after"] - values["issued_at"]
        days = LIFE_MAX_MS // DAY_MS
        if "not_before" in values:
            if values["not_after"] <= values["not_before"]:
                self._wrong("not_after", "range", "must be after not_before")
            if life > LIFE_MAX_MS:
                self._wrong("not_after", "range", f"must be within {days} days of issued_at")
            if life <= 0:
                self._wrong("not_after", "range", "must be after issued_at")
        elif life < LIFE_MAX_MS:
            self._wrong(
                "not_after",
                "range",
                f"must be {days} days after issued_at or later: a tombstone outlives what it removes",
            )

    def can_match(self, destinations: Iterable[str], protocols: tuple[Protocol, ...]) -> None:
        """Nothing is listed that could never match."""
        for index, text in enumerate(destinations):
            pattern, field = parse_pattern(text), f"destinations[{index}]"
            if pattern.protocol is not None and pattern.protocol not in protocols:
                self._wrong(
                    field, "protocol", f"has a scheme that is not among protocols: {pattern.protocol}"
                )
            elif pattern.first_port == 0 and not any(one in DEFAULT_PORTS for one in protocols):
                self._wrong(field, "port", f"needs a port: {', '.join(protocols)} have no default one")


# --- what policies allow


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a destination is allowed. `reason` is a code of `REASONS`; `policy_id` the policy that allows
    it, or the one that came nearest; `destination` how the destination was read, empty when it was not."""

    allowed: bool
    reason: str
    policy_id: str | None = None
    destination: str = ""
    detail: str = ""


REASONS: Mapping[str, str] = {
    "allowed": "a policy in force allows it",
    "no_policy": "no policy is in force",
    "policy_unknown": "no policy with this id is in force",
    "not_listed": "no policy in force lists this host",
    "port_not_allowed": "a policy lists this host, but not this port or scheme",
    "protocol_not_allowed": "a policy lists this destination, but not this protocol",
    "not_yet_valid": "the policy that lists it is not valid yet",
    "expired": "the policy that lists it has expired",
    "own_address": "the name leads to this machine or its own network, which no policy names",
    "destination_invalid": "the destination cannot be read without doubt",
    "protocol_unknown": "this is no protocol of policies",
}
# The reason told is that of the policy which came nearest.
_NEARER = (
    "not_listed",
    "port_not_allowed",
    "protocol_not_allowed",
    "own_address",
    "expired",
    "not_yet_valid",
)


def check(
    policies: Iterable[Policy],
    destination: str,
    protocol: str | None,
    now: int,
    *,
    address: str | None = None,
) -> Verdict:
    """Whether one of the policies allows a destination at an instant (ms since 1970). Never raises.

    `address`: what the name was resolved to by whoever is about to connect. One on this machine's own side
    is refused unless a pattern of the policy names it.
    """
    read = read_destination(destination, protocol)
    if isinstance(read, Verdict):
        return read
    return judge(policies, read, now, address=address)


def read_destination(destination: str, protocol: str | None) -> Destination | Verdict:
    """A destination as it is compared, or the verdict that it cannot be."""
    try:
        spoken = None if protocol is None else Protocol(protocol.lower())
    except ValueError:
        return Verdict(allowed=False, reason="protocol_unknown", detail=f"one of {', '.join(Protocol)}")
    try:
        return parse_destination(destination, spoken)
    except BadDestinationError as error:
        return Verdict(allowed=False, reason="destination_invalid", detail=f"the destination {error}")


def judge(
    policies: Iterable[Policy], destination: Destination, now: int, *, address: str | None = None
) -> Verdict:
    """As `check`, of a destination that was read."""
    nearest, policy_id, seen = -1, None, False
    for policy in policies:
        seen = True
        reason = _reason(policy, destination, now, address)
        if reason == "allowed":
            return Verdict(allowed=True, reason=reason, policy_id=policy.id, destination=destination.text)
        rank = _NEARER.index(reason)
        if rank > nearest:
            nearest, policy_id = rank, policy.id if rank else None
    return Verdict(
        allowed=False,
        reason=_NEARER[nearest] if seen else "no_policy",
        policy_id=policy_id,
        destination=destination.text,
    )


def _reason(policy: Policy, destination: Destination, now: int, address: str | None) -> str:
    listed = [one for one in patterns_of(policy) if matches_host(one.host, destination.host)]
    if not listed:
        return "not_listed"
    fitting = [one for one in listed if one.matches_port(destination)]
    if not fitting:
        return "port_not_allowed"
    if destination.protocol not in policy.protocols:
        return "protocol_not_allowed"
    if address is not None and not _may_lead_to(policy, destination, address):
        return "own_address"
    if now < policy.not_before:
        return "not_yet_valid"
    return "allowed" if now < policy.not_after else "expired"


def patterns_of(policy: Policy) -> Iterator[Pattern]:
    """The patterns of a policy that was parsed."""
    return (parse_pattern(text) for text in policy.destinations)


def _may_lead_to(policy: Policy, destination: Destination, address: str) -> bool:
    """Whether an address that a name was resolved to may be connected to."""
    try:
        host = parse_host(f"[{address}]" if ":" in address else address)
    except BadDestinationError:
        return False
    if not is_address(host):
        return False
    if not is_own(host):
        return True
    there = Destination(destination.protocol, host, destination.port)
    return any(
        is_address(one.host.partition("/")[0]) and matches_host(one.host, host) and one.matches_port(there)
        for one in patterns_of(policy)
    )
