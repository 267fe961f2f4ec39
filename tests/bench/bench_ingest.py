"""Ingests per second over HTTP with 1, 16 and 64 clients, against plain apsw that writes the same rows.

    python tests/bench/bench_ingest.py [--short] [--events N]

The baseline is the plainest loop over apsw: session, events, usage, key and daily sums in the same tables
with the same indexes and triggers, one transaction of `synchronous=FULL` for each session. Ours is a node
of its own process behind its Unix socket, with every check on the way, driven over keep-alive connections
with one request in flight on each. Both alternate in slices on one disk, so that a noisy machine hits
both; the figure is the ratio of the medians. Target with 64 clients: 0.7.
"""

import argparse
import json
import selectors
import socket
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.clock import SystemClock
from ambientd.store.migrate import default_folder, known_migrations, migrate
from ambientd.store.recover import open_database
from ambientd.store.search import index_noted, register
from ambientd.wire.routes import INGEST
from tests.e2e.harness import Node

CLIENTS = (1, 16, 64)
TARGET = 0.7
START = datetime(2026, 2, 18, 10, tzinfo=UTC)
CHECKPOINT_EVERY = 500  # sessions; the baseline copies its log about as often as ours does
SESSION = (
    "INSERT INTO session_ledger (session_id, agent_id, agent_label, model_id, task_title, task_text,"
    " task_category, status, started_at, ended_at, runtime_ms, artifact_count, source, ingested_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)"
)
EVENT = (
    "INSERT INTO session_event_rows (session_key, seq, event_type, at_ms, payload_json)"
    " VALUES (?, ?, ?, ?, ?)"
)
USAGE = (
    "INSERT INTO session_usage_rows (session_key, prompt_tokens, completion_tokens, total_tokens, runtime_ms,"
    " cost_usd, cost_confidence, cost_source, cost_confidence_level, token_source, token_confidence,"
    " runtime_source, runtime_confidence, pricing_version, computed_at)"
    " VALUES (?, 100, 200, 300, 5000, 0.0123, 'exact', 'provider_reported', 'high', 'derived', 'medium',"
    " 'derived', 'medium', 'provider_native', ?)"
)
DAY = (
    "INSERT INTO usage_days (bucket_date) VALUES ('2026-02-18')"
    " ON CONFLICT (bucket_date) DO UPDATE SET revision = revision + 1"
)
BUCKET = (
    "UPDATE daily_usage_agg SET runs_total = runs_total + 1, runtime_ms_total = runtime_ms_total + 5000,"
    " prompt_tokens_total = prompt_tokens_total + 100,"
    " completion_tokens_total = completion_tokens_total + 200,"
    " total_tokens_total = total_tokens_total + 300, cost_nano_total = cost_nano_total + 12300000,"
    " cost_usd_total = cost_usd_total + 0.0123, updated_at = ?"
    " WHERE bucket_date = '2026-02-18' AND agent_id = ? AND model_id = ? AND task_category = 'review'"
    " RETURNING agg_key"
)
NEW_BUCKET = (
    "INSERT INTO daily_usage_agg (bucket_date, agent_id, model_id, task_category, runs_total,"
    " runtime_ms_total, prompt_tokens_total, completion_tokens_total, total_tokens_total, cost_usd_total,"
    " updated_at, cost_nano_total, tokens_reported, tokens_derived, runtime_reported, runtime_derived,"
    " cost_reported, cost_derived) VALUES ('2026-02-18', ?, ?, 'review', 1, 5000, 100, 200, 300, 0.0123, ?,"
    " 12300000, 0, 1, 0, 1, 1, 0) RETURNING agg_key"
)
ACCOUNTED = (
    "INSERT INTO session_accounted (session_key, agg_key, runtime_ms, prompt_tokens, completion_tokens,"
    " total_tokens, cost_nano, tokens_source, runtime_source, cost_source)"
    " VALUES (?, ?, 5000, 100, 200, 300, 12300000, 1, 1, 0)"
)
KEY = "INSERT INTO ingest_keys (key, session_key, fingerprint, at) VALUES (?, ?, ?, ?)"
TEXT = "alpha beta gamma delta epsilon zeta eta theta iota kappa"


class Sample:
    """The values of one session, the same for both sides."""

    def __init__(self, number: int, events: int) -> None:
        self.name = f"0191f6a4-{number % 65536:04x}-7000-8000-{number:012x}"
        self.agent = f"agent-{number % 20}"
        self.model = f"prov/model-{number % 7}"
        self.title = f"Refactor the ingest gate {number}"
        self.text = f"{TEXT} {number} {TEXT}"
        self.payloads = [{"stream": "stdout", "text": f"{TEXT} {place}"} for place in range(events)]

    def request(self) -> bytes:
        """The whole HTTP request."""
        session = {
            "id": self.name,
            "agent_id": self.agent,
            "state": "success",
            "started_at": "2026-02-18T10:00:00Z",
            "ended_at": "2026-02-18T10:00:05Z",
            "model_id": self.model,
            "task_title": self.title,
            "task_text": self.text,
            "task_category": "review",
        }
        events = [
            {"seq": place, "event_type": "message", "event_ts": "2026-02-18T10:00:01Z", "payload": payload}
            for place, payload in enumerate(self.payloads, 1)
        ]
        usage = {"prompt_tokens": 100, "completion_tokens": 200, "cost_usd": 0.0123}
        payload = {"session": session, "events": events, "usage": usage}
        body = json.dumps({"envelope_version": "v1", "source": "bench", "payload": payload}).encode()
        head = (
            f"POST {INGEST} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Plain:
    """The baseline: one connection, one transaction each."""

    def __init__(self, folder: Path) -> None:
        path = folder / "plain.db"
        known = known_migrations(default_folder())
        self._connection = open_database(path, clock=SystemClock(), busy_timeout=5, newest=len(known))
        migrate(self._connection, known, SystemClock())
        register(self._connection)
        assert self._connection.execute("PRAGMA synchronous").get == 2
        self._written = 0

    def write(self, samples: list[Sample]) -> float:
        """Seconds for these sessions."""
        began = time.perf_counter()
        for sample in samples:
            self._connection.execute("BEGIN IMMEDIATE")
            self._one(sample)
            self._connection.execute("COMMIT")
            self._written += 1
            if self._written % CHECKPOINT_EVERY == 0:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return time.perf_counter() - began

    def _one(self, sample: Sample) -> None:
        run, at = self._connection.execute, rfc3339_ms(START)
        values: tuple[Any, ...] = (sample.name, sample.agent, sample.agent, sample.model, sample.title)
        values += (sample.text, "review", "success", at, "2026-02-18T10:00:05.000Z", 5000, "bench", at)
        run(SESSION, values)
        key = self._connection.last_insert_rowid()
        rows = [
            (key, place, "message", 1771408801000, json.dumps(payload, separators=(",", ":")))
            for place, payload in enumerate(sample.payloads, 1)
        ]
        self._connection.executemany(EVENT, rows)
        run(USAGE, (key, at))
        run(KEY, (f"success:{sample.name}", key, sample.name.replace("-", ""), at))
        run(DAY)
        found = run(BUCKET, (at, sample.agent, sample.model)).get
        if found is None:
            found = run(NEW_BUCKET, (sample.agent, sample.model, at)).get
        run(ACCOUNTED, (key, found))
        index_noted(self._connection)


class Driver:
    """Keeps one request in flight on each of its connections."""

    def __init__(self, path: str, clients: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._links = []
        for _ in range(clients):
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.connect(path)
            self._selector.register(link, selectors.EVENT_READ)
            self._links.append(link)

    def send(self, requests: list[bytes]) -> float:
        """Seconds until every request was answered; raises RuntimeError for another answer than 200."""
        waiting = requests[::-1]
        began = time.perf_counter()
        for idle in self._links[: len(waiting)]:
            idle.sendall(waiting.pop())
        left = len(requests)
        while left:
            for key, _ in self._selector.select(30):
                link: Any = key.fileobj
                answer = link.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200") or b'"idempotent_replay":false' not in answer:
                    raise RuntimeError(answer[:500])
                left -= 1
                if waiting:
                    link.sendall(waiting.pop())
        return time.perf_counter() - began

    def close(self) -> None:
        """Lets all connections go."""
        self._selector.close()
        for link in self._links:
            link.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--events", type=int, default=10)
    arguments = parser.parse_args()
    rounds, size = (3, 100) if arguments.short else (9, 600)
    rates: dict[int, list[float]] = {clients: [] for clients in (0, *CLIENTS)}
    number = 0
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="bench-") as folder, Node({}) as node:
        plain = Plain(Path(folder))
        for _ in range(rounds):
            for clients in (0, *CLIENTS):
                samples = [Sample(number + place, arguments.events) for place in range(size)]
                number += size
                if clients == 0:
                    seconds = plain.write(samples)
                else:
                    driver = Driver(str(node.socket), clients)
                    seconds = driver.send([sample.request() for sample in samples])
                    driver.close()
                rates[clients].append(size / seconds)
    base = statistics.median(rates[0])
    print(f"plain apsw, one transaction each   {base:8.0f} sessions/s ({arguments.events} events each)")
    for clients in CLIENTS:
        rate = statistics.median(rates[clients])
        target = f" (target {TARGET})" if clients == CLIENTS[-1] else ""
        print(f"HTTP, {clients:2} clients {rate:27.0f} sessions/s   ratio {rate / base:.2f}{target}")


if __name__ == "__main__":
    main()
