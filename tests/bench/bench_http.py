"""Requests per second on a Unix socket: our server and router against a bare h11-on-trio responder.

    python tests/bench/bench_http.py [--short]

Both answer `/livez` with as many bytes, each in a child process; one load generator drives them in turn
(raw keep-alive, 16 connections, one request in flight on each). The rounds are interleaved, so that a
noisy neighbour hits both; the figure is the ratio of the medians. Target: 0.8 (DESIGN 5).
"""

import argparse
import os
import select
import signal
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

CONNECTIONS = 16
REQUEST = b"\r\n".join(
    (b"GET /livez HTTP/1.1", b"Host: localhost", b"User-Agent: ambientctl/0.1", b"Accept: */*", b"", b"")
)
TARGET = 0.8


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class _Silent:
    def refused(self, *, request_id: str, status: int, code: str, method: str, path: str) -> None:
        raise SystemExit(f"refused: {code}")

    def fault(self, where: str, error: BaseException, *, request_id: str) -> None:
        raise SystemExit(f"fault in {where}: {error!r}")

    def note(self, event: str, **facts: object) -> None:
        raise SystemExit(f"{event}: {facts}")


def serve_ours(path: str) -> None:
    """Our listener, router and health route, as the node puts them together."""
    from functools import partial

    import trio

    from ambientd.api.health import health_routes
    from ambientd.api.router import build_application
    from ambientd.net.http_server import HttpServer
    from ambientd.net.unix_socket import caller_of, open_unix_listener

    app = build_application(
        health_routes(lambda: ()), readiness=lambda: None, log=_Silent(), admin_group="ambient-admin"
    )
    server = HttpServer(app, clock=_Clock(), log=_Silent())
    listener = open_unix_listener(path)
    trio.run(server.serve, listener.sock, partial(caller_of, admin_gid=None, daemon_uid=os.getuid()))


def serve_bare(path: str, size: int) -> None:
    """The least that h11 and trio need for a keep-alive answer of `size` bytes."""
    import trio

    from tests.bench.bare import bare_answer

    body = b'{"ok":true}'
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    fixed = (
        sum(len(name) + len(value) + 4 for name, value in headers)
        + len("HTTP/1.1 200 OK\r\n\r\n")
        + len(body)
    )
    headers.append(("X-Pad", "x" * max(1, size - fixed - len("X-Pad: \r\n"))))

    answer = bare_answer(headers, body)

    async def main() -> None:
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await sock.bind(path)
        sock.listen(64)
        await trio.serve_listeners(answer, [trio.SocketListener(sock)])

    trio.run(main)


def _child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
        os._exit(1)
    return pid


def _connect(path: str) -> socket.socket:
    for _ in range(500):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            time.sleep(0.01)
        else:
            return sock
    raise SystemExit(f"nobody listens at {path}")


def response_size(path: str) -> int:
    """Bytes of one answer."""
    with _connect(path) as sock:
        sock.sendall(REQUEST)
        time.sleep(0.2)
        answer = sock.recv(65536)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"unexpected answer: {answer[:100]!r}")
    return len(answer)


def load(path: str, size: int, seconds: float) -> float:
    """Requests per second over `CONNECTIONS` connections."""
    socks = {sock.fileno(): sock for sock in (_connect(path) for _ in range(CONNECTIONS))}
    missing = dict.fromkeys(socks, size)
    poller = select.epoll()
    for fd, sock in socks.items():
        poller.register(fd, select.EPOLLIN)
        sock.sendall(REQUEST)
    done, start = 0, time.perf_counter()
    end = start + seconds
    while (now := time.perf_counter()) < end:
        for fd, _ in poller.poll(1.0):
            missing[fd] -= len(socks[fd].recv(size))
            if missing[fd] <= 0:
                missing[fd] = size
                done += 1
                socks[fd].sendall(REQUEST)
    poller.close()
    for sock in socks.values():
        sock.close()
    return done / (now - start)


def main() -> int:
    """Prints both rates and the ratio; exit 1 below the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="3 rounds of 0.5 s instead of 9 of 1 s")
    short = parser.parse_args().short
    rounds, seconds = (3, 0.5) if short else (9, 1.0)
    folder = tempfile.mkdtemp(dir="/tmp")
    ours_at, bare_at = folder + "/ours", folder + "/bare"
    children = [_child(lambda: serve_ours(ours_at))]
    try:
        size = response_size(ours_at)
        children.append(_child(lambda: serve_bare(bare_at, size)))
        if response_size(bare_at) != size:
            raise SystemExit(f"the bare answer has {response_size(bare_at)} bytes, ours {size}")
        ours, bare = [], []
        for _ in range(rounds):
            ours.append(load(ours_at, size, seconds))
            bare.append(load(bare_at, size, seconds))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for path in (ours_at, bare_at):
            Path(path).unlink(missing_ok=True)
        os.rmdir(folder)
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"answers of {size} bytes, {CONNECTIONS} connections, {rounds} rounds of {seconds} s")
    print(f"bare h11 on trio  {statistics.median(bare):8.0f} requests/s")
    print(f"ours              {statistics.median(ours):8.0f} requests/s")
    print(f"ratio             {ratio:8.2f}  (target {TARGET})")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
