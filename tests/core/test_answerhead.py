"""What the pattern reads of an answer, h11 reads in the same way."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ambientd.core.answerhead import parse_plain_answer

PLAIN = (
    b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n"
    b"Date: Fri, 20 Nov 2026 12:00:00 GMT\r\nContent-Length: 2\r\n\r\n"
)


def by_h11(data: bytes) -> tuple[int, dict[str, str], bytes, bytes] | None:
    """Status, headers, body and what is left; None for what h11 refuses or waits for more of."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    try:
        head, body = parser.next_event(), b""
        if not isinstance(head, h11.Response):
            return None
        while isinstance(event := parser.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage):
        return None
    fields = [(name.decode().lower(), value.decode("latin-1")) for name, value in head.headers]
    assert len(dict(fields)) == len(fields)
    return head.status_code, dict(fields), body, bytes(parser.trailing_data[0])


@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=3), st.integers(0, 3))
@example(place=len(PLAIN) - 4, put=b"\r\nContent-Length: 3", gone=0)
@example(place=len(PLAIN) - 4, put=b"\r\nTransfer-Encoding: chunked", gone=0)
@example(place=9, put=b"204", gone=3)
@example(place=9, put=b"100", gone=3)
def test_a_plain_head_with_a_few_bytes_changed_is_read_as_h11_reads_it_or_not_at_all(
    place: int, put: bytes, gone: int
) -> None:
    data = PLAIN[:place] + put + PLAIN[place + gone :] + b"{}"
    found = parse_plain_answer(data)
    if found is None:
        return
    whole = data + b"x" * max(0, found.size + found.length - len(data))
    end = found.size + found.length
    assert by_h11(whole) == (found.status, found.headers, whole[found.size : end], whole[end:])


def test_a_plain_head_is_read() -> None:
    found = parse_plain_answer(PLAIN + b"{}")
    assert found is not None
    assert (found.status, found.size, found.length) == (200, len(PLAIN), 2)
    assert found.headers["content-type"] == "application/json"
    assert found.headers["date"] == "Fri, 20 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    "unusual",
    [
        PLAIN[:-2],
        PLAIN.replace(b"200 OK", b"204 No Content"),
        PLAIN.replace(b"200 OK", b"100 Continue"),
        PLAIN.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Content-Length", b"Content-Sum"),
        PLAIN.replace(b"Cache-Control: no-store", b"content-length: 2"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=range(7),
)
def test_whatever_is_unusual_is_left_to_h11(unusual: bytes) -> None:
    assert parse_plain_answer(unusual) is None
