"""Probes against real servers on loopback, which may behave as badly as they like."""

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ambientd.config.upstream import ControlAddress, Place, parse_control_url
from ambientd.core.connectivity import Answer
from ambientd.net.probes import STAGGER_SEC, UpstreamProbes

GOOD = b'{"status":"healthy","version":"1.0.0"}'
SECONDS = 2.0


def answer(
    body: bytes = GOOD, *, status: str = "200 OK", kind: str = "application/json", more: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Server:
    """Sends the same bytes to whoever has asked; keeps the questions."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.port = 0
        self.asked: list[bytes] = []
        self.ended = 0
        self.silent = self.endless = self.dripping = False

    async def serve(self, stream: trio.abc.Stream) -> None:
        try:
            async with stream:
                self.asked.append(bytes(await stream.receive_some(65536)))
                if self.silent:
                    await stream.receive_some(1)
                    return
                await stream.send_all(self.reply)
                while self.endless or self.dripping:
                    await stream.send_all(b"x" * (65536 if self.endless else 1))
                    await trio.sleep(0 if self.endless else 0.05)
        except (trio.BrokenResourceError, ssl.SSLError):
            pass
        finally:
            self.ended += 1


@asynccontextmanager
async def serving(reply: bytes = b"", *, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(reply or answer())
    async with trio.open_nursery() as nursery:
        if context is None:
            (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
            server.port = listener.socket.getsockname()[1]
        else:
            serve = partial(trio.serve_ssl_over_tcp, server.serve, 0, context, host="127.0.0.1")
            (secured,) = await nursery.start(serve)
            server.port = secured.transport_listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


def address(port: int, *, scheme: str = "http", host: str = "127.0.0.1", path: str = "") -> ControlAddress:
    found = parse_control_url(f"{scheme}://{host}:{port}{path}")
    assert isinstance(found, ControlAddress)
    return found


async def ask(port: int, *, ca_file: str | None = None, seconds: float = SECONDS, **place: Any) -> Answer:
    probes = UpstreamProbes(agent="ambientd/1.0")
    with trio.fail_after(seconds + 3):
        return await probes.ask_control(address(port, **place), ca_file=ca_file, seconds=seconds)


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_a_healthy_control_plane_is_reached_and_learns_nothing() -> None:
    async with serving() as server:
        found = await ask(server.port, path="/fleet/")
        assert found.ok
        assert found.latency_ms is not None
        (request,) = server.asked
        lines = request.decode().split("\r\n")
        assert lines[0] == "GET /fleet/api/v1/health HTTP/1.1"
        names = {line.partition(":")[0] for line in lines[1:] if line}
        assert names == {"Host", "User-Agent", "Accept", "Connection"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(b"<html>log in", kind="text/html"), "captive portal?"),
        (answer(b"", status="302 Found", more="Location: http://portal/\r\n"), "redirects"),
        (answer(b"", status="301 Moved", more="Location: https://127.0.0.1/api/v1/health\r\n"), "redirects"),
        (answer(b"", status="511 Network Authentication Required"), "log-in"),
        (answer(b"{}", status="503 Service Unavailable"), "HTTP 503"),
        (answer(b'{"status":"starting"}', status="503 Service Unavailable"), "it is starting"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"[]"), "not as a control plane"),
    ],
)
async def test_what_answers_otherwise_is_none(reply: bytes, reason: str) -> None:
    async with serving(reply) as server:
        found = await ask(server.port)
        assert not found.ok
        assert reason in found.reason
        assert len(server.asked) == 1, "no redirect is followed"


async def test_a_body_without_a_length_or_in_chunks_is_read() -> None:
    async with serving(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + GOOD) as server:
        assert (await ask(server.port)).ok
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)) as server:
        assert (await ask(server.port)).ok


async def test_an_endless_body_is_read_no_further_than_its_bound() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n") as server:
        server.endless = True
        found = await ask(server.port)
        assert "not as a control plane" in found.reason


async def test_silence_and_dripping_cost_the_time_and_leave_nothing_open() -> None:
    for how in ("silent", "dripping"):
        async with serving(b"HTTP/1.1 200 OK\r\nX: ") as server:
            setattr(server, how, True)
            found = await ask(server.port, seconds=0.3)
            assert found == Answer(False, "no answer in time")
            with trio.fail_after(2):
                while not server.ended:
                    await trio.sleep(0.01)


async def test_a_closed_port_a_name_that_is_none_and_a_dead_resolver_say_so() -> None:
    assert (await ask(unused_port())).reason == "connection refused"
    assert (await ask(80, host="nowhere.invalid", seconds=5)).reason in (
        "the name cannot be resolved",
        "name lookup timeout",
    )

    async def hangs(host: str, port: int) -> Sequence[Any]:
        await trio.sleep_forever()
        raise AssertionError

    probes = UpstreamProbes(agent="x", resolve=hangs)
    found = await probes.ask_control(address(80, host="cp.example.net"), ca_file=None, seconds=0.1)
    assert found.reason == "name lookup timeout"
    found = await probes.reach(Place(host="t.example.net", port=1), seconds=0.1)
    assert found == Answer(False, "name lookup timeout")


async def test_lookups_that_hang_hold_a_few_threads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release, running = threading.Event(), []
    real = socket.getaddrinfo

    def slow(host: str, port: int, **facts: Any) -> Any:
        if facts.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, port, **facts)
        running.append(host)
        release.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    probes = UpstreamProbes(agent="x")
    try:
        for _ in range(8):
            found = await probes.reach(Place(host="t.example.net", port=1), seconds=0.05)
            assert found.reason == "name lookup timeout"
        assert 1 <= len(running) <= 4
    finally:
        release.set()


async def test_a_target_is_reached_when_it_takes_a_connection() -> None:
    probes = UpstreamProbes(agent="x")
    async with serving() as server:
        assert (await probes.reach(Place(host="127.0.0.1", port=server.port), seconds=SECONDS)).ok
    found = await probes.reach(Place(host="127.0.0.1", port=unused_port()), seconds=SECONDS)
    assert found == Answer(False, "connection refused")


async def test_of_several_addresses_the_one_that_answers_wins_without_waiting_for_a_dead_one() -> None:
    """The first is a black hole (TEST-NET-1, or a machine without that family), the last one works."""
    async with serving() as server:

        async def resolve(host: str, port: int) -> Sequence[Any]:
            kind = (socket.SOCK_STREAM, 0, "")
            return [
                (socket.AF_INET6, *kind, ("100::1", port, 0, 0)),
                (socket.AF_INET, *kind, ("192.0.2.1", port)),
                (socket.AF_INET, *kind, ("127.0.0.1", port)),
            ]

        probes = UpstreamProbes(agent="x", resolve=resolve)
        began = trio.current_time()
        assert (await probes.reach(Place(host="many", port=server.port), seconds=5)).ok
        assert trio.current_time() - began < 2 * STAGGER_SEC + 1


async def test_without_any_address_the_first_reason_is_told() -> None:
    async def none(host: str, port: int) -> Sequence[Any]:
        return []

    found = await UpstreamProbes(agent="x", resolve=none).reach(Place(host="x", port=1), seconds=1)
    assert found == Answer(False, "the name has no address")


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", "/CN=cp"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


def server_side(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_over_tls_only_a_trusted_certificate_counts(certificate: Path) -> None:
    async with serving(context=server_side(certificate)) as server:
        found = await ask(server.port, scheme="https")
        assert "certificate is not trusted" in found.reason
        assert (await ask(server.port, scheme="https", ca_file=str(certificate))).ok
        wrong = await ask(server.port, scheme="https", host="localhost", ca_file=str(certificate))
        assert "certificate is not trusted" in wrong.reason
        missing = await ask(server.port, scheme="https", ca_file="/nonexistent/ca.pem")
        assert "ca_file cannot be used" in missing.reason
        plain = await ask(server.port)
        assert not plain.ok
    async with serving() as server:
        found = await ask(server.port, scheme="https", ca_file=str(certificate))
        assert "no TLS connection" in found.reason


async def test_a_replaced_file_of_authorities_is_read_anew(certificate: Path, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("not a certificate\n")
    probes = UpstreamProbes(agent="x")
    async with serving(context=server_side(certificate)) as server:
        place = address(server.port, scheme="https")
        bad = await probes.ask_control(place, ca_file=str(ca_file), seconds=SECONDS)
        assert "ca_file cannot be used" in bad.reason
        ca_file.write_bytes(certificate.read_bytes())
        assert (await probes.ask_control(place, ca_file=str(ca_file), seconds=SECONDS)).ok
        assert (await probes.ask_control(place, ca_file=str(ca_file), seconds=SECONDS)).ok


async def test_a_silent_server_behind_tls_costs_no_more_than_the_time(certificate: Path) -> None:
    async with serving() as server:
        server.silent = True
        found = await ask(server.port, scheme="https", ca_file=str(certificate), seconds=0.3)
        assert found == Answer(False, "TLS handshake timeout")
