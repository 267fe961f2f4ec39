"""What a pattern lets through: compared part by part, never as the beginning of a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.destination import (
    BadDestinationError,
    Destination,
    Protocol,
    host_keys,
    is_own,
    matches_host,
    normal_pattern,
    parse_destination,
    parse_host,
    parse_pattern,
)


def allows(pattern: str, destination: str, protocol: str | None = None) -> bool:
    read = parse_destination(destination, None if protocol is None else Protocol(protocol))
    found = parse_pattern(pattern)
    return matches_host(found.host, read.host) and found.matches_port(read)


@pytest.mark.parametrize(
    ("pattern", "destination"),
    [
        ("https://allowed.example", "https://allowed.example/"),
        ("https://allowed.example", "https://allowed.example:443/path?q=@evil.test#x"),
        ("https://allowed.example", "HTTPS://ALLOWED.example."),
        ("https://allowed.example", "allowed.example"),
        ("allowed.example", "http://allowed.example"),
        ("allowed.example", "https://allowed.example"),
        ("allowed.example:8000-8100", "http://allowed.example:8080"),
        ("*.example.com", "https://a.example.com"),
        ("*.example.com", "https://a.b.example.com"),
        ("https://xn--bcher-kva.example", "https://BÜCHER.example"),
        ("https://xn--fa-hia.de", "https://faß.de"),
        ("93.184.216.0/24:443", "https://93.184.216.34"),
        ("[2001:db8::1]:443", "https://[2001:0DB8:0:0::1]"),
        ("192.0.2.1", "https://[::ffff:192.0.2.1]"),
        ("quic://q.example", "https://q.example"),
        ("https://w.example", "wss://w.example"),
    ],
)
def test_a_pattern_lets_through(pattern: str, destination: str) -> None:
    assert allows(pattern, destination, "quic" if pattern.startswith("quic") else None)


@pytest.mark.parametrize(
    ("pattern", "destination"),
    [
        ("https://allowed.example", "https://allowed.example.evil.test/"),
        ("https://allowed.example", "https://evil-allowed.example/"),
        ("https://allowed.example", "https://evil.test/https://allowed.example"),
        ("https://allowed.example", "https://evil.test?allowed.example"),
        ("https://allowed.example", "http://allowed.example"),
        ("https://allowed.example", "https://allowed.example:8443"),
        ("allowed.example", "https://allowed.example:4430"),
        ("*.example.com", "https://example.com"),
        ("*.example.com", "https://evilexample.com"),
        ("*.google.internal", "http://metadata.google.internal"),
        ("*.dev.localhost", "http://a.dev.localhost"),
        ("93.184.216.0/24:443", "https://93.184.217.1"),
        ("93.184.216.0/24:443", "https://[2001:db8::1]"),
        ("0.0.0.0/0:1-65535", "http://127.0.0.1"),
        ("0.0.0.0/0:1-65535", "http://10.1.2.3"),
        ("0.0.0.0/0:1-65535", "http://169.254.169.254"),
        ("169.254.0.0/16:80", "http://169.254.169.254"),
        ("127.0.0.0/8:80", "http://127.0.0.1"),
        ("[::/0]:80", "http://[::1]"),
        ("[64:ff9b::/96]:80", "http://[64:ff9b::7f00:1]"),
        ("[2002::/16]:80", "http://[2002:7f00:1::]"),
    ],
)
def test_a_pattern_does_not_let_through(pattern: str, destination: str) -> None:
    assert not allows(pattern, destination)


@pytest.mark.parametrize(
    ("pattern", "destination"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost:8080", "http://localhost:8080"),
        ("169.254.169.254", "http://169.254.169.254"),
        ("10.1.0.0/16", "http://10.1.2.3"),
        ("[fd12::/16]", "http://[fd12::1]"),
        ("metadata.google.internal", "http://metadata.google.internal"),
    ],
)
def test_the_own_side_is_reached_only_where_a_pattern_names_it(pattern: str, destination: str) -> None:
    assert is_own(parse_destination(destination).host)
    assert allows(pattern, destination)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://",
        "https://allowed.example@evil.test/",
        "https://user:secret@allowed.example/",
        "https://ex%61mple.com",
        "https://a.example\\@evil.test",
        "https://a.example:0",
        "https://a.example:080",
        "https://a.example:65536",
        "https://a.example:",
        "https://a.example:٤٤٣",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1.2/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "2001:db8::1",
        "a..b.example",
        ".a.example",
        "a.example..",
        "-a.example",
        "a b.example",
        "https://a.example\n.evil.test",
        "ftp://a.example",
        "a.example/path",
        "x" * 3000,
        "https://" + "a" * 64 + ".example",
        "https://\u202ea.example",
        "https://a\u200b.example",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(BadDestinationError) as caught:
        parse_destination(text)
    assert "secret" not in str(caught.value)


def test_full_width_digits_and_dots_are_the_address_they_stand_for() -> None:
    assert parse_destination("http://１２７。0.0.1/").host == "127.0.0.1"


def test_a_protocol_without_a_default_port_needs_one() -> None:
    with pytest.raises(BadDestinationError, match="needs a port"):
        parse_destination("db.example", Protocol.TCP)
    assert parse_destination("db.example:5432", Protocol.TCP).text == "tcp://db.example:5432"
    with pytest.raises(BadDestinationError, match="says http"):
        parse_destination("http://a.example", Protocol.HTTPS)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("HTTPS://Api.Example.com:443/", "https://api.example.com"),
        ("http://api.example.com:443", "http://api.example.com:443"),
        ("api.example.com.", "api.example.com"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("[2001:DB8:0::]:443", "[2001:db8::]:443"),
        ("10.0.0.0/8:1-65535", "10.0.0.0/8:1-65535"),
        ("a.example:80-80", "a.example:80"),
    ],
)
def test_patterns_have_one_form(written: str, normal: str) -> None:
    assert normal_pattern(written) == normal
    assert parse_pattern(normal).text == normal
    if written != normal:
        with pytest.raises(BadDestinationError):
            parse_pattern(written)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "*.com",
        "a.*.example",
        "*a.example.com",
        "https://a.example/path",
        "10.0.0.1/8",
        "tcp://a.example",
        "a.example:9-8",
        "*.192.0.2.1",
        "user@a.example",
        "https://a.example?x",
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(BadDestinationError):
        normal_pattern(text)


hosts = st.from_regex(r"[a-z][a-z0-9]{0,5}(\.[a-z][a-z0-9]{0,5}){1,3}", fullmatch=True)
patterns = st.one_of(hosts, hosts.map(lambda host: f"*.{host}"))


@given(patterns, hosts)
def test_the_keys_of_a_host_find_every_pattern_that_matches_it(pattern: str, host: str) -> None:
    assert (pattern in set(host_keys(host))) == matches_host(pattern, host)


@given(hosts, st.text(max_size=20))
def test_nothing_before_or_behind_a_host_is_let_through(host: str, junk: str) -> None:
    pattern = parse_pattern(f"https://{host}")
    for text in (f"https://{host}{junk}", f"https://{junk}{host}"):
        try:
            read = parse_destination(text)
        except BadDestinationError:
            continue
        if matches_host(pattern.host, read.host):
            assert read.host == host


@given(st.text(max_size=60))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    for parse in (parse_destination, parse_host, normal_pattern):
        try:
            parse(text)
        except BadDestinationError:
            continue


@given(st.ip_addresses())
def test_the_keys_of_an_address_hold_it_and_every_network_around_it(address: object) -> None:
    host = parse_host(f"[{address}]" if ":" in str(address) else str(address))
    keys = list(host_keys(host))
    assert keys[0] == host
    assert keys[-1] in ("0.0.0.0/0", "::/0")


def test_a_destination_is_shown_whole() -> None:
    assert Destination(Protocol.HTTPS, "2001:db8::1", 443).text == "https://[2001:db8::1]:443"
