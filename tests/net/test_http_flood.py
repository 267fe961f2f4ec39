"""Ten thousand malformed requests against a real listener: no 5xx, no leak, no fault."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import h11
import trio
import trio.testing

from tests.fakes import http_app
from tests.fakes.http_rig import Rig, get, post, serving

SEED = int(os.environ.get("AMBIENT_TEST_SEED", "20261120"))
REQUESTS = 10_000
LANES = 16
RSS_ALLOWED = 16 * 1024 * 1024

_PATHS = [
    "/livez",
    "/readyz?verbose",
    "/echo/a",
    "/order",
    "/big?size=10",
    "/openapi.json",
    "/nothing",
    "/count/0",
]
_METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "G T",
    "",
    "\x01",
    "P" * 50,
]
_TARGETS = [
    "/%zz",
    "/%",
    "/%ff%fe",
    "/echo/%00",
    "/echo/%ed%a0%80",
    "/../../../etc/passwd",
    "/echo/..%2f..%2fetc",
    "/" + "a" * 9000,
    "/" + "a/" * 4000,
    "//",
    "",
    "*",
    "http://x/livez",
    "/livez?verbose=1&verbose=2",
    "/livez?unknown=1",
    "/echo/a?sort=sideways",
    "/echo/a?suffix=%00",
    "/big?size=99999999999999999999",
    "/big?size=-1",
    "/big?size=1e9",
    "/big",
    "/echo/a?" + "&".join(f"p{n}=1" for n in range(80)),
    "/echo/\x7f",
    "/livez#fragment",
    "/echo/" + "%F0%9F%98%80" * 30,
    "?",
    "/echo/a?suffix=" + "x" * 5000,
]
_HEADERS = [
    "Content-Length: 1, 2",
    "Content-Length: -5",
    "Content-Length: 0x10",
    "Content-Length: 99999999999999999999999",
    "Content-Length: ",
    "Content-Length: 2000000",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: identity",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Encoding: what",
    "Expect: 100-continue",
    "Expect: something",
    "Connection: close",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Host: second",
    "X: \x00",
    "X: \xff\xfe",
    "X\x00: a",
    " folded",
    ": empty",
    "X" * 300 + ": y",
    "X: " + "y" * 20_000,
    "Content-Type: text/plain",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: application/x-www-form-urlencoded",
    "Content-Type: application/json; charset=utf-16",
    "Host",
]
_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"5",
    b'"x"',
    b"\xef\xbb\xbf{}",
    '{"agentId":"x"}'.encode("utf-16"),
    b"{} {}",
    rb'{"agentId":"\ud800"}',
    rb'{"agentId":"\udc00x"}',
    rb'{"agentId":"\u0000"}',
    b'{"agentId":"\xff"}',
    b'{"agentId":"x","count":9223372036854775808}',
    b'{"agentId":"x","count":' + b"9" * 5000 + b"}",
    b'{"agentId":"x","price":1e400}',
    b'{"agentId":"x","price":NaN}',
    b'{"agentId":1,"agentId":2}',
    b'{"agentId":"x","extra":' + b"[" * 10 + b"]" * 10 + b',"odd":1}',
    b"[" * 1000 + b"]" * 1000,
    b"[" * 200_000,
    b"[]" * 20_000,
    b'{"a":' * 5000,
    b'{"agentId":"x","parts":[' + b"1," * 5000 + b"1]}",
    bytes(1000),
    b'{"agentId":"x","extra":{"\\u0000":1}}',
    b'{"agentId":null,"count":true,"price":"1","parts":{},"zzz":0}',
]
_CHUNKS = [
    b"zz\r\n\r\n",
    b"-1\r\n",
    b"5\r\nab",
    b"1\r\nabc\r\n",
    b"fffffffffffffffffffff\r\n",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"2\r\n{}\r\n0\r\nX: \x00\r\n\r\n",
    b"1;" + b"e" * 20_000 + b"\r\n",
    b"2 \r\n{}\r\n0\r\n\r\n",
    b"0x2\r\n{}\r\n0\r\n\r\n",
]


def _assembled(dice: random.Random) -> bytes:
    """A request of parts, some of which are wrong."""
    method = dice.choice(_METHODS) if dice.random() < 0.3 else dice.choice(["GET", "POST", "DELETE"])
    target = dice.choice(_TARGETS) if dice.random() < 0.5 else dice.choice(_PATHS)
    version = dice.choice(["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9", "http/1.1", ""])
    headers = ["Host: x"] * dice.choice([1] * 8 + [0, 2]) + dice.sample(
        _HEADERS, dice.choice([0, 1, 1, 2, 3])
    )
    body = dice.choice(_BODIES)
    if dice.random() < 0.4:
        headers += ["Transfer-Encoding: chunked"]
        body = dice.choice(_CHUNKS)
    elif dice.random() < 0.7:
        headers += [f"Content-Length: {len(body) + dice.choice([0, 0, 0, 1, -1, 50])}"]
    if dice.random() < 0.6:
        headers += ["Content-Type: application/json"]
    dice.shuffle(headers)
    line = dice.choice(["\r\n"] * 9 + ["\n", "\r"])
    return (line.join((f"{method} {target} {version}", *headers, "", ""))).encode("latin-1") + body


def _mutated(dice: random.Random) -> bytes:
    """A good request with bytes changed, lost, doubled or cut off."""
    good = dice.choice(
        [
            get("/livez"),
            get("/readyz?verbose"),
            get("/echo/w%20x?suffix=a&sort=up"),
            get("/order", method="DELETE"),
            post("/order", b'{"agentId":"a","count":2,"parts":[{"size":1}]}'),
            get("/order", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
            + b'f\r\n{"agentId":"a"}\r\n0\r\n\r\n',
        ]
    )
    raw = bytearray(good)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(raw) or 1)
        match dice.randrange(6):
            case 0:
                raw[at : at + 1] = bytes((dice.randrange(256),))
            case 1:
                del raw[at : at + dice.randint(1, 8)]
            case 2:
                raw[at:at] = dice.randbytes(dice.randint(1, 8))
            case 3:
                raw[at:at] = dice.choice([b"\r\n", b"\n", b"\x00", b"\r\n\r\n", b": ", b" ", b"%", b"\xff"])
            case 4:
                raw[at:at] = raw[at : at + 40]
            case _:
                del raw[at:]
    return bytes(raw)


_KINDS = ["application/json"] * 8 + [
    "text/plain",
    "",
    "application/json; charset=utf-16",
    "multipart/form-data",
]


def _well_framed(dice: random.Random) -> bytes:
    """HTTP in order, but what it carries is not."""
    if dice.random() < 0.3:
        return get(dice.choice(_TARGETS), method=dice.choice(["GET", "HEAD", "PUT", "PATCH", "OPTIONS"]))
    body = bytearray(
        dice.choice([*_BODIES, b'{"agentId":"a","count":2,"parts":[{"size":1}],"extra":{"k":[1.5]}}'])
    )
    for _ in range(dice.randint(0, 3)):
        at = dice.randrange(len(body) + 1)
        body[at : at + dice.randint(0, 3)] = dice.choice(
            [b'"', b"{", b"]", b"\\", b"\\u0000", b"1e999", b",", b"\xc3", b":"]
        )
    path = dice.choice(["/order"] * 6 + ["/livez", "/echo/a", "/nothing"])
    return post(path, bytes(body), kind=dice.choice(_KINDS))


def malformed(seed: int) -> Iterator[bytes]:
    """An endless, repeatable supply."""
    dice = random.Random(seed)
    while True:
        match dice.randrange(10):
            case 0:
                yield dice.randbytes(dice.randint(1, 400))
            case 1:
                yield b"".join(_mutated(dice) for _ in range(dice.randint(2, 4)))
            case 2 | 3:
                yield _assembled(dice)
            case 4 | 5 | 6 | 7:
                yield _well_framed(dice)
            case _:
                yield _mutated(dice)


def statuses_of(received: bytes, raw: bytes) -> list[int]:
    """Statuses of everything that came back; raises when it is not HTTP or an error has another shape."""
    found = []
    while received:
        head, mark, rest = received.partition(b"\r\n\r\n")
        assert mark, (raw, received)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        names = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        found.append(status)
        if status == 100:
            received = rest
            continue
        assert "x-request-id" in names
        size = int(names.get("content-length", "0"))
        if "transfer-encoding" in names:
            rest = rest.partition(b"0\r\n\r\n")[2]
            size = 0
        elif len(rest) < size or (size and not rest.startswith((b"{", b"x"))):
            size = 0  # the answer to a HEAD
        if status >= 400 and size:
            assert rest.startswith(b'{"error":{"code":"'), (raw, rest[:100])
            assert f'"requestId":"{names["x-request-id"]}"'.encode() in rest[:size]
        received = rest[size:]
    return found


async def _lane(rig: Rig, supply: Iterator[bytes], seen: Counter[int]) -> None:
    for raw in supply:
        async with await trio.open_unix_socket(rig.path) as stream:
            received = bytearray()
            with trio.fail_after(20):
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(raw)
                    await stream.send_eof()
                with suppress(trio.BrokenResourceError):
                    async for part in stream:
                        received += part
        seen.update(statuses_of(bytes(received), raw))


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_ten_thousand_malformed_requests_leave_no_trace() -> None:
    supply = malformed(SEED)
    seen: Counter[int] = Counter()

    def share(count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield next(supply)

    async with serving(http_app.build()) as rig:
        await _lane(rig, share(300), Counter())  # caches and allocators find their size
        await trio.testing.wait_all_tasks_blocked(0.01)
        tasks, fds, rss = trio.lowlevel.current_statistics().tasks_living, _fds(), _rss()
        async with trio.open_nursery() as nursery:
            for _ in range(LANES):
                nursery.start_soon(_lane, rig, share(REQUESTS // LANES), seen)
        assert (await rig.ask(get("/livez"))).status == 200
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert rig.server.connections == 0
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert _fds() == fds
        assert _rss() - rss < RSS_ALLOWED
        assert rig.log.faults == []
        assert rig.log.notes == []
    print(f"seed {SEED}: {dict(sorted(seen.items()))}")
    assert [status for status in seen if status >= 500] == []
    refused = sum(count for status, count in seen.items() if status >= 400)
    assert refused > REQUESTS / 2
    assert {400, 404, 405, 413, 414, 415, 431} <= set(seen)


_LAST = (h11.EndOfMessage, h11.ConnectionClosed)


def test_what_the_parser_itself_makes_of_it_is_known_to_be_handled() -> None:
    """h11 promises one exception type for everything; the server relies on it."""
    supply = malformed(SEED + 1)
    for _ in range(3000):
        parser = h11.Connection(h11.SERVER)
        with suppress(h11.RemoteProtocolError):
            parser.receive_data(next(supply))
            parser.receive_data(b"")
            event: object = None
            while event not in (h11.PAUSED, h11.NEED_DATA) and not isinstance(event, _LAST):
                event = parser.next_event()
