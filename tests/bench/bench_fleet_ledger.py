"""Batches of the ledger that one control-plane process takes over HTTP, durable and signed.

    python tests/bench/bench_fleet_ledger.py [--short] [--engine sqlite|postgresql]

A batch is `POST …/ledger` with twenty sessions, each new, with four events and its usage; 32 nodes push one
after the other. Beside it, in turn, a plain client writes the same rows of the same tables with one commit a
batch: apsw with the same statement texts, run row by row, and `pgbench` (16 clients) with one statement a
table. Rates are batches a second, and processor time is told for a batch.
"""

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.fleet.secrets import SecretName
from ambientd.core.fleet.tokens import TokenHashes
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.clock import SystemClock
from ambientd.store.fleet.postgresql import PostgresqlFleetStore
from ambientd.store.fleet.sqlite import SqliteFleetStore
from tests.bench.bench_fleet_api import Measured, Node, Server, control_plane, load, prepare, signed
from tests.pgkit import NoServerError, PgServer, started

NODES = 32
SESSIONS, EVENTS = 20, 4
BEGAN = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TEXT = "what was said " * 10
SESSION = (
    "INSERT INTO node_sessions (node_id, session_id, stream_seq, agent_id, agent_label, model_id, status,"
    " started_at, ended_at, runtime_ms, artifact_count)"
    " {} ON CONFLICT (node_id, session_id) DO UPDATE SET stream_seq = excluded.stream_seq"
)
EVENT = (
    "INSERT INTO node_session_events (node_id, session_id, seq, event_type, at, payload)"
    " {} ON CONFLICT (node_id, session_id, seq) DO NOTHING"
)
USAGE = (
    "INSERT INTO node_usage (node_id, session_id, stream_seq, prompt_tokens, completion_tokens, total_tokens,"
    " runtime_ms, cost_usd, cost_confidence, cost_source, cost_confidence_level, token_source,"
    " token_confidence, runtime_source, runtime_confidence, computed_at)"
    " {} ON CONFLICT (node_id, session_id) DO UPDATE SET stream_seq = excluded.stream_seq"
)
STREAM = (
    "INSERT INTO node_streams (node_id, stream, incarnation, acked_seq, updated_at)"
    " VALUES ({}) ON CONFLICT (node_id, stream) DO UPDATE SET acked_seq = excluded.acked_seq"
)
CREDENTIAL = "UPDATE device_credentials SET last_seq = last_seq + 1 WHERE node_id = {}"
SESSION_VALUES = "'a', 'agent', 'model', 'success', 1, 2, 1000, 0"
USAGE_VALUES = (
    "1000, 200, 1200, 1000, 0.01, 'exact', 'provider', 'high', 'provider', 'high', 'native', 'high', 5"
)


def body_of(turn: int) -> bytes:
    """One batch; every batch of a node goes on where the one before ended."""
    after = turn * SESSIONS
    records = []
    for seq in range(after + 1, after + SESSIONS + 1):
        at = rfc3339_ms(BEGAN + timedelta(seconds=seq))
        said = {"event_type": "message", "at": at, "payload": {"text": TEXT}}
        records.append(
            {
                "seq": seq,
                "session_id": f"ses-{seq:08}",
                "session": {
                    "agent_id": "a",
                    "agent_label": "agent",
                    "model_id": "model",
                    "status": "success",
                    "started_at": at,
                    "ended_at": at,
                    "runtime_ms": 1000,
                },
                "events": [{"seq": number, **said} for number in range(1, EVENTS + 1)],
                "usage": {
                    "computed_at": at,
                    "prompt_tokens": 1000,
                    "completion_tokens": 200,
                    "total_tokens": 1200,
                    "runtime_ms": 1000,
                    "cost_usd": 0.01,
                },
            }
        )
    return json.dumps({"after": after, "records": records}).encode()


class Pushing:
    """What nodes go on to push, round after round."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._turn = 0

    def stacks(self, each: int) -> list[list[bytes]]:
        """For each node so many batches, last first."""
        bodies = [body_of(self._turn + n) for n in range(each)]
        self._turn += each
        began = time.time_ns()
        return [
            [
                signed(node, began + n, "POST", f"/api/v1/nodes/{node.node_id}/ledger", body)
                for n, body in enumerate(bodies)
            ][::-1]
            for node in self._nodes
        ]

    def round(self, server: Server, each: int) -> Measured:
        """All of them to their end: the next round goes on behind them."""
        return load(server, self.stacks(each), 600.0)


def plain_sqlite(path: Path, nodes: list[Node], each: int, name: str) -> float:
    """Batches a second of one connection with the server's settings; `name` begins its sessions' ids."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(5_000)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-4096"):
        connection.execute(f"PRAGMA {pragma}")
    payload = json.dumps({"text": TEXT})
    session = SESSION.format(f"VALUES (?1, ?2, ?3, {SESSION_VALUES})")
    event = EVENT.format("VALUES (?1, ?2, ?3, 'message', 1, ?4)")
    usage = USAGE.format(f"VALUES (?1, ?2, ?3, {USAGE_VALUES})")
    began = time.perf_counter()
    for turn in range(each):
        for node in nodes:
            ids = [(node.node_id, f"{name}-{turn}-{n}", turn * SESSIONS + n + 1) for n in range(SESSIONS)]
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(CREDENTIAL.format("?"), (node.node_id,))
            connection.executemany(session, ids)
            connection.executemany(
                event, [(*one[:2], seq, payload) for one in ids for seq in range(1, EVENTS + 1)]
            )
            connection.executemany(usage, ids)
            connection.execute(STREAM.format("?, 'ledger', 1, ?, 5"), (node.node_id, ids[-1][2]))
            connection.execute("COMMIT")
    rate = each * len(nodes) / (time.perf_counter() - began)
    connection.close()
    return rate


def plain_postgresql(server: PgServer, database: str, seconds: int) -> float:
    """Batches a second of `pgbench`."""
    script = server.folder / "ledger.sql"
    node, many = "'node-' || lpad(:n::text, 6, '0')", f"FROM generate_series(1, {SESSIONS}) AS n"
    rows = f"SELECT {node}, 'p' || :s || '-' || n, "
    payload = json.dumps({"text": TEXT})
    events = f"e, 'message', 1, '{payload}' {many}, generate_series(1, {EVENTS}) AS e"
    statements = (
        CREDENTIAL.format(node),
        SESSION.format(f"{rows} n, {SESSION_VALUES} {many}"),
        EVENT.format(rows + events),
        USAGE.format(f"{rows} n, {USAGE_VALUES} {many}"),
        STREAM.format(f"{node}, 'ledger', 1, :s, 5"),
    )
    chosen = f"\\set n random(0, {NODES - 1})\n\\set s random(1, 1000000000)\n"
    script.write_text(chosen + ";\n".join(("BEGIN", *statements, "COMMIT;\n")))
    command = [
        str(server.bin / "pgbench"), "-n", "-h", str(server.folder), "-U", "ambient", "-f", str(script),
        "-c", "16", "-j", "2", "-M", "prepared", "-T", str(seconds), database,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in found.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def show(engine: str, ours: list[Measured], plain: list[float], what: str) -> None:
    rate, other = statistics.median(one.rate for one in ours), statistics.median(plain)
    cpu = statistics.median(one.cpu for one in ours) / 1000
    print(
        f"{engine:11} {rate:7.0f} batches/s ({rate * SESSIONS:,.0f} sessions/s)"
        f"   p99 {statistics.median(one.p99 for one in ours):6.1f} ms   CPU {cpu:.2f} ms a batch\n"
        f"  {what:28} {other:7.0f} batches/s   ratio {rate / other:.2f}",
        flush=True,
    )


def keys() -> tuple[dict[SecretName, str], TokenHashes]:
    secret_of = {name: secrets.token_hex(32) for name in SecretName}
    return secret_of, TokenHashes({name: value.encode() for name, value in secret_of.items()})


def on_sqlite(rounds: int, each: int) -> None:
    secret_of, hashes = keys()
    ours: list[Measured] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.db"
        nodes = trio.run(prepare, SqliteFleetStore(path, clock=SystemClock()), NODES, hashes)
        pushing = Pushing(nodes)
        with control_plane(Path(folder), secret_of, None) as server:
            for turn in range(rounds):
                ours.append(pushing.round(server, each))
                # Into a database of its own: the nodes go on behind what they pushed themselves.
                plain.append(plain_sqlite(copy_of(path), nodes, each, f"p{turn}"))
    show("sqlite", ours, plain, "apsw, a commit a batch")


def copy_of(path: Path) -> Path:
    """The database as it is now, for a client whose rows the nodes do not know of."""
    copy = path.with_name("plain.db")
    if not copy.exists():
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.execute("VACUUM INTO ?", (str(copy),))
        connection.close()
        apsw.Connection(str(copy)).execute("PRAGMA journal_mode = WAL")
    return copy


def on_postgresql(rounds: int, each: int, seconds: int) -> None:
    try:
        server = started()
    except NoServerError as error:
        print(f"postgresql: left out: {error}")
        return
    secret_of, hashes = keys()
    ours: list[Measured] = []
    plain: list[float] = []
    try:
        database, other = server.new_database(), server.new_database()
        for one in (other, database):
            address = server.address(one)
            nodes = trio.run(prepare, PostgresqlFleetStore(address, clock=SystemClock()), NODES, hashes)
        pushing = Pushing(nodes)
        with (
            tempfile.TemporaryDirectory() as folder,
            control_plane(Path(folder), secret_of, address) as plane,
        ):
            for _ in range(rounds):
                ours.append(pushing.round(plane, each))
                plain.append(plain_postgresql(server, other, seconds))
        show("postgresql", ours, plain, "pgbench, 16 clients")
    finally:
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round of a second, for CI")
    parser.add_argument("--engine", choices=("sqlite", "postgresql"))
    chosen = parser.parse_args()
    rounds, each, seconds = (1, 5, 1) if chosen.short else (5, 30, 4)
    if chosen.engine in (None, "sqlite"):
        on_sqlite(rounds, each)
    if chosen.engine in (None, "postgresql"):
        on_postgresql(rounds, each, seconds)


if __name__ == "__main__":
    main()
