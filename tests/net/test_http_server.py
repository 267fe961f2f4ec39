"""The protocol over real Unix sockets; time is in test_http_time.py, floods are in test_http_flood.py."""

import contextlib
import os
import socket
from functools import partial

import pytest
import trio
import trio.testing

from ambientd.net.http_connection import LINGER_BYTES
from ambientd.net.http_server import HttpServer, Limits
from ambientd.ports.http import Caller, Request, Response
from ambientd.wire.errors import ERRORS
from tests.fakes import http_app
from tests.fakes.clock import TrioWallClock
from tests.fakes.http_log import ListHttpLog
from tests.fakes.http_rig import READER, WRITER, Reader, get, post, serving

ORDER = b'{"agentId":"a","count":2}'


async def test_an_answer_carries_what_every_answer_must_carry() -> None:
    async with serving(http_app.build()) as rig:
        answer = await rig.ask(get("/livez"))
    assert answer.status == 200
    assert answer.body == b'{"ok":true}'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == "11"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["date"] == "Fri, 20 Nov 2026 12:00:00 GMT"
    assert len(answer.headers["x-request-id"]) >= 12
    assert "connection" not in answer.headers


async def test_a_connection_serves_one_request_after_the_other_with_ids_of_their_own() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        ids = set()
        for number in range(20):
            await stream.send_all(get(f"/echo/{number}"))
            answer = await reader.answer()
            assert answer.json == {"text": str(number)}
            ids.add(answer.headers["x-request-id"])
        await stream.aclose()
    assert len(ids) == 20


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(
            b"".join(get(f"/echo/{number}") + post("/order", ORDER) for number in range(30))
        )
        for number in range(30):
            assert (await reader.answer()).json == {"text": str(number)}
            assert (await reader.answer()).json == {"text": "2 for a"}
        await stream.aclose()


async def test_a_request_in_single_bytes_is_understood() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        for byte in post("/order", ORDER):
            await stream.send_all(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()
        assert (await reader.answer()).json == {"text": "2 for a"}
        await stream.aclose()


async def test_a_chunked_body_is_put_together() -> None:
    body = (
        b"".join(b"%x;ext=1\r\n%b\r\n" % (1, bytes((byte,))) for byte in ORDER) + b"0\r\nTrailer: x\r\n\r\n"
    )
    head = get("/order", "Content-Type: application/json", "Transfer-Encoding: chunked", method="POST")
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(head + body + get("/livez"))
        assert (await reader.answer()).json == {"text": "2 for a"}
        assert (await reader.answer()).json == {"ok": True}
        await stream.aclose()


async def test_a_client_that_ended_its_sending_still_gets_every_answer() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(get("/echo/1") + get("/echo/2"))
        await stream.send_eof()
        assert (await reader.answer()).json == {"text": "1"}
        assert (await reader.answer()).json == {"text": "2"}
        assert await reader.ended()
        await stream.aclose()


async def test_a_client_that_ends_in_the_middle_of_a_request_is_told() -> None:
    async with serving(http_app.build()) as rig:
        for part in (b"GET /livez HT", post("/order", ORDER)[:-3]):
            stream, reader = await rig.connect()
            await stream.send_all(part)
            await stream.send_eof()
            answer = await reader.answer()
            assert (answer.status, answer.code) == (400, "BAD_REQUEST")
            assert await reader.ended()
            await stream.aclose()


async def test_connection_close_and_http_1_0_end_the_connection() -> None:
    async with serving(http_app.build()) as rig:
        for raw in (
            get("/livez", "Connection: close"),
            get("/livez", "Connection: TE, Close"),
            b"GET /livez HTTP/1.0\r\n\r\n",
        ):
            stream, reader = await rig.connect()
            await stream.send_all(raw)
            answer = await reader.answer()
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
            assert await reader.ended()
            await stream.aclose()


async def test_head_says_what_get_would_say_without_the_body(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        for path in ("/livez", "/nothing", "/echo/1", "/count/3", "/fail/defect"):
            await stream.send_all(get(path) + get(path, method="HEAD") + get("/livez"))
            full = await reader.answer()
            head = await reader.answer(head_only=True)
            assert head.status == full.status
            assert head.headers.get("content-length") == full.headers.get("content-length")
            assert (await reader.answer()).body == b'{"ok":true}'
        await stream.aclose()


async def test_options_names_the_methods() -> None:
    async with serving(http_app.build()) as rig:
        answer = await rig.ask(get("/order", method="OPTIONS"))
        assert (answer.status, answer.headers["allow"]) == (204, "DELETE, OPTIONS, POST")
        assert "content-length" not in answer.headers
        assert (await rig.ask(get("*", method="OPTIONS"))).status == 204


async def test_expect_100_continue_is_answered_before_the_body_and_only_when_it_is_wanted() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        whole = post("/order", ORDER, "Expect: 100-continue")
        head, body = whole[: -len(ORDER)], whole[-len(ORDER) :]
        await stream.send_all(head)
        assert (await reader.answer()).status == 100
        await stream.send_all(body)
        assert (await reader.answer()).json == {"text": "2 for a"}
        await stream.send_all(whole)  # the body comes along: nothing to ask for
        assert (await reader.answer()).json == {"text": "2 for a"}
        await stream.aclose()


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Content-Encoding: gzip", "UNSUPPORTED_MEDIA_TYPE"),
        (f"Content-Length: {2**20 + 1}", "PAYLOAD_TOO_LARGE"),
    ],
)
async def test_a_refused_head_is_answered_instead_of_asking_for_the_body(header: str, code: str) -> None:
    async with serving(http_app.build()) as rig:
        length = "" if header.startswith("Content-Length") else "\r\nContent-Length: 9"
        raw = f"POST /order HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{header}{length}\r\n\r\n"
        stream, reader = await rig.connect()
        await stream.send_all(raw.encode())
        answer = await reader.answer()
        assert (answer.status, answer.code) == (ERRORS[code].status, code)
        assert answer.headers["connection"] == "close"
        assert await reader.ended()
        await stream.aclose()


async def test_an_offer_to_upgrade_is_ignored() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        for offer in ("websocket", "h2c"):
            await stream.send_all(
                get("/livez", "Connection: Upgrade", f"Upgrade: {offer}", "HTTP2-Settings: AA")
            )
            assert (await reader.answer()).status == 200
        await stream.aclose()


async def test_connect_is_refused_and_the_connection_goes_on() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert (await reader.answer()).status == 404
        await stream.send_all(get("/livez"))
        assert (await reader.answer()).status == 200
        await stream.aclose()


def _raw(*lines: str, body: str = "") -> bytes:
    return ("\r\n".join((*lines, "", "")) + body).encode("latin-1")


MALFORMED = [
    ("garbage", b"\x00\xff\x16\x03\x01garbage\r\n\r\n", "BAD_REQUEST"),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), "BAD_REQUEST"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "BAD_REQUEST"),
    ("HTTP/0.9", b"GET /livez\r\n\r\n", "BAD_REQUEST"),
    ("HTTP/3", _raw("GET / HTTP/3.0", "Host: x"), "BAD_REQUEST"),
    ("no host", _raw("GET / HTTP/1.1"), "BAD_REQUEST"),
    ("two hosts", _raw("GET / HTTP/1.1", "Host: a", "Host: b"), "BAD_REQUEST"),
    ("space before the colon", _raw("GET / HTTP/1.1", "Host : a"), "BAD_REQUEST"),
    ("no colon", _raw("GET / HTTP/1.1", "Host: a", "nonsense"), "BAD_REQUEST"),
    ("NUL in a value", _raw("GET / HTTP/1.1", "Host: a", "X: a\x00b"), "BAD_REQUEST"),
    ("NUL in the target", _raw("GET /\x00 HTTP/1.1", "Host: a"), "BAD_REQUEST"),
    (
        "two lengths",
        _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 2"),
        "BAD_REQUEST",
    ),
    ("two lengths in one", _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: 1, 2"), "BAD_REQUEST"),
    ("a negative length", _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: -1"), "BAD_REQUEST"),
    ("a length with a sign", _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: +1"), "BAD_REQUEST"),
    ("a length in hex", _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: 0x1"), "BAD_REQUEST"),
    (
        "an endless length",
        _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: " + "9" * 40),
        "BAD_REQUEST",
    ),
    (
        "a huge length",
        _raw("POST /order HTTP/1.1", "Host: a", "Content-Length: 99999999999"),
        "PAYLOAD_TOO_LARGE",
    ),
    (
        "length and chunks",
        _raw(
            "POST /order HTTP/1.1",
            "Host: a",
            "Content-Length: 4",
            "Transfer-Encoding: chunked",
            body="0\r\n\r\n",
        ),
        "BAD_REQUEST",
    ),
    (
        "two codings",
        _raw("POST /order HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked"),
        "BAD_REQUEST",
    ),
    ("an unknown coding", _raw("POST /order HTTP/1.1", "Host: a", "Transfer-Encoding: what"), "BAD_REQUEST"),
    (
        "a bad chunk size",
        _raw("POST /order HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="zz\r\n\r\n"),
        "BAD_REQUEST",
    ),
    (
        "a negative chunk size",
        _raw("POST /order HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="-1\r\n\r\n"),
        "BAD_REQUEST",
    ),
    (
        "a chunk that is longer than it says",
        _raw("POST /order HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="1\r\nabc\r\n0\r\n\r\n"),
        "BAD_REQUEST",
    ),
    (
        "a huge chunk",
        _raw(
            "POST /order HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="fffffff\r\n" + "a" * 2**21
        ),
        "PAYLOAD_TOO_LARGE",
    ),
    ("gzip", _raw("POST /order HTTP/1.1", "Host: a", "Content-Encoding: gzip"), "UNSUPPORTED_MEDIA_TYPE"),
    ("br", _raw("POST /order HTTP/1.1", "Host: a", "Content-Encoding: br"), "UNSUPPORTED_MEDIA_TYPE"),
    ("a long line", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "URI_TOO_LONG"),
    ("a long target", b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "URI_TOO_LONG"),
    ("an endless line", b"G" * 40_000, "URI_TOO_LONG"),
    (
        "a large head",
        _raw("GET / HTTP/1.1", "Host: a", *(f"X-{n}: {'a' * 100}" for n in range(200))),
        "HEADERS_TOO_LARGE",
    ),
    ("an endless head", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000, "HEADERS_TOO_LARGE"),
    ("a bad escape", _raw("GET /%zz HTTP/1.1", "Host: a"), "VALIDATION_ERROR"),
    ("a parameter twice", _raw("GET /echo/a?suffix=1&suffix=2 HTTP/1.1", "Host: a"), "VALIDATION_ERROR"),
]


@pytest.mark.parametrize(("name", "raw", "code"), MALFORMED, ids=[case[0] for case in MALFORMED])
async def test_malformed_requests_get_a_4xx_envelope_and_the_connection_is_closed(
    name: str, raw: bytes, code: str
) -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(raw)

            with trio.fail_after(10):
                answer = await reader.answer()
                ended = await reader.ended()
            nursery.cancel_scope.cancel()
        await stream.aclose()
        assert (answer.status, answer.code) == (ERRORS[code].status, code), answer
        assert ended
        assert answer.headers["connection"] == "close"
        assert answer.json["error"]["requestId"] == answer.headers["x-request-id"]
        assert [refusal.request_id for refusal in rig.log.refusals] == [answer.headers["x-request-id"]]
        assert rig.log.faults == []
        assert (await rig.ask(get("/livez"))).status == 200


async def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    async with serving(http_app.build()) as rig:
        for raw in (
            b"hunter2 \x01\r\n\r\n",
            _raw("GET / HTTP/1.1", "Host: a", "hunter2\x01"),
            _raw("GET / HTTP/1.1", "Host: a", "X: hunter2'b\"\x00"),
            _raw("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="hunter2\r\n"),
            _raw("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="1\r\nahunter2\r\n"),
            _raw("POST / HTTP/1.1", "Host: a", "Content-Length: hunter2"),
        ):
            answer = await rig.ask(raw)
            assert answer.status == 400
            assert answer.json["error"]["message"].startswith("this is not well-formed HTTP/1.1: ")
            assert b"hunter" not in answer.body


async def test_one_of_two_listeners_may_stop(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(http_app.build()) as rig:
        with socket.socket(socket.AF_UNIX) as second:
            second.bind(rig.path + "2")
            second.listen()
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(rig.server.serve, second, lambda sock: WRITER))
                await trio.testing.wait_all_tasks_blocked()
                async with await trio.open_unix_socket(rig.path + "2") as stream:
                    await stream.send_all(get("/livez"))
                    assert (await Reader(stream).answer()).status == 200
                nursery.cancel_scope.cancel()
        await trio.sleep(20)
        left, _ = await rig.connect()
        await left.send_all(get("/slow/50"))
        await trio.testing.wait_all_tasks_blocked()
        await left.aclose()
        await trio.sleep(20)  # the remaining listener still notices who left
        assert rig.server.connections == 0


async def test_a_refused_upload_is_answered_even_while_the_client_is_still_sending() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(b"POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n")
        await stream.send_all(bytes(LINGER_BYTES // 2))
        assert (await reader.answer()).status == 413
        await stream.aclose()


async def test_a_defect_in_a_handler_costs_one_request_and_tells_the_client_nothing_of_it() -> None:
    log = ListHttpLog()
    async with serving(http_app.build(log=log)) as rig:
        stream, reader = await rig.connect()
        for kind in ("defect", "group"):
            await stream.send_all(get(f"/fail/{kind}"))
            answer = await reader.answer()
            assert (answer.status, answer.code) == (500, "INTERNAL_ERROR")
            assert b"secret" not in answer.body
            assert log.faults[-1][0] == f"GET /fail/{kind}"
            assert log.faults[-1][2] == answer.json["error"]["requestId"]
        await stream.send_all(get("/livez"))
        assert (await reader.answer()).status == 200
        await stream.aclose()


async def test_an_application_without_a_router_cannot_end_the_listener_either() -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError("not contained")

    async with serving(broken) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(get("/"))
        assert await reader.ended()
        await stream.aclose()
        assert [where for where, _, _ in rig.log.faults] == ["connection"]
        stream, reader = await rig.connect()  # it still accepts
        await stream.aclose()


async def test_a_header_that_would_start_another_header_is_a_fault_and_not_sent() -> None:
    async with serving(http_app.build()) as rig:
        answer = await rig.ask(get("/split"))
        assert answer.status == 500
        assert "set-cookie" not in answer.headers
        assert [where for where, _, _ in rig.log.faults] == ["response"]


async def test_a_large_answer_arrives_whole() -> None:
    async with serving(http_app.build()) as rig:
        answer = await rig.ask(get("/big?size=3000000"))
    assert answer.body == b"x" * 3_000_000


async def test_a_stream_that_breaks_is_cut_so_that_nobody_takes_it_for_whole() -> None:
    async with serving(http_app.build()) as rig:
        stream, reader = await rig.connect()
        await stream.send_all(get("/tear"))
        with pytest.raises(EOFError):
            await reader.answer()
        await stream.aclose()
        assert [where for where, _, _ in rig.log.faults] == ["connection"]
        assert (await rig.ask(get("/livez"))).status == 200


async def test_a_connection_ends_after_its_last_request_and_says_so_before() -> None:
    async with serving(http_app.build(), limits=Limits(requests=3)) as rig:
        stream, reader = await rig.connect()
        for closing in (None, None, "close"):
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).headers.get("connection") == closing
        assert await reader.ended()
        await stream.aclose()


async def test_connections_beyond_the_cap_are_answered_503_and_others_are_served_on() -> None:
    async with serving(http_app.build(), limits=Limits(connections=4)) as rig:
        held = [await rig.connect() for _ in range(4)]
        for stream, reader in held:
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).status == 200
        for _ in range(3):
            stream, reader = await rig.connect()
            await stream.send_all(get("/livez"))
            answer = await reader.answer()
            assert (answer.status, answer.code) == (503, "TOO_MANY_CONNECTIONS")
            assert answer.headers["retry-after"] == "1"
            assert await reader.ended()
            await stream.aclose()
        for stream, reader in held:
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).status == 200
        assert [event for event, _ in rig.log.notes] == ["connections_exhausted"]
        await held[0][0].aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await rig.ask(get("/livez"))).status == 200
        for stream, _ in held:
            await stream.aclose()


async def test_one_address_that_holds_every_connection_gives_one_up_for_another() -> None:
    """Whatever it does with them: nothing, half a head, or a request now and then."""
    addresses = ["192.0.2.1"]

    def caller(_sock: socket.socket) -> Caller:
        return WRITER._replace(transport="tcp", ip=addresses[-1])

    async with serving(http_app.build(), limits=Limits(connections=6), caller=caller) as rig:
        held = [await rig.connect() for _ in range(6)]
        for stream, reader in held[:2]:
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).status == 200
        for stream, _ in held[2:4]:
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: a")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await rig.ask(get("/livez"))).status == 503, "nobody gives way to itself"
        guests = []
        for n in (2, 3):
            addresses.append(f"192.0.2.{n}")
            stream, reader = await rig.connect()
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).status == 200
            guests.append((stream, reader))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert rig.server.connections == 6
        for stream, reader in guests:  # and they keep theirs
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).status == 200
        addresses.append("192.0.2.1")
        assert (await rig.ask(get("/livez"))).status == 503
        for stream, _ in (*held, *guests):
            await stream.aclose()


async def test_readers_that_hold_every_connection_do_not_keep_the_operator_out() -> None:
    callers = [WRITER]
    app = http_app.build()
    async with serving(app, limits=Limits(connections=3), caller=lambda sock: callers[-1]) as rig:
        callers.append(READER)
        held = [await rig.connect() for _ in range(3)]
        for stream, reader in held:
            await stream.send_all(get("/livez"))
            assert (await reader.answer()).status == 200
        assert (await rig.ask(get("/livez"))).status == 503
        callers.append(WRITER)
        assert (await rig.ask(get("/livez"))).status == 200
        for stream, _ in held:
            await stream.aclose()


async def test_five_hundred_idle_clients_take_no_more_than_the_cap() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with serving(http_app.build(), limits=Limits(connections=16)) as rig:
        clients = []
        for _ in range(500):
            client = socket.socket(socket.AF_UNIX)
            client.connect(rig.path)
            clients.append(client)
            await trio.testing.wait_all_tasks_blocked()
            assert rig.server.connections <= 16
            assert len(os.listdir("/proc/self/fd")) - before < len(clients) + 16 + 16 + 20
        for client in clients:
            client.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await rig.ask(get("/livez"))).status == 200
    assert len(os.listdir("/proc/self/fd")) <= before + 2


async def test_who_may_not_write_may_read() -> None:
    async with serving(http_app.build(), caller=lambda sock: READER) as rig:
        assert (await rig.ask(get("/echo/1"))).status == 200
        answer = await rig.ask(post("/order", ORDER))
        assert (answer.status, answer.code) == (403, "NOT_AUTHORIZED")
        assert "usermod -aG ambient-admin" in answer.json["error"]["message"]


async def test_a_caller_that_cannot_be_told_is_not_served() -> None:
    def unknown(sock: socket.socket) -> None:
        raise OSError(107, "not connected")

    async with serving(http_app.build(), caller=unknown) as rig:  # type: ignore[arg-type]
        stream, reader = await rig.connect()
        assert await reader.ended()
        await stream.aclose()


async def test_draining_ends_idle_connections_and_lets_the_others_finish(
    autojump_clock: trio.testing.MockClock,
) -> None:
    started, go_on = trio.Event(), trio.Event()

    async def app(request: Request) -> Response:
        started.set()
        await go_on.wait()
        return Response(200, b"done", "text/plain")

    async with serving(app) as rig:
        idle, idle_reader = await rig.connect()
        busy, busy_reader = await rig.connect()
        await busy.send_all(get("/"))
        await started.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.server.drain, 10)
            assert await idle_reader.ended()
            go_on.set()
            answer = await busy_reader.answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        assert rig.server.connections == 0
        await idle.aclose()
        await busy.aclose()


async def test_any_trio_stream_will_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = HttpServer(http_app.build(), clock=TrioWallClock(), log=ListHttpLog())
    client, ours = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, ours, WRITER)
        reader = Reader(client)
        await client.send_all(get("/echo/1") + post("/order", ORDER) + get("/count/2"))
        assert (await reader.answer()).json == {"text": "1"}
        assert (await reader.answer()).json == {"text": "2 for a"}
        assert (await reader.answer()).body == b"0\n1\n"
        await client.aclose()
    assert server.connections == 0
