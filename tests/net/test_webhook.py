"""A webhook against a real server on loopback, which may behave as badly as it likes."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from ambientd.core.webhook import sign
from ambientd.net.webhook import WebhookNotifier
from ambientd.ports.errors import UnavailableError
from ambientd.ports.notifier import Undelivered
from tests.fakes.clock import TrioWallClock
from tests.host.test_notifiers import notification

pytest.importorskip("httpcore2", reason="the extra `webhook` is not installed")

GOOD = b"HTTP/1.1 204 No Content\r\n\r\n"


class Server:
    """Answers each request with the same bytes, then closes; keeps what came."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.port = 0
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.silent = False
        self.endless = False
        self.greets = False

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            if self.greets:
                await stream.send_all(self.answer)
                return
            raw = b""
            while b"\r\n\r\n" not in raw:
                raw += await stream.receive_some(65536) or b"\r\n\r\n"
            head, _, body = raw.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            while len(body) < int(headers.get("content-length", "0")):
                body += await stream.receive_some(65536)
            self.seen.append((first, headers, body))
            if self.silent:
                await trio.sleep_forever()
            try:
                await stream.send_all(self.answer)
                while self.endless:
                    await stream.send_all(b"x" * 65536)
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def serving(answer: bytes = GOOD) -> AsyncIterator[Server]:
    server = Server(answer)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


def webhook(
    port: int, *, key: Callable[[], bytes | None] = lambda: b"key", path: str = "/in"
) -> WebhookNotifier:
    return WebhookNotifier(
        url=f"http://127.0.0.1:{port}{path}",
        key=key,
        clock=TrioWallClock(),
        timeout=10.0,
        attempts=3,
        agent="ambientd/0.1.0",
    )


async def send(hook: WebhookNotifier) -> Undelivered | None:
    with trio.fail_after(20):
        return await hook.send(notification())


async def test_a_notification_is_one_signed_post() -> None:
    async with serving() as server:
        assert await send(webhook(server.port, path="/in?room=1")) is None
    ((first, headers, body),) = server.seen
    assert first == "POST /in?room=1 HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "ambientd/0.1.0"
    assert headers["x-ambient-notification"] == "n-1"
    assert headers["x-ambient-signature"] == sign(b"key", headers["x-ambient-timestamp"], body)
    assert b'"ruleId":"r-1"' in body
    assert headers["x-ambient-timestamp"] == "1795176000"  # the clock it was given, not the machine's


async def test_without_a_key_there_is_no_signature() -> None:
    async with serving() as server:
        assert await send(webhook(server.port, key=lambda: None)) is None
    assert "x-ambient-signature" not in server.seen[0][1]


async def test_a_key_that_cannot_be_read_sends_nothing() -> None:
    def broken() -> bytes:
        raise UnavailableError("/etc/key has mode 0644")

    async with serving() as server:
        failure = await send(webhook(server.port, key=broken))
        assert failure == Undelivered("the key cannot be used: /etc/key has mode 0644", again=False)
        assert server.seen == []


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", Undelivered("answered 500")),
        (b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", Undelivered("answered 404", again=False)),
        (b"", Undelivered("the answer is no HTTP")),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Undelivered("the answer is no HTTP")),
    ],
)
async def test_other_answers_are_failures(answer: bytes, failure: Undelivered) -> None:
    async with serving(answer) as server:
        assert await send(webhook(server.port)) == failure


async def test_a_redirect_is_not_followed() -> None:
    async with serving() as target:
        moved = f"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:{target.port}/\r\nContent-Length: 0\r\n\r\n"
        async with serving(moved.encode()) as server:
            failure = await send(webhook(server.port))
            assert failure == Undelivered("answered 302; redirects are not followed", again=False)
        assert target.seen == []


async def test_an_endless_answer_is_read_no_further_than_its_bound() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\n\r\n") as server:
        server.endless = True
        assert await send(webhook(server.port)) is None


async def test_a_server_that_never_answers_can_be_left() -> None:
    async with serving() as server:
        server.silent = True
        with trio.move_on_after(0.5) as scope:
            await webhook(server.port).send(notification())
        assert scope.cancelled_caught


async def test_nobody_there_is_a_failure_that_names_no_address() -> None:
    async with serving() as server:
        port = server.port
    failure = await send(webhook(port, path="/token-1"))
    assert failure == Undelivered("no connection")


async def test_a_server_that_speaks_no_tls_gets_nothing() -> None:
    async with serving(b"HTTP/1.1 400 plain text here\r\n\r\n") as server:
        server.greets = True
        hook = WebhookNotifier(
            url=f"https://127.0.0.1:{server.port}/",
            key=lambda: None,
            clock=TrioWallClock(),
            timeout=10.0,
            attempts=1,
            agent="a",
        )
        failure = await send(hook)
        assert failure == Undelivered(
            "no TLS connection: another protocol, or a certificate that is not trusted"
        )
        assert server.seen == []


def test_the_library_is_loaded_only_when_something_is_sent() -> None:
    code = "import sys, ambientd.net.webhook; sys.exit(any(m.startswith('httpcore2') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
