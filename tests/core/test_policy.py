"""Bodies of policies and tombstones, and what policies allow."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.canonical import canonical
from ambientd.core.destination import Protocol
from ambientd.core.policy import (
    DAY_MS,
    LIFE_MAX_MS,
    REASONS,
    Malformed,
    Policy,
    Tombstone,
    build_body,
    check,
    parse_body,
)
from tests.policykit import AT, NETWORK

POLICY: dict[str, Any] = {
    "kind": "policy",
    "v": 1,
    "network": NETWORK,
    "id": "web",
    "revision": 3,
    "destinations": ["https://api.example.com", "*.example.org:443"],
    "protocols": ["https"],
    "not_before": AT,
    "not_after": AT + DAY_MS,
    "issued_at": AT - 1,
}
TOMBSTONE: dict[str, Any] = {
    "kind": "tombstone",
    "v": 1,
    "network": NETWORK,
    "id": "web",
    "revision": 3,
    "issued_at": AT,
    "not_after": AT + LIFE_MAX_MS,
}


def policy(**changes: Any) -> Policy:
    found = parse_body(canonical(POLICY | changes))
    assert isinstance(found, Policy), found
    return found


def fields_of(body: dict[str, Any]) -> list[str]:
    found = parse_body(canonical(body))
    assert isinstance(found, Malformed), found
    return [detail.field for detail in found.details]


def test_a_body_is_read_and_built_again_to_the_same_bytes() -> None:
    for body in (POLICY, TOMBSTONE):
        found = parse_body(canonical(body))
        assert isinstance(found, (Policy, Tombstone))
        assert build_body(found) == canonical(body)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"kind": "lease"}, ["kind"]),
        ({"v": 2}, ["v"]),
        ({"v": True}, ["v"]),
        ({"v": "1"}, ["v"]),
        ({"network": ""}, ["network"]),
        ({"id": "<img src=x>"}, ["id"]),
        ({"id": "x" * 10_000}, ["id"]),
        ({"id": "\x1b[2J"}, ["id"]),
        ({"id": "a\u202eb"}, ["id"]),
        ({"id": "import"}, ["id"]),
        ({"revision": 0}, ["revision"]),
        ({"revision": True}, ["revision"]),
        ({"destinations": []}, ["destinations"]),
        ({"destinations": [""]}, ["destinations[0]"]),
        ({"destinations": ["https://a.example", "https://a.example"]}, ["destinations"]),
        (
            {"destinations": ["https://A.example", 7, "http://b.example"]},
            ["destinations[0]", "destinations[1]"],
        ),
        ({"destinations": ["http://b.example"]}, ["destinations[0]"]),
        ({"protocols": ["tcp"], "destinations": ["b.example"]}, ["destinations[0]"]),
        ({"protocols": ["https", "icmp"]}, ["protocols[1]"]),
        ({"protocols": "https"}, ["protocols"]),
        ({"not_after": AT}, ["not_after"]),
        ({"not_after": AT + LIFE_MAX_MS}, ["not_after"]),
        ({"verification_keys": {"k": "ed25519:00"}}, ["verification_keys"]),
        (
            {"network": 1, "revision": "x", "protocols": [], "issued_at": -1},
            ["network", "revision", "protocols", "issued_at"],
        ),
    ],
)
def test_everything_that_is_wrong_is_told(changes: dict[str, Any], fields: list[str]) -> None:
    assert fields_of(POLICY | changes) == fields


def test_missing_fields_are_told_one_by_one() -> None:
    assert fields_of({"kind": "policy", "v": 1}) == [
        *("network", "id", "revision", "destinations", "protocols", "not_before", "not_after", "issued_at")
    ]


def test_a_tombstone_must_outlive_every_policy_that_it_can_remove() -> None:
    assert fields_of(TOMBSTONE | {"not_after": AT + LIFE_MAX_MS - 1}) == ["not_after"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{" * 2000,
        msgspec.json.encode(POLICY) + b" ",
        msgspec.json.encode(POLICY),  # keys in another order
        canonical(POLICY).replace(b'"id":"web"', b'"id":"web","id":"web"'),
        canonical(POLICY).replace(b'"revision":3', b'"revision":3.0'),
        b'"' + b"x" * 20_000 + b'"',
        b"\xff\xfe",
    ],
)
def test_only_canonical_bytes_are_read(body: bytes) -> None:
    assert isinstance(parse_body(body), Malformed)


@given(
    st.dictionaries(
        st.sampled_from([*POLICY, "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3),
        ),
    )
)
def test_no_fields_make_it_fail(changes: dict[str, Any]) -> None:
    try:
        body = canonical(POLICY | changes)
    except ValueError:
        return
    found = parse_body(body)
    if not isinstance(found, Malformed):
        assert build_body(found) == body


def verdict(destination: str, protocol: str | None = None, *, now: int = AT, **more: Any) -> tuple[bool, str]:
    found = check([policy(**more)], destination, protocol, now)
    assert found.reason in REASONS
    return found.allowed, found.reason


def test_what_is_listed_is_allowed_and_nothing_else() -> None:
    assert verdict("https://api.example.com/v1?q") == (True, "allowed")
    assert verdict("a.example.org") == (True, "allowed")
    assert verdict("https://api.example.com.evil.test/") == (False, "not_listed")
    assert verdict("https://api.example.com@evil.test/") == (False, "destination_invalid")
    assert verdict("https://api.example.com:8443") == (False, "port_not_allowed")
    assert verdict("quic://a.example.org") == (False, "protocol_not_allowed")
    assert verdict("https://api.example.com", "carrier-pigeon") == (False, "protocol_unknown")
    assert verdict("https://api.example.com", now=AT - 1) == (False, "not_yet_valid")
    assert verdict("https://api.example.com", now=AT + DAY_MS) == (False, "expired")
    assert check([], "https://api.example.com", None, AT).reason == "no_policy"


def test_the_nearest_policy_is_named() -> None:
    near, far = policy(), policy(id="other", destinations=["https://other.example"])
    found = check([far, near], "https://api.example.com:8443", None, AT)
    assert (found.reason, found.policy_id) == ("port_not_allowed", "web")
    assert check([far, near], "https://other.example", None, AT).policy_id == "other"
    assert check([far, near], "https://third.example", None, AT).policy_id is None


def test_a_name_that_leads_to_the_own_side_is_refused_unless_a_pattern_names_the_address() -> None:
    name = "https://api.example.com"
    for address in ("10.0.0.5", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.5", "fe80::1", "junk"):
        assert check([policy()], name, None, AT, address=address).reason == "own_address"
    assert check([policy()], name, None, AT, address="93.184.216.34").allowed
    named = policy(destinations=["https://api.example.com", "10.0.0.5"])
    assert check([named], name, None, AT, address="10.0.0.5").allowed
    assert not check([named], name, None, AT, address="10.0.0.6").allowed


def test_protocols_have_their_own_defaults() -> None:
    many = policy(
        destinations=["a.example", "tcp://a.example:5432"], protocols=[one.value for one in Protocol]
    )
    for text, protocol, allowed in (
        ("a.example", "http", True),
        ("a.example:80", "http", True),
        ("a.example", "quic", True),
        ("https://a.example", "quic", True),
        ("a.example:5432", "tcp", True),
        ("a.example:5432", "udp", False),
        ("a.example:443", "tcp", False),
    ):
        assert check([many], text, protocol, AT).allowed is allowed, (text, protocol)
