import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.site import build_site, client_address, fault_of_site

SITE = build_site("127.0.0.1", 7777, hosts=["node.example.net"], origins=["https://panel.example.net"])
PROXIES = (ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("127.0.0.1"))


def test_a_loopback_listener_has_its_address_and_localhost_as_names_with_the_port() -> None:
    assert build_site("127.0.0.1", 7777).hosts == {"127.0.0.1:7777", "localhost:7777"}
    assert build_site("::1", 7777).hosts == {"[::1]:7777", "localhost:7777"}
    assert build_site("192.0.2.5", 7777).hosts == {"192.0.2.5:7777"}
    assert build_site("127.0.0.1", 80).hosts == {"127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost"}


def test_a_listener_on_all_addresses_has_only_the_names_it_is_given() -> None:
    assert build_site("0.0.0.0", 7777).hosts == frozenset()
    assert build_site("::", 80, hosts=["a.test"]).hosts == {"a.test"}


def test_what_was_configured_is_added_and_its_origins_follow() -> None:
    assert "node.example.net" in SITE.hosts
    assert {"http://node.example.net", "https://panel.example.net"} <= SITE.origins
    assert fault_of_site(SITE, {"host": "node.example.net", "origin": "https://panel.example.net"}) is None


@given(st.text(max_size=40))
def test_no_other_host_passes_and_none_is_repeated(host: str) -> None:
    fault = fault_of_site(SITE, {"host": host})
    assert (fault is None) == (host in SITE.hosts)


@given(st.text(max_size=40))
def test_no_other_origin_passes(origin: str) -> None:
    fault = fault_of_site(SITE, {"host": "localhost:7777", "origin": origin})
    assert (fault is None) == (origin in SITE.origins)


def test_a_missing_host_is_a_foreign_one() -> None:
    assert fault_of_site(SITE, {}) is not None


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", "1.1.1.1", "192.0.2.7"),
        ("10.0.0.3", None, "10.0.0.3"),
        ("10.0.0.3", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.3", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.3", "203.0.113.9, 10.0.0.4", "203.0.113.9"),
        ("10.0.0.3", "10.0.0.9, 10.0.0.4", "10.0.0.9"),
        ("10.0.0.3", "203.0.113.9, nonsense", "10.0.0.3"),
        ("10.0.0.3", "x\n[AUDIT], 10.0.0.4", "10.0.0.4"),
        ("10.0.0.3", "", "10.0.0.3"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("odd", "1.1.1.1", "odd"),
    ],
)
def test_a_forwarded_address_counts_from_a_trusted_proxy_alone(
    peer: str, forwarded: str | None, expected: str
) -> None:
    assert client_address(peer, forwarded, PROXIES) == expected


@given(st.text(max_size=60))
def test_what_is_forwarded_never_becomes_anything_but_an_address(forwarded: str) -> None:
    ipaddress.ip_address(client_address("10.0.0.3", forwarded, PROXIES))
