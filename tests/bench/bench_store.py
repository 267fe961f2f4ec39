"""Sessions per second and bytes per session, against the specification's columns read literally.

    python tests/bench/bench_store.py [--short] [--sessions N] [--ids uuid|ulid]

Each session has ten events and a usage row, written in commits of 64 with `synchronous=FULL`. The baseline
is text keys in plain tables with the specification's indexes and the same full-text index, written by the
plainest loop over apsw. Ours goes through the repositories, in savepoints. Both alternate in slices, so that
a noisy machine hits both. The baseline falls with size: the budgets (2.5 × its rate, 0.65 × its bytes) are
meant at a million sessions with random ids, as gateways give them.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.records import NewEvent, NewSession, UsageRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.host.clock import SystemClock, UlidIds
from ambientd.store.migrate import default_folder, known_migrations, migrate
from ambientd.store.recover import open_database
from ambientd.store.unit import SqliteTransaction
from ambientd.store.writer import Job, Writer
from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    MetricSource,
    SessionStatus,
)

GROUP = 64
EVENTS = 10
SLICE = 25  # groups
CHECKPOINT_BYTES = 8 * 1024 * 1024
START = datetime(2026, 1, 1, tzinfo=UTC)
TYPES = (EventType.MESSAGE, EventType.TOOL_CALL, EventType.METRIC)

LITERAL = """
CREATE TABLE session_ledger (
    session_id TEXT PRIMARY KEY, run_id TEXT, agent_id TEXT NOT NULL, agent_label TEXT NOT NULL,
    model_id TEXT NOT NULL, task_title TEXT, task_text TEXT, task_category TEXT,
    status TEXT NOT NULL
        CHECK (status IN ('success', 'failed', 'killed', 'cancelled', 'running', 'queued')),
    started_at TEXT NOT NULL, ended_at TEXT, runtime_ms INTEGER, artifact_count INTEGER NOT NULL,
    error_code TEXT, error_message TEXT, source_version TEXT, ingested_at TEXT NOT NULL);
CREATE INDEX l1 ON session_ledger (agent_id, started_at DESC);
CREATE INDEX l2 ON session_ledger (status, started_at DESC);
CREATE INDEX l3 ON session_ledger (model_id, started_at DESC);
CREATE INDEX l4 ON session_ledger (task_category);
CREATE INDEX l5 ON session_ledger (started_at);
CREATE INDEX l6 ON session_ledger (ended_at);
CREATE VIRTUAL TABLE search USING fts5 (session_id, task_title, task_text,
    content = 'session_ledger', content_rowid = 'rowid');
CREATE TRIGGER t1 AFTER INSERT ON session_ledger BEGIN
    INSERT INTO search (rowid, session_id, task_title, task_text)
    VALUES (NEW.rowid, NEW.session_id, NEW.task_title, NEW.task_text);
END;
CREATE TABLE session_events (
    event_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session_ledger (session_id),
    seq INTEGER NOT NULL, event_type TEXT NOT NULL
        CHECK (event_type IN ('tool_call', 'message', 'state_transition', 'artifact', 'error', 'metric')),
    event_ts TEXT NOT NULL, payload_json TEXT NOT NULL);
CREATE UNIQUE INDEX e1 ON session_events (session_id, seq);
CREATE INDEX e2 ON session_events (session_id, event_ts);
CREATE TABLE session_usage (
    session_id TEXT PRIMARY KEY REFERENCES session_ledger (session_id), prompt_tokens INTEGER,
    completion_tokens INTEGER, total_tokens INTEGER, runtime_ms INTEGER, cost_usd REAL,
    cost_confidence TEXT NOT NULL CHECK (cost_confidence IN ('exact', 'estimated', 'unknown')),
    provider TEXT, pricing_version TEXT, computed_at TEXT NOT NULL, cost_source TEXT NOT NULL,
    token_source TEXT NOT NULL, runtime_source TEXT NOT NULL, cost_confidence_level TEXT NOT NULL,
    token_confidence TEXT NOT NULL, runtime_confidence TEXT NOT NULL);
CREATE INDEX u1 ON session_usage (pricing_version);
CREATE INDEX u2 ON session_usage (computed_at DESC);
"""


LITERAL_SESSION = f"INSERT INTO session_ledger VALUES ({', '.join('?' * 17)})"  # noqa: S608 - marks
LITERAL_USAGE = f"INSERT INTO session_usage VALUES ({', '.join('?' * 16)})"  # noqa: S608 - marks


class Sample:
    """One session's worth of values, the same for both sides."""

    def __init__(self, source: random.Random, words: list[str], number: int, session_id: str) -> None:
        self.at = START + timedelta(seconds=number)
        self.end = self.at + timedelta(seconds=5)
        usage = UsageRecord(
            session_id=session_id,
            prompt_tokens=100,
            completion_tokens=200,
            total_tokens=300,
            runtime_ms=5000,
            cost_usd=0.0123,
            cost_confidence=CostConfidence.ESTIMATED,
            cost_source=CostSource.ESTIMATED_FROM_PRICING,
            token_source=MetricSource.PROVIDER_REPORTED,
            runtime_source=MetricSource.DERIVED,
            provider="prov",
            pricing_version="2026-01",
            computed_at=self.end,
        )
        self.usage = usage
        self.session = NewSession(
            session_id=session_id,
            agent_id=f"agent-{number % 20}",
            agent_label=f"Agent {number % 20}",
            model_id=f"prov/model-{number % 7}",
            task_title=" ".join(source.choices(words, k=5)),
            task_text=" ".join(source.choices(words, k=20)),
            task_category="review",
            status=SessionStatus.SUCCESS,
            started_at=self.at,
            source_version="local/1",
        )
        self.payloads = [
            {"stream": "stdout", "text": " ".join(source.choices(words, k=10))} for _ in range(EVENTS)
        ]


class Ours:
    """The store's own writer and repositories."""

    name = "ours"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ours.db"
        known = known_migrations(default_folder())
        connection = open_database(self.path, clock=SystemClock(), busy_timeout=5, newest=len(known))
        migrate(connection, known, SystemClock())
        self.connection = connection
        self.writer = Writer(connection, self.path)

    def group(self, samples: list[Sample]) -> None:
        jobs = [Job(self._work(sample)) for sample in samples]
        self.writer.commit(jobs, samples[-1].end)
        for job in jobs:
            job.result()
        if self.writer.wal_bytes() > CHECKPOINT_BYTES:
            self.writer.checkpoint()

    @staticmethod
    def _work(sample: Sample) -> Callable[[SqliteTransaction], None]:
        def work(unit: SqliteTransaction) -> None:
            session_id = sample.session.session_id
            unit.ledger.add(sample.session)
            events = [
                NewEvent(event_type=TYPES[n % 3], at=sample.at + timedelta(milliseconds=n * 100), payload=p)
                for n, p in enumerate(sample.payloads)
            ]
            unit.ledger.append(session_id, events)
            unit.usage.put(sample.usage)

        return work

    def finish(self) -> None:
        self.writer.close()


class Literal:
    """Text keys, plain statements."""

    name = "literal"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "literal.db"
        self.connection = apsw.Connection(str(self.path))
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=0"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("PRAGMA cache_size=-4096")
        self.connection.execute(LITERAL)

    def group(self, samples: list[Sample]) -> None:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        for sample in samples:
            self._write(sample)
        execute("COMMIT")
        if self.path.with_name("literal.db-wal").stat().st_size > CHECKPOINT_BYTES:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _write(self, sample: Sample) -> None:
        s, u, end = sample.session, sample.usage, rfc3339_ms(sample.end)
        self.connection.execute(
            LITERAL_SESSION,
            (
                s.session_id, None, s.agent_id, s.agent_label, s.model_id, s.task_title, s.task_text,
                s.task_category, s.status, rfc3339_ms(s.started_at), None, None, 0, None, None,
                s.source_version, end,
            ),
        )  # fmt: skip
        events = [
            (
                f"{s.session_id}:{n}", s.session_id, n, TYPES[n % 3],
                rfc3339_ms(sample.at + timedelta(milliseconds=n * 100)), json.dumps(payload),
            )
            for n, payload in enumerate(sample.payloads)
        ]  # fmt: skip
        self.connection.executemany("INSERT INTO session_events VALUES (?, ?, ?, ?, ?, ?)", events)
        self.connection.execute(
            LITERAL_USAGE,
            (
                u.session_id, u.prompt_tokens, u.completion_tokens, u.total_tokens, u.runtime_ms, u.cost_usd,
                u.cost_confidence, u.provider, u.pricing_version, end, u.cost_source, u.token_source,
                u.runtime_source, u.cost_confidence_level, u.token_confidence, u.runtime_confidence,
            ),
        )  # fmt: skip

    def finish(self) -> None:
        self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few seconds, for CI")
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--ids", choices=("uuid", "ulid"), default="uuid")
    chosen = parser.parse_args()
    sessions = 3_200 if chosen.short else chosen.sessions
    source = random.Random(1)
    words = [
        "".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(3, 9))) for _ in range(3000)
    ]
    ids = UlidIds()
    with tempfile.TemporaryDirectory() as folder:
        sides = (Literal(Path(folder)), Ours(Path(folder)))
        spent = dict.fromkeys(("literal", "ours"), 0.0)
        last = dict(spent)
        done = 0
        while done < sessions:
            groups = []
            for _ in range(min(SLICE, -(-(sessions - done) // GROUP))):
                samples = []
                for number in range(done, done + GROUP):
                    at = START + timedelta(seconds=number)
                    random_id = str(uuid.UUID(int=source.getrandbits(128)))
                    session_id = random_id if chosen.ids == "uuid" else ids.session_id(at)
                    samples.append(Sample(source, words, number, session_id))
                done += GROUP
                groups.append(samples)
            for side in sides:
                began = time.perf_counter()
                for samples in groups:
                    side.group(samples)
                spent[side.name] += time.perf_counter() - began
            if done % (GROUP * SLICE * 10) == 0:
                slices = {name: spent[name] - last[name] for name in spent}
                last = dict(spent)
                print(
                    f"  at {done}: ratio of the last slices {slices['literal'] / slices['ours']:.2f}",
                    flush=True,
                )
        for side in sides:
            side.finish()
        size = {side.name: side.path.stat().st_size / done for side in sides}
    for name, seconds in spent.items():
        print(f"{name:8} {done / seconds:8.0f} sessions/s {size[name]:8.0f} bytes/session")
    print(f"rate  ratio {spent['literal'] / spent['ours']:.2f} (budget at 1 M sessions: 2.5 or more)")
    print(f"bytes ratio {size['ours'] / size['literal']:.2f} (budget: 0.65 or less)")


if __name__ == "__main__":
    main()
