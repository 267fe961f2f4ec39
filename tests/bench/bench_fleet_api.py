"""Reports that one control-plane process takes over HTTP, durable, each request signed by its node.

    python tests/bench/bench_fleet_api.py [--short] [--engine sqlite|postgresql] [--connections N]
    python tests/bench/bench_fleet_api.py --fleet N | --idle

A real `ambientd control-plane` on loopback; one load generator in a process of its own drives it and, in
turn, a bare h11-on-trio responder that reads the same requests and answers as many bytes. *single*: one
`PUT …/heartbeat` in flight on each of many keep-alive connections, each of another node. *batches*:
`POST …/reports` with 100 reports that waited. Beside them the same rows written by plain clients in the same
run: apsw with a commit for each report and for 256, `pgbench` with 16 clients, psycopg with 256 to a commit.

The server's processor time is that of the whole process, by the kernel's clock of it; what one core of it
takes is told beside what was measured, for the generator and whoever else is there share the machine's cores.

`--fleet`: so many nodes that report every 60 s, evenly spread, for half a minute: CPU, waiting, nodes a core.
`--idle`: a minute in which nobody asks anything (budget: 0.1 % of a core).

Budgets (DESIGN 5): ≥ 4,000 single reports a second, ≥ 20,000 in batches, ≥ 0.5 of bare h11 on trio.
"""

import argparse
import json
import os
import secrets
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.ed25519 import public_of, sign
from ambientd.core.fleet.records import DeviceCredential
from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.signing import request_bytes
from ambientd.core.fleet.tokens import TokenHashes, TokenKind, build_token
from ambientd.host.clock import SystemClock
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.store.fleet.postgresql import PostgresqlFleetStore
from ambientd.store.fleet.sqlite import SqliteFleetStore
from tests.bench.bench_fleet_store import (
    GROUP,
    node_id,
    pgbench,
    plain_psycopg,
    plain_sqlite,
    register,
)
from tests.pgkit import NoServerError, started

PER_BATCH = 100
INTERVAL = 60  # seconds between two reports of a node
NODES = 2_000  # that the plain clients write to as well
ANSWER_MAX = 65_536
SETTLE = 15.0  # seconds after the start of a server that is looked at while it rests
IDLE_MAX = 0.1  # per cent of a core
TARGETS = {"single": 4_000, "batches": 20_000, "bare": 0.5}


class Node(NamedTuple):
    """A joined node, as the generator knows it."""

    node_id: str
    seed: bytes
    token: str


def join(count: int, hashes: TokenHashes) -> tuple[list[Node], Callable[[FleetTransaction], None]]:
    """Nodes with credentials, and what writes them."""
    nodes = [
        Node(node_id(n), n.to_bytes(32), build_token(TokenKind.DEVICE, secrets.token_bytes(32)))
        for n in range(count)
    ]

    def work(tx: FleetTransaction) -> None:
        for number, node in enumerate(nodes):
            tx.devices.add(
                DeviceCredential(
                    credential_id=f"c-{number}",
                    node_id=node.node_id,
                    token_hash=hashes.of(TokenKind.DEVICE, node.token),
                    public_key=public_of(node.seed),
                    created_at=SystemClock().now(),
                )
            )

    return nodes, work


async def prepare(
    store: SqliteFleetStore | PostgresqlFleetStore, count: int, hashes: TokenHashes
) -> list[Node]:
    nodes, work = join(count, hashes)
    port: FleetStore = store
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        for first in range(0, max(NODES, count), 500):
            await port.write(register(first, 500))
        await port.write(work)
        await store.close()
        nursery.cancel_scope.cancel()
    return nodes


def body_of(first: int, count: int) -> bytes:
    """One report, or a batch of them."""
    reports = [
        {
            "seq": first + n,
            "health_score": 90.0,
            "cpu_usage": 12.5,
            "memory_usage": 50.0,
            "disk_usage": 10.0,
            "network_latency_ms": 12,
            "state": "OnlineControlPlane",
            "delta_v": 1.25,
            "audit_head_seq": first + n,
            "audit_head_hash": "ab" * 32,
        }
        for n in range(count)
    ]
    return json.dumps(reports[0] if count == 1 else {"reports": reports}).encode()


def signed(node: Node, sequence: int, method: str, target: str, body: bytes) -> bytes:
    """A request of a node, as bytes on the wire."""
    message = request_bytes(node_id=node.node_id, sequence=sequence, method=method, target=target, body=body)
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: control\r\nAuthorization: Bearer {node.token}\r\n"
        f"X-Ambient-Sequence: {sequence}\r\nX-Ambient-Signature: {sign(node.seed, message).hex()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Requests:
    """Signed requests of one node, made ahead of the measurement."""

    def __init__(self, node: Node, per_request: int) -> None:
        self._node = node
        self._per = per_request
        self._sequence = 0
        self._seq = 1

    def make(self) -> bytes:
        node, per = self._node, self._per
        method, rest = ("PUT", "heartbeat") if per == 1 else ("POST", "reports")
        target = f"/api/v1/nodes/{node.node_id}/{rest}"
        self._sequence = max(self._sequence + 1, time.time_ns())
        body = body_of(self._seq, per)
        self._seq += per
        return signed(node, self._sequence, method, target, body)


class Measured(NamedTuple):
    """Requests a second, how long one took in milliseconds, and what one took of the server's CPU in µs."""

    rate: float
    p50: float
    p99: float
    cpu: float


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process and its threads: the kernel's clock of another process."""
    return time.clock_gettime(~pid << 3 | 2)


class Server(NamedTuple):
    """Where to ask, and whom to charge."""

    port: int
    pid: int


def load(server: Server, stacks: list[list[bytes]], seconds: float) -> Measured:
    """One request in flight on each connection."""
    socks: dict[int, socket.socket] = {}
    stack_of: dict[int, list[bytes]] = {}
    poller = select.epoll()
    for stack in stacks:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks[sock.fileno()], stack_of[sock.fileno()] = sock, stack
        poller.register(sock.fileno(), select.EPOLLIN)
    began = {fd: time.perf_counter() for fd in socks}
    waits: list[float] = []
    for fd, sock in socks.items():
        sock.sendall(stack_of[fd].pop())
    start, spent = time.perf_counter(), cpu_of(server.pid)
    end = start + seconds
    busy = len(socks)
    while busy and (now := time.perf_counter()) < end:
        for fd, _ in poller.poll(1.0):
            answer = socks[fd].recv(ANSWER_MAX)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"unexpected answer: {answer[:600]!r}")
            waits.append(now - began[fd])
            if not stack_of[fd]:
                busy -= 1
                continue
            began[fd] = time.perf_counter()
            socks[fd].sendall(stack_of[fd].pop())
    took, spent = time.perf_counter() - start, cpu_of(server.pid) - spent
    for sock in socks.values():
        sock.close()
    waits.sort()
    if not waits:
        raise SystemExit("no answer came")
    return Measured(
        rate=len(waits) / took,
        p50=waits[len(waits) // 2] * 1000,
        p99=waits[int(len(waits) * 0.99)] * 1000,
        cpu=spent / len(waits) * 1e6,
    )


def stacks_of(nodes: list[Node], per_request: int, each: int) -> list[list[bytes]]:
    """For each connection what it sends, last first."""
    found = []
    for node in nodes:
        requests = Requests(node, per_request)
        found.append([requests.make() for _ in range(each)][::-1])
    return found


def answer_size(port: int, request: bytes) -> int:
    """Bytes of one answer."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request)
        time.sleep(0.3)
        answer = sock.recv(ANSWER_MAX)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"unexpected answer: {answer[:600]!r}")
    return len(answer)


@contextmanager
def bare(size: int) -> Iterator[Server]:
    """The least that h11 and trio need for the same requests and as long answers."""
    from tests.bench.bare import bare_answer

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    pid = os.fork()
    if pid == 0:

        async def serve() -> None:
            sock = trio.socket.from_stdlib_socket(listener)
            body = b"x" * max(1, size - 60)
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            await trio.serve_listeners(bare_answer(headers, body), [trio.SocketListener(sock)])

        trio.run(serve)
        os._exit(0)
    try:
        yield Server(int(listener.getsockname()[1]), pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        listener.close()


@contextmanager
def control_plane(folder: Path, secret_of: dict[SecretName, str], database: str | None) -> Iterator[Server]:
    """A real process."""
    limits = {
        f"AMBIENT__SERVER__{tier}_{word}": "100000000"
        for tier in ("DEVICE", "GENERAL")
        for word in ("RPM", "BURST")
    }
    config = folder / "ambient.toml"
    config.write_text("# of a benchmark\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        sys.executable, "-m", "ambientd", "control-plane", "--config", str(config),
        "--state-dir", str(folder), "--listen", f"127.0.0.1:{port}", "--log-level", "warning",
    ]  # fmt: skip
    if database is not None:
        command += ["--database", database]
    environ = {**os.environ, **{name.value: value for name, value in secret_of.items()}, **limits}
    process = subprocess.Popen(command, env=environ)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if sock.recv(64).startswith(b"HTTP/1.1 200"):
                        break
            except OSError:
                pass
            time.sleep(0.05)
        else:
            raise SystemExit("the control plane is not ready")
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(20)


def measure(server: Server, nodes: list[Node], *, rounds: int, seconds: float) -> dict[str, float]:
    """Medians over rounds that alternate between ours and the bare server."""
    size = answer_size(server.port, Requests(nodes[0], 1).make())
    single: list[Measured] = []
    batches: list[Measured] = []
    plain: list[Measured] = []
    with bare(size) as other:
        for _ in range(rounds):
            each = int(9_000 * seconds / len(nodes)) + 2
            plain.append(load(other, stacks_of(nodes, 1, each), seconds))
            single.append(load(server, stacks_of(nodes, 1, each), seconds))
            few = nodes[: min(32, len(nodes))]
            batches.append(
                load(server, stacks_of(few, PER_BATCH, int(900 * seconds / len(few)) + 2), seconds)
            )
    found = {
        "single": statistics.median(one.rate for one in single),
        "single_p50": statistics.median(one.p50 for one in single),
        "single_p99": statistics.median(one.p99 for one in single),
        "batches": statistics.median(one.rate for one in batches) * PER_BATCH,
        "batch_p99": statistics.median(one.p99 for one in batches),
        "bare": statistics.median(one.rate for one in plain),
    }
    found["ratio"] = found["single"] / found["bare"]
    for name, rounds_of in (("cpu", single), ("batch_cpu", batches), ("bare_cpu", plain)):
        found[name] = statistics.median(one.cpu for one in rounds_of)
    return found


def paced(server: Server, nodes: list[Node], seconds: float) -> tuple[float, Measured]:
    """Reports of a fleet at its pace: the share of a core, and how long they took from when they were due."""
    rate = len(nodes) / INTERVAL
    requests = [Requests(node, 1).make() for node in nodes[: int(rate * seconds)]]
    free = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(64)]
    by_fd = {sock.fileno(): sock for sock in free}
    due_of: dict[int, float] = {}
    poller = select.epoll()
    for fd, sock in by_fd.items():
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poller.register(fd, select.EPOLLIN)
    waits: list[float] = []
    start, spent, sent = time.perf_counter(), cpu_of(server.pid), 0
    while len(waits) < len(requests):
        due = start + sent / rate
        if sent < len(requests) and free and time.perf_counter() >= due:
            sock = free.pop(0)  # in turn: a connection that says nothing is closed
            due_of[sock.fileno()] = due
            sock.sendall(requests[sent])
            sent += 1
        pause = max(0.0, due - time.perf_counter()) if sent < len(requests) and free else 1.0
        for fd, _ in poller.poll(pause):
            answer = by_fd[fd].recv(ANSWER_MAX)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"unexpected answer: {answer[:600]!r}")
            waits.append(time.perf_counter() - due_of[fd])
            free.append(by_fd[fd])
    took, spent = time.perf_counter() - start, cpu_of(server.pid) - spent
    for sock in by_fd.values():
        sock.close()
    waits.sort()
    return spent / took, Measured(
        rate=len(waits) / took,
        p50=waits[len(waits) // 2] * 1000,
        p99=waits[int(len(waits) * 0.99)] * 1000,
        cpu=spent / len(waits) * 1e6,
    )


def _seen_now(path: Path) -> None:
    """As if all of them had reported a moment ago: a node that comes back costs more."""
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE nodes SET last_seen = ?", (int(time.time() * 1000),))
    connection.close()


def fleet(count: int, seconds: float) -> None:
    """A simulated fleet on SQLite."""
    secret_of = {name: secrets.token_hex(32) for name in SecretName}
    hashes = TokenHashes({name: value.encode() for name, value in secret_of.items()})
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteFleetStore(Path(folder) / "fleet.db", clock=SystemClock())
        nodes = trio.run(prepare, store, count, hashes)
        _seen_now(Path(folder) / "fleet.db")
        with control_plane(Path(folder), secret_of, None) as server:
            share, found = paced(server, nodes, seconds)
            memory = Path(f"/proc/{server.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
    print(
        f"{count} nodes every {INTERVAL} s: {found.rate:.0f} reports/s, {share * 100:.1f} % of a core,"
        f" p50 {found.p50:.1f} ms, p99 {found.p99:.1f} ms, {int(memory) / 1024:.0f} MiB;"
        f" {count / share:.0f} nodes a core"
    )


def idle(seconds: float) -> None:
    """A server that is left alone, once what its start needed is given back."""
    secret_of = {name: secrets.token_hex(32) for name in SecretName}
    with tempfile.TemporaryDirectory() as folder, control_plane(Path(folder), secret_of, None) as server:
        time.sleep(SETTLE)
        before = cpu_of(server.pid)
        time.sleep(seconds)
        share = (cpu_of(server.pid) - before) / seconds * 100
        memory = Path(f"/proc/{server.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
    verdict = "PASS" if share <= IDLE_MAX else "MISS"
    print(f"idle for {seconds:g} s: {share:.3f} % of a core (budget {IDLE_MAX}: {verdict}), ", end="")
    print(f"{int(memory) / 1024:.1f} MiB resident")


def show(engine: str, found: dict[str, float], alone: float, grouped: float) -> bool:
    good = (
        found["single"] >= TARGETS["single"]
        and found["batches"] >= TARGETS["batches"]
        and found["ratio"] >= TARGETS["bare"]
    )
    print(f"{engine}")
    print(
        f"  single reports   {found['single']:8.0f}/s   p50 {found['single_p50']:6.1f} ms"
        f"   p99 {found['single_p99']:6.1f} ms   (target 4,000)"
    )
    print(f"  bare h11 on trio {found['bare']:8.0f}/s   ratio {found['ratio']:.2f}   (target 0.5)")
    print(
        f"  CPU of a request {found['cpu']:8.0f} µs of ours ({1e6 / found['cpu']:,.0f}/s a core),"
        f" {found['bare_cpu']:.0f} µs bare; of a report in a batch {found['batch_cpu'] / PER_BATCH:.0f} µs"
    )
    print(f"  plain client     {alone:8.0f}/s   ratio {found['single'] / alone:.2f}   one report a commit")
    print(
        f"  batches of {PER_BATCH}   {found['batches']:8.0f}/s   p99 {found['batch_p99']:6.1f} ms"
        "   (target 20,000)"
    )
    ratio = found["batches"] / grouped
    print(f"  plain client     {grouped:8.0f}/s   ratio {ratio:.2f}   256 a commit", flush=True)
    return good


def on_sqlite(connections: int, *, rounds: int, seconds: float) -> bool:
    secret_of = {name: secrets.token_hex(32) for name in SecretName}
    hashes = TokenHashes({name: value.encode() for name, value in secret_of.items()})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.db"
        nodes = trio.run(prepare, SqliteFleetStore(path, clock=SystemClock()), connections, hashes)
        with control_plane(Path(folder), secret_of, None) as server:
            found = measure(server, nodes, rounds=rounds, seconds=seconds)
        alone = plain_sqlite(path, NODES, seconds, 1)
        return show("sqlite", found, alone, plain_sqlite(path, NODES, seconds, GROUP))


def on_postgresql(connections: int, *, rounds: int, seconds: float) -> bool:
    try:
        server = started()
    except NoServerError as error:
        print(f"postgresql: left out: {error}")
        return True
    secret_of = {name: secrets.token_hex(32) for name in SecretName}
    hashes = TokenHashes({name: value.encode() for name, value in secret_of.items()})
    try:
        database = server.new_database()
        address = server.address(database)
        nodes = trio.run(prepare, PostgresqlFleetStore(address, clock=SystemClock()), connections, hashes)
        with (
            tempfile.TemporaryDirectory() as folder,
            control_plane(Path(folder), secret_of, address) as plane,
        ):
            found = measure(plane, nodes, rounds=rounds, seconds=seconds)
        alone = pgbench(server, database, NODES, max(1, round(seconds)))
        return show("postgresql", found, alone, plain_psycopg(server, database, NODES, seconds))
    finally:
        server.remove()


def main() -> int:
    """Prints all rates and ratios; exit 1 below a target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round of a second, for CI")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"))
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--fleet", type=int, metavar="N", help="simulate N nodes, and nothing else")
    parser.add_argument("--idle", action="store_true", help="look at a server at rest, and nothing else")
    chosen = parser.parse_args()
    if chosen.idle:
        idle(60.0)
        return 0
    if chosen.fleet:
        fleet(chosen.fleet, 30.0)
        return 0
    rounds, seconds = (1, 1.0) if chosen.short else (5, 3.0)
    good = True
    if chosen.engine in (None, "sqlite"):
        good &= on_sqlite(chosen.connections, rounds=rounds, seconds=seconds)
    if chosen.engine in (None, "postgresql"):
        good &= on_postgresql(chosen.connections, rounds=rounds, seconds=seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
