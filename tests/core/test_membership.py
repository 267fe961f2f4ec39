"""The file that says where a node belongs; what a token may be sent to; whose key a certificate holds."""

import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambientd.config.upstream import ControlAddress, is_proxy, parse_control_url
from ambientd.core.membership import (
    Membership,
    may_carry_token,
    parse_membership,
    show_membership,
)
from ambientd.core.spki import pin_of

DATA = Path(__file__).parent.parent / "data" / "tls"


def membership(**fields: Any) -> Membership:
    facts: dict[str, Any] = {
        "url": "https://cp.example.net",
        "node_id": "edge-1",
        "owner_id": "ann",
        "credential_id": "c1",
        "device_token": "nd_" + "a" * 64,
        "incarnation": 1,
        "network": "default",
        "public_key": "ed25519:" + "0" * 64,
        "joined_at": "2026-11-20T12:00:00.000Z",
    }
    return Membership(**(facts | fields))


def test_the_file_is_read_as_it_was_written() -> None:
    assert parse_membership(show_membership(membership())) == membership()


def test_the_token_is_in_no_print() -> None:
    assert "nd_" not in repr(membership())
    assert "nd_" not in f"{membership()}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "\ufffd",
        show_membership(membership()).replace("ambient.membership/1", "ambient.membership/9"),
        show_membership(membership()).replace("nd_", "xx_"),
    ],
)
def test_what_is_no_membership_says_so_without_a_part_of_it(text: str) -> None:
    found = parse_membership(text)
    assert isinstance(found, str)
    assert "aaaa" not in found


def test_another_place_node_or_key_is_another_registration_and_a_new_token_is_not() -> None:
    first = membership().registration
    assert membership(device_token="nd_" + "b" * 64, credential_id="c2").registration == first
    for other in ({"url": "https://b"}, {"node_id": "edge-2"}, {"incarnation": 2}):
        assert membership(**other).registration != first


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://cp.example.net", True),
        ("http://127.0.0.1:7443", True),
        ("http://[::1]:7443", True),
        ("http://localhost:7443", True),
        ("http://cp.example.net", False),
        ("http://127.0.0.1.example.net", False),
        ("http://10.0.0.1", False),
    ],
)
def test_a_token_goes_unencrypted_to_this_machine_only(url: str, may: bool) -> None:
    address = parse_control_url(url)
    assert isinstance(address, ControlAddress)
    assert (may_carry_token(address, allow_plain=False) is None) == may
    assert may_carry_token(address, allow_plain=True) is None


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://proxy:3128", True),
        ("socks5://proxy:1080", True),
        ("https://proxy:1", False),
        ("http://proxy", False),
        ("http://user:secret@proxy:1", False),
        ("http://proxy:1/path", False),
        ("http://proxy:99999", False),
        ("", False),
    ],
)
def test_a_proxy(url: str, good: bool) -> None:
    assert is_proxy(url) is good


def test_issuers_that_are_no_keys_count_for_nothing() -> None:
    assert membership(issuers=("ed25519:" + "0" * 64, "x")).issuer_keys == frozenset()


def test_msgspec_refuses_a_membership_of_other_types() -> None:
    raw = msgspec.json.decode(show_membership(membership()))
    assert isinstance(parse_membership(msgspec.json.encode(raw | {"incarnation": "one"}).decode()), str)


# --- pins


def test_the_pin_is_that_of_the_key_and_not_of_the_certificate() -> None:
    """Both certificates were made for the same key by `openssl`, which names the digest beside them."""
    pins = set()
    for name in ("one", "two"):
        text = (DATA / f"{name}.pem").read_text()
        pins.add(pin_of(ssl.PEM_cert_to_DER_cert(text)))
    assert pins == {(DATA / "pin.txt").read_text().strip()}


@pytest.mark.parametrize("raw", [b"", b"\x30", b"\x30\x03\x30\x01", b"\x30\x84\xff\xff\xff\xff", b"x" * 64])
def test_what_is_no_certificate_has_no_pin(raw: bytes) -> None:
    assert pin_of(raw) is None


def test_no_part_of_a_certificate_is_taken_for_a_whole_one() -> None:
    whole = ssl.PEM_cert_to_DER_cert((DATA / "one.pem").read_text())
    for cut in range(len(whole)):
        assert pin_of(whole[:cut]) is None
