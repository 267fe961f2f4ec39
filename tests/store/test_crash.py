"""What was acknowledged survives `kill -9` (FAULTS D2c), and a model of it never differs (D16)."""

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import apsw
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from ambientd.core.audit import first_bad
from ambientd.core.records import AuditEntry, SessionChange
from ambientd.store.connection import open_reader
from ambientd.store.search import register
from ambientd.store.unit import SqliteTransaction
from ambientd.store.writer import Job, Writer
from ambientd.wire.enums import SessionStatus
from tests.store.kit import AT, ingest, migrated, new_event

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20

INGESTER = """
import sys
from pathlib import Path
import trio
from ambientd.core.records import AuditEntry
from tests.store.kit import AT, ingest, opened

async def writer(store, prefix):
    for n in range(100_000):
        name = f"{prefix}-{n}"
        def work(tx):
            ingest(tx, name)
            tx.audit.append(AuditEntry(kind="test", at=AT, actor="a", subject=name))
        await store.write(work)
        print(name, flush=True)

async def main():
    async with opened(Path(sys.argv[1])) as store:
        async with trio.open_nursery() as nursery:
            for k in range(4):
                nursery.start_soon(writer, store, f"{sys.argv[2]}-{k}")

trio.run(main)
"""


def killed_after(path: Path, name: str, lines: int, pause: float) -> list[str]:
    """Names acknowledged by an ingester that was killed some time after it had said `lines` of them."""
    argv = [sys.executable, "-c", INGESTER, str(path), name]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    signal.sigtimedwait([], pause)
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [line.strip() for line in said if line.endswith("\n")]


def test_nothing_acknowledged_is_lost_over_twenty_kills(tmp_path: Path) -> None:
    path = tmp_path / "ambient.db"
    chance = random.Random(20261120)
    acknowledged: list[str] = []
    for number in range(KILLS):
        acknowledged += killed_after(path, str(number), chance.randint(0, 8), chance.random() / 20)
    assert len(acknowledged) > KILLS
    connection = migrated(path)
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    stored = {name for (name,) in connection.execute("SELECT session_id FROM session_ledger")}
    assert [name for name in acknowledged if name not in stored] == []
    assert len(set(acknowledged)) == len(acknowledged)
    assert len(stored) - len(acknowledged) <= KILLS * 4, "at most what was committed and not yet told"
    incomplete = (
        "SELECT count(*) FROM session_ledger WHERE (SELECT count(*) FROM session_events AS e"
        " WHERE e.session_id = session_ledger.session_id) <> 2"
    )
    assert connection.execute(incomplete).get == 0
    assert first_bad(SqliteTransaction(connection, AT).audit.records(0, 10**6)) is None
    connection.execute("INSERT INTO session_search (session_search, rank) VALUES ('integrity-check', 1)")
    connection.close()
    assert not [item for item in tmp_path.iterdir() if ".corrupt-" in item.name]


class StoreAgainstModel(RuleBasedStateMachine):
    """Any order of writes, failures, crashes, checkpoints and restarts leaves what the model holds."""

    sessions: Bundle[str] = Bundle("sessions")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/tmp")
        self.path = Path(self.folder.name) / "ambient.db"
        self.writer = Writer(migrated(self.path), self.path)
        self.events: dict[str, list[str]] = {}
        self.statuses: dict[str, SessionStatus] = {}
        self.audited = 0
        self.made = 0

    def commit(self, *works: Any) -> list[Job]:
        jobs = [Job(work) for work in works]
        self.writer.commit(jobs, AT)
        return jobs

    @rule(target=sessions, events=st.integers(0, 3))
    def ingest(self, events: int) -> str:
        name = f"s{self.made}"
        self.made += 1
        (job,) = self.commit(lambda tx: ingest(tx, name, events=events))
        job.result()
        self.events[name] = [f"line {n}" for n in range(events)]
        self.statuses[name] = SessionStatus.QUEUED
        return name

    @rule(
        name=sessions,
        texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
    )
    def append(self, name: str, texts: list[str]) -> None:
        (job,) = self.commit(lambda tx: tx.ledger.append(name, [new_event(text) for text in texts]))
        self.events[name] += texts
        assert job.result() == len(self.events[name])

    @rule(name=sessions, status=st.sampled_from([SessionStatus.RUNNING, SessionStatus.FAILED]))
    def step(self, name: str, status: SessionStatus) -> None:
        (job,) = self.commit(lambda tx: tx.ledger.change(name, SessionChange(status=status)))
        moves = self.statuses[name] in (SessionStatus.QUEUED, SessionStatus.RUNNING)
        assert job.result() is moves
        if moves:
            self.statuses[name] = status

    @rule(name=sessions)
    def audit_beside_a_failure(self, name: str) -> None:
        """Three in one commit; the middle one writes and then fails."""

        def audit(tx: SqliteTransaction) -> int:
            return tx.audit.append(AuditEntry(kind="k", at=AT, actor="a", subject=name))

        def failing(tx: SqliteTransaction) -> None:
            audit(tx)
            tx.ledger.append(name, [new_event("never")])
            raise RuntimeError("on purpose")

        first, bad, last = self.commit(audit, failing, audit)
        assert isinstance(bad.error, RuntimeError)
        assert (first.result(), last.result()) == (self.audited + 1, self.audited + 2)
        self.audited += 2

    @rule()
    def checkpoint(self) -> None:
        assert self.writer.checkpoint().complete

    @rule()
    def restart(self) -> None:
        self.writer.close()
        self.writer = Writer(migrated(self.path), self.path)

    @rule()
    def crash(self) -> None:
        """A copy of the files as they lie on the disk, with a transaction under way that nobody committed."""
        connection = self.writer._connection
        connection.execute("BEGIN IMMEDIATE")
        ingest(SqliteTransaction(connection, AT), "uncommitted")
        left = {name: self.path.with_name(name).read_bytes() for name in ("ambient.db", "ambient.db-wal")}
        connection.execute("ROLLBACK")
        self.writer.close()
        for name, content in left.items():
            self.path.with_name(name).write_bytes(content)
        self.writer = Writer(migrated(self.path), self.path)

    @invariant()
    def equals_the_model(self) -> None:
        if not hasattr(self, "writer"):
            return
        reader = open_reader(self.path, busy_timeout=1)
        register(reader)
        unit = SqliteTransaction(reader, AT)
        assert unit.ledger.count() == len(self.events)
        for name, texts in self.events.items():
            found = unit.ledger.get(name)
            assert found is not None
            assert found.status is self.statuses[name]
            events = unit.ledger.events(name, 0, 1000)
            assert [event.seq for event in events] == list(range(1, len(texts) + 1))
            assert [event.payload["text"] for event in events] == texts
        assert first_bad(unit.audit.records(0, 10_000)) is None
        assert len(unit.audit.records(0, 10_000)) == self.audited
        reader.close()

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            assert isinstance(self.writer._connection, apsw.Connection)
            assert self.writer._connection.execute("PRAGMA integrity_check").get == "ok"
            self.writer.close()
            self.folder.cleanup()


StoreAgainstModel.TestCase.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
TestStoreAgainstModel = StoreAgainstModel.TestCase
