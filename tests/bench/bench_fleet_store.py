"""Reports that the control plane's store takes, against the same rows written by plain clients.

    python tests/bench/bench_fleet_store.py [--short] [--engine sqlite|postgresql] [--nodes N]

A report changes its node's row and adds one of history; each is durable before it is answered. *single*:
many callers wait, each with one report of another node (the service writes what waits together). *batches*:
callers bring fifty numbered reports of a node that was away. Baselines of the same run: plain apsw with a
commit for each report and for 256, `pgbench` with a custom script (16 clients, prepared), plain psycopg with
256 rows to a commit. PostgreSQL is the real server with fsync on, on the same disk.

Budgets: one process takes 4,000 single reports a second and 20,000 in batches.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import psycopg
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.fleet.records import Capabilities, NewNode, NodeReport, UserRecord
from ambientd.host.clock import SystemClock
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.services.fleet_reports import ReportsService
from ambientd.store.fleet.postgresql import PostgresqlFleetStore
from ambientd.store.fleet.sqlite import SqliteFleetStore
from ambientd.wire.fleet_enums import NodeType
from tests.pgkit import NoServerError, PgServer, started

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CALLERS = 512
STREAMS = 32
PER_BATCH = 50
GROUP = 256
UPDATE = (
    "UPDATE nodes SET last_heartbeat = {0}, last_seen = {0}, updated_at = {0}, status = 'online',"
    " health_score = 90 WHERE node_id = {1}"
)
INSERT = (
    "INSERT INTO node_heartbeat_history (node_id, health_score, cpu_usage, memory_usage, disk_usage,"
    " network_latency_ms, active_tasks, status, recorded_at)"
    " VALUES ({1}, 90, 12.5, 50, 10, 12, 0, 'online', {0})"
)


def node_id(number: int) -> str:
    return f"node-{number:06}"


def report(number: int, tick: int, *, seq: int | None = None) -> NodeReport:
    return NodeReport(
        node_id=node_id(number),
        owner_id="ann",
        at=AT + timedelta(milliseconds=tick),
        seq=seq,
        health_score=90.0,
        cpu_usage=12.5,
        memory_usage=50.0,
        disk_usage=10.0,
        network_latency_ms=12,
    )


def register(first: int, count: int) -> Callable[[FleetTransaction], None]:
    has = Capabilities(bandwidth_mbps=100, cpu_cores=4, memory_gb=8)

    def work(tx: FleetTransaction) -> None:
        if first == 0:
            tx.users.add(UserRecord(user_id="ann", username="ann", created_at=AT), None)
        for number in range(first, first + count):
            node = NewNode(
                node_id=node_id(number),
                owner_id="ann",
                region="eu",
                node_type=NodeType.COMPUTE,
                capabilities=has,
            )
            tx.nodes.register(node, AT)

    return work


class Meter:
    """Reports acknowledged, and how long each waited."""

    def __init__(self) -> None:
        self.reports = 0
        self.waits: list[float] = []

    def rate(self, seconds: float) -> float:
        return self.reports / seconds

    def p99(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)] * 1000


async def single(service: ReportsService, nodes: int, seconds: float) -> tuple[float, float]:
    """Reports a second of many callers with one each, and the p99 of their waiting in milliseconds."""
    meter = Meter()

    async def caller(number: int) -> None:
        tick = 0
        while True:
            began = time.perf_counter()
            await service.take([report((number + tick * CALLERS) % nodes, tick)])
            meter.reports += 1
            meter.waits.append(time.perf_counter() - began)
            tick += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(caller, number)
    return meter.rate(seconds), meter.p99()


async def batches(service: ReportsService, nodes: int, seconds: float) -> tuple[float, float]:
    """The same for callers with many reports of one node each."""
    meter = Meter()

    async def caller(number: int) -> None:
        turn = 0
        while True:
            began = time.perf_counter()
            first = turn * PER_BATCH + 1
            of = (number + STREAMS * (turn % (nodes // STREAMS))) % nodes
            await service.take([report(of, turn, seq=first + n) for n in range(PER_BATCH)])
            meter.reports += PER_BATCH
            meter.waits.append(time.perf_counter() - began)
            turn += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(STREAMS):
                nursery.start_soon(caller, number)
    return meter.rate(seconds), meter.p99()


@asynccontextmanager
async def serving(
    store: SqliteFleetStore | PostgresqlFleetStore, nodes: int
) -> AsyncIterator[ReportsService]:
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        port: FleetStore = store
        for first in range(0, nodes, 1000):
            await port.write(register(first, min(1000, nodes - first)))
        service = ReportsService(port)
        nursery.start_soon(service.run)
        yield service
        await store.close()
        nursery.cancel_scope.cancel()


def plain_sqlite(path: Path, nodes: int, seconds: float, group: int) -> float:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(5_000)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-4096"):
        connection.execute(f"PRAGMA {pragma}")
    update, insert = UPDATE.format("?1", "?2"), INSERT.format("?1", "?2")
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        rows = [(done + n, node_id((done + n) % nodes)) for n in range(group)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(update, rows)
        connection.executemany(insert, rows)
        connection.execute("COMMIT")
        done += group
    rate = done / (time.perf_counter() - began)
    connection.close()
    return rate


def plain_psycopg(server: PgServer, database: str, nodes: int, seconds: float) -> float:
    update, insert = UPDATE.format("%(at)s", "%(id)s"), INSERT.format("%(at)s", "%(id)s")
    with psycopg.connect(server.address(database)) as connection, connection.cursor() as cursor:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            rows = [{"at": done + n, "id": node_id((done + n) % nodes)} for n in range(GROUP)]
            cursor.executemany(update.encode(), rows)
            cursor.executemany(insert.encode(), rows)
            connection.commit()
            done += GROUP
        return done / (time.perf_counter() - began)


def pgbench(server: PgServer, database: str, nodes: int, seconds: int) -> float:
    script = server.folder / "report.sql"
    marked = "'node-' || lpad(:n::text, 6, '0')"
    script.write_text(
        f"\\set n random(0, {nodes - 1})\n\\set at random(1, 1000000)\nBEGIN;\n"
        f"{UPDATE.format(':at', marked)};\n{INSERT.format(':at', marked)};\nCOMMIT;\n"
    )
    command = [
        str(server.bin / "pgbench"), "-n", "-h", str(server.folder), "-U", "ambient", "-f", str(script),
        "-c", "16", "-j", "2", "-M", "prepared", "-T", str(max(1, seconds)), database,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in found.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def show(name: str, ours: tuple[float, float], plain: float, what: str, budget: int) -> None:
    verdict = "" if ours[0] >= budget else f"   BELOW {budget}"
    print(
        f"{name:24} {ours[0]:8.0f}/s  p99 {ours[1]:6.1f} ms   {what} {plain:8.0f}/s"
        f"   ratio {ours[0] / plain:5.2f}{verdict}",
        flush=True,
    )


def on_sqlite(nodes: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.db"
        found: list[tuple[float, float]] = []

        async def ours() -> None:
            async with serving(SqliteFleetStore(path, clock=SystemClock()), nodes) as service:
                found.append(await single(service, nodes, seconds))
                found.append(await batches(service, nodes, seconds))

        trio.run(ours)
        show("sqlite single", found[0], plain_sqlite(path, nodes, seconds, 1), "apsw, one a commit", 4_000)
        show("sqlite batches", found[1], plain_sqlite(path, nodes, seconds, GROUP), "apsw, 256", 20_000)


def on_postgresql(nodes: int, seconds: float) -> None:
    try:
        server = started()
    except NoServerError as error:
        print(f"postgresql               left out: {error}")
        return
    try:
        database = server.new_database()
        found: list[tuple[float, float]] = []

        async def ours() -> None:
            store = PostgresqlFleetStore(server.address(database), clock=SystemClock())
            async with serving(store, nodes) as service:
                found.append(await single(service, nodes, seconds))
                found.append(await batches(service, nodes, seconds))

        trio.run(ours)
        plain = pgbench(server, database, nodes, round(seconds))
        show("postgresql single", found[0], plain, "pgbench, 16 clients", 4_000)
        plain = plain_psycopg(server, database, nodes, seconds)
        show("postgresql batches", found[1], plain, "psycopg, 256", 20_000)
    finally:
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few seconds, for CI")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"))
    parser.add_argument("--nodes", type=int, default=10_000)
    chosen = parser.parse_args()
    nodes, seconds = (500, 0.7) if chosen.short else (chosen.nodes, 10.0)
    if chosen.engine in (None, "sqlite"):
        on_sqlite(nodes, seconds)
    if chosen.engine in (None, "postgresql"):
        on_postgresql(nodes, seconds)


if __name__ == "__main__":
    main()
