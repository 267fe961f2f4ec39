"""What the pattern reads, h11 reads in the same way; what h11 refuses, the pattern never reads."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ambientd.core.requesthead import parse_plain_head

PLAIN = (
    b"PUT /api/v1/nodes/n-1/heartbeat?x=%20 HTTP/1.1\r\nHost: control:7443\r\nUser-Agent: a b  c\r\n"
    b"Content-Type: application/json\r\nX-Ambient-Sequence: 17\r\nContent-Length: 2\r\n\r\n"
)
NAMES = ("Host", "host", "Content-Length", "Transfer-Encoding", "Expect", "Connection", "Accept", "X_y", "")
VALUES = ("a", "0", "2", "2, 2", "chunked", "close", "a  b", "", " ", "\t", "a\tb", "é", "100-continue", "+2")
SEPARATORS = (": ", ": ", ": ", ":", " : ", ":  ")
ENDS = ("\r\n", "\r\n", "\r\n", "\n", " \r\n", "\r\n ", "\r")
lines = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(SEPARATORS), st.sampled_from(VALUES), st.sampled_from(ENDS)
).map("".join)
heads = st.builds(
    lambda method, target, version, fields: f"{method} {target} {version}\r\n{''.join(fields)}\r\n".encode(
        "latin-1"
    ),
    st.sampled_from(("GET", "PUT", "CONNECT", "OPTIONS", "get", "")),
    st.sampled_from(("/", "/a?b=c", "/%zz", "//", "*", "http://h/a", "/a b", "/\x7f", "")),
    st.sampled_from(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1")),
    st.lists(st.one_of(st.just("Host: h\r\n"), lines), max_size=5),
)


def by_h11(data: bytes) -> tuple[str, bytes, dict[str, str], bytes, bytes] | None:
    """Method, target, headers, body and what is left; None for what h11 refuses or waits for more of."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    try:
        head, body = parser.next_event(), b""
        if not isinstance(head, h11.Request):
            return None
        while isinstance(event := parser.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage):
        return None
    fields = [(name.decode().lower(), value.decode("latin-1")) for name, value in head.headers]
    assert len(dict(fields)) == len(fields)
    return head.method.decode(), bytes(head.target), dict(fields), body, bytes(parser.trailing_data[0])


def check(data: bytes) -> None:
    found = parse_plain_head(data)
    if found is None:
        return
    whole = data + b"x" * max(0, found.size + found.length - len(data))
    end = found.size + found.length
    assert by_h11(whole) == (
        found.method,
        found.target,
        found.headers,
        whole[found.size : end],
        whole[end:],
    )


@given(heads, st.binary(max_size=4))
def test_a_head_of_any_parts_is_read_as_h11_reads_it_or_not_at_all(head: bytes, rest: bytes) -> None:
    check(head + rest)


@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=3), st.integers(0, 3))
@example(place=len(PLAIN) - 4, put=b"\r\nHost: b", gone=0)
@example(place=len(PLAIN) - 4, put=b"\r\nTransfer-Encoding: chunked", gone=0)
def test_a_plain_head_with_a_few_bytes_changed_is_read_as_h11_reads_it(
    place: int, put: bytes, gone: int
) -> None:
    check(PLAIN[:place] + put + PLAIN[place + gone :] + b"{}")


def test_a_plain_head_is_read() -> None:
    found = parse_plain_head(PLAIN + b"{}GET / ")
    assert found is not None
    assert (found.method, found.target) == ("PUT", b"/api/v1/nodes/n-1/heartbeat?x=%20")
    assert (found.size, found.length) == (len(PLAIN), 2)
    assert found.headers == {
        "host": "control:7443",
        "user-agent": "a b  c",
        "content-type": "application/json",
        "x-ambient-sequence": "17",
        "content-length": "2",
    }


@pytest.mark.parametrize(
    "unusual",
    [
        PLAIN[:-2],
        PLAIN.replace(b"Host", b"Hose"),
        PLAIN.replace(b"User-Agent", b"HOST"),
        PLAIN.replace(b"User-Agent", b"Transfer-Encoding"),
        PLAIN.replace(b"User-Agent", b"expect"),
        PLAIN.replace(b"h: 2", b"h: +2"),
        PLAIN.replace(b"h: 2", b"h: 2, 2"),
        PLAIN.replace(b"h: 2", b"h: " + b"2" * 19),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b": 17", b": 17\r\n folded"),
        b"\r\n" + PLAIN,
    ],
    ids=range(12),
)
def test_whatever_is_unusual_is_left_to_h11(unusual: bytes) -> None:
    assert parse_plain_head(unusual) is None


def test_a_long_head_that_fits_nowhere_takes_no_longer_than_its_length() -> None:
    assert parse_plain_head(b"GET / HTTP/1.1\r\n" + b"A: b" + b" " * 500_000 + b"\x00\r\n") is None
    assert parse_plain_head(b"GET / HTTP/1.1\r\n" + b"A: b c d\r\n" * 50_000 + b"\x00\r\n") is None
