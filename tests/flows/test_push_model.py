"""Model-based: whatever is lost, crashes or is put back, every record arrives, and none twice."""

import copy
import json
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import apsw
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ambientd.core.outbox import Reply
from ambientd.core.records import AuditEntry, SessionChange, UsageRecord
from ambientd.flows import push
from ambientd.flows.push import Pushing
from ambientd.ports.errors import UnavailableError
from ambientd.store.search import index_noted
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import SessionStatus
from ambientd.wire.fleet_api_messages import HeartbeatAnswer, NodeInfo, ReportsAnswer
from ambientd.wire.fleet_enums import NodeStatus
from ambientd.wire.fleet_push_messages import (
    AuditAnswer,
    AuditPush,
    LedgerPush,
    StreamAnswer,
    StreamsAnswer,
    StreamView,
)
from ambientd.wire.outbox_enums import OutboxStream
from tests.store.kit import AT, StillClock, in_memory, new_event, new_session

T = TypeVar("T")
GENESIS = "0" * 64
OK, LOST, UNHEARD, BUSY = "ok", "lost", "unheard", "busy"
FAULTS = st.sampled_from([OK, OK, LOST, UNHEARD, BUSY])
STREAMS = st.sampled_from(["ledger", "ledger", "ledger", "audit", "reports", "beat", "place"])
SMALLS = st.sampled_from([0, 0, 0, 5, 6, 7, 8, 9])  # how often batches were halved
# How many sequences of steps are tried; more by hand: AMBIENT_MODEL_RUNS=2000.
RUNS = int(os.environ.get("AMBIENT_MODEL_RUNS", "60"))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    raise AssertionError("it waited for something")


class MemoryStore:
    """A node's real repositories over a database in memory."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    async def write(self, work: Callable[[SqliteTransaction], T]) -> T:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            value = work(SqliteTransaction(self._connection, AT))
            index_noted(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
        return value

    async def read(self, work: Callable[[SqliteTransaction], T]) -> T:
        return work(SqliteTransaction(self._connection, AT))


class Ideal(msgspec.Struct):
    """What an ideal control plane keeps of a node."""

    reports: dict[int, Any] = {}
    audit: list[str] = []
    ledger_acked: int = 0
    sessions: dict[str, tuple[int, Any]] = {}
    events: dict[tuple[str, int], Any] = {}
    usage: dict[str, Any] = {}


class IdealPlane:
    """Implements `ports.controlplane.ControlCalls`; the wire fails as told."""

    def __init__(self) -> None:
        self.kept = Ideal()
        self.fault = OK
        self.doubled: list[str] = []

    async def read(self, target: str, answer: type[Any]) -> Any:
        return self._carry(lambda: self._read(target))

    async def change(self, method: str, target: str, body: Any, answer: type[Any]) -> Any:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._carry(lambda: self._change(target.rpartition("/")[2], raw))

    def _carry(self, do: Callable[[], Any]) -> Any:
        fault, self.fault = self.fault, OK
        if fault == LOST:
            raise UnavailableError("lost")
        if fault == BUSY:
            return Reply(503, retry_after=1.0)
        found = do()
        if fault == UNHEARD:
            raise UnavailableError("unheard")
        return found

    def _read(self, target: str) -> Any:
        if target.endswith("/streams"):
            kept = self.kept
            places = {"ledger": kept.ledger_acked, "audit": len(kept.audit)}
            return StreamsAnswer([StreamView(name, seq, "") for name, seq in places.items()])
        fields: dict[str, Any] = dict.fromkeys(NodeInfo.__struct_fields__)
        return NodeInfo(**fields | {"report_seq": max(self.kept.reports, default=0)})

    def _change(self, stream: str, raw: bytes) -> Any:
        match stream:
            case "heartbeat":
                return self._heartbeat(raw)
            case "reports":
                return self._reports(raw)
            case "audit":
                return self._audit(msgspec.json.decode(raw, type=AuditPush))
            case "ledger":
                return self._ledger(msgspec.json.decode(raw, type=LedgerPush))
        raise AssertionError(stream)

    def _report(self, said: Any) -> bool:
        before = self.kept.reports.setdefault(said["seq"], said)
        if before != said:
            self.doubled.append(f"report {said['seq']} is two reports")
        return before is said

    def _heartbeat(self, raw: bytes) -> Any:
        known = max(self.kept.reports, default=0)
        self._report(json.loads(raw))
        fields: dict[str, Any] = dict.fromkeys(HeartbeatAnswer.__struct_fields__)
        return HeartbeatAnswer(**fields | {"assigned_tasks": [], "known_report_seq": known})

    def _reports(self, raw: bytes) -> Any:
        found = json.loads(raw)["reports"]
        numbers = [one["seq"] for one in found]
        assert numbers == sorted(set(numbers))
        taken = sum(self._report(one) for one in found)
        return ReportsAnswer(numbers[-1], taken, len(found) - taken, NodeStatus.ONLINE, 0, [])

    def _audit(self, body: AuditPush) -> Any:
        kept = self.kept.audit
        head = kept[-1] if kept else GENESIS
        old = [record for record in body.records if record.seq <= len(kept)]
        new = body.records[len(old) :]
        same = [record.hash for record in old] == [kept[record.seq - 1] for record in old]
        if not same or (new and (new[0].seq != len(kept) + 1 or new[0].prev_hash != head)):
            return Reply(409, "CONFLICT", "", {"head_seq": str(len(kept)), "head_hash": head})
        kept += [record.hash for record in new]
        return AuditAnswer(len(kept), kept[-1] if kept else GENESIS, len(new), len(old))

    def _ledger(self, body: LedgerPush) -> Any:
        kept = self.kept
        if body.after > kept.ledger_acked:
            return Reply(409, "CONFLICT", "", {"after": str(kept.ledger_acked)})
        duplicates = 0
        for record in body.records:
            if record.seq <= kept.ledger_acked:
                duplicates += 1
                continue
            self._take(record)
        kept.ledger_acked = max([kept.ledger_acked, *(record.seq for record in body.records)])
        return StreamAnswer(kept.ledger_acked, len(body.records) - duplicates, duplicates, [])

    def _take(self, record: Any) -> None:
        kept = self.kept
        seq, _ = kept.sessions.get(record.session_id, (0, None))
        if record.session is not None and record.seq > seq:
            said = msgspec.to_builtins(record.session)
            kept.sessions[record.session_id] = record.seq, said
        for event in record.events:
            said = msgspec.to_builtins(event)
            if kept.events.setdefault((record.session_id, event.seq), said) != said:
                self.doubled.append(f"event {event.seq} of {record.session_id} is two events")
        if record.usage is not None and record.seq > seq:
            kept.usage[record.session_id] = msgspec.to_builtins(record.usage)


class OutboxMachine(RuleBasedStateMachine):
    """Steps of a node, of its control plane, and of the wire between them."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = in_memory()
        self.store = MemoryStore(self.connection)
        self.plane = IdealPlane()
        self.clock = StillClock()
        self.sessions: list[str] = []
        self.running: set[str] = set()
        self.done: set[int] = set()
        self.sampled: set[int] = set()
        self.known_reports: set[int] = set()  # that were kept there once, and may be lost with it
        self.backup: Ideal | None = None
        self.aligned = False
        self.minute = 0
        self._write(lambda tx: tx.outbox.join("m"))

    def _write(self, work: Callable[[SqliteTransaction], Any]) -> Any:
        return run(self.store.write(work))

    @property
    def pushing(self) -> Pushing:
        return Pushing(store=self.store, calls=self.plane, clock=self.clock, base="/n")  # type: ignore[arg-type]

    # --- the node works

    def add_session(self, events: int) -> None:
        name = f"ses_{len(self.sessions):03}"
        self.sessions.append(name)
        self.running.add(name)

        def work(tx: SqliteTransaction) -> None:
            tx.ledger.add(new_session(name, second=len(self.sessions), status=SessionStatus.RUNNING))
            tx.ledger.append(name, [new_event(f"{name} {n}") for n in range(events)])

        self._write(work)

    @rule(count=st.integers(3, 9), events=st.integers(0, 3))
    def add_sessions(self, count: int, events: int) -> None:
        for _ in range(count):
            self.add_session(events)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), events=st.integers(1, 12))
    def add_events(self, data: st.DataObject, events: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        at = len(self.plane.kept.events)
        self._write(lambda tx: tx.ledger.append(name, [new_event(f"{at} {n}") for n in range(events)]))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.integers(0, 9))
    def put_usage(self, data: st.DataObject, tokens: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self._write(
            lambda tx: tx.usage.put(UsageRecord(session_id=name, total_tokens=tokens, computed_at=AT))
        )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end_session(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(name)
        change = SessionChange(status=SessionStatus.SUCCESS, ended_at=AT, runtime_ms=1)
        self._write(lambda tx: tx.ledger.change(name, change))

    @rule(count=st.integers(1, 3))
    def record(self, count: int) -> None:
        def work(tx: SqliteTransaction) -> None:
            for n in range(count):
                tx.audit.append(AuditEntry(kind="k", at=AT, actor="a", subject=str(n)))

        self._write(work)

    @rule()
    def sample(self) -> None:
        self.minute += 1
        body = msgspec.json.encode({"at": self.minute})
        done = sorted(self.done)
        seq = self._write(
            lambda tx: push.keep_report(tx, self.minute * 60_000, 1, body, done=done, bytes_max=10**6)
        ).seq
        self.done.clear()
        assert seq not in self.sampled
        self.sampled.add(seq)

    # --- and tells

    def _step(self, step: Callable[[], Coroutine[Any, Any, Any]], fault: str) -> Any:
        if not self.aligned:
            run(push.align(self.pushing))
            self.aligned = True
        self.plane.fault = fault
        try:
            return run(step())
        except UnavailableError:
            return None
        finally:
            self.plane.fault = OK

    @rule(tells=st.lists(st.tuples(STREAMS, FAULTS, SMALLS), min_size=1, max_size=8))
    def tell(self, tells: list[tuple[str, str, int]]) -> None:
        for stream, fault, small in tells:
            getattr(self, f"_tell_{stream}")(fault, msgspec.structs.replace(self.pushing, small=small))

    def _tell_place(self, fault: str, pushing: Pushing) -> None:
        self._step(lambda: push.align(pushing), fault)

    def _tell_beat(self, fault: str, pushing: Pushing) -> None:
        report = run(self.store.read(lambda tx: tx.outbox.newest_report()))
        if report is None or report.seq in self.done:
            return
        found = self._step(lambda: push.send_report(pushing, report), fault)
        if isinstance(found, HeartbeatAnswer):
            if run(push.note_put_back(pushing, found.known_report_seq or 0)):
                self.aligned = False
                self.done.clear()
            self.done.add(report.seq)

    def _tell_ledger(self, fault: str, pushing: Pushing) -> None:
        self._step(lambda: push.send_ledger(pushing), fault)

    def _tell_audit(self, fault: str, pushing: Pushing) -> None:
        self._step(lambda: push.send_audit(pushing), fault)

    def _tell_reports(self, fault: str, pushing: Pushing) -> None:
        self._step(lambda: push.send_old_reports(pushing, frozenset(self.done)), fault)

    # --- what goes wrong

    @rule()
    def crash(self) -> None:
        """The node's process dies: only what was committed is left."""
        self.done.clear()
        self.aligned = False

    @rule()
    def back_up(self) -> None:
        self.backup = copy.deepcopy(self.plane.kept)

    @precondition(lambda self: self.backup is not None)
    @rule()
    def put_back(self) -> None:
        """The control plane's database is an older one; the node hears of it by and by."""
        assert self.backup is not None
        self.known_reports |= self.plane.kept.reports.keys()
        self.plane.kept = copy.deepcopy(self.backup)

    # --- what must hold

    @invariant()
    def nothing_is_two_things(self) -> None:
        assert self.plane.doubled == []

    @invariant()
    def what_is_there_is_a_beginning_of_what_is_here(self) -> None:
        hashes = [row[0] for row in self.connection.execute("SELECT hash FROM audit_records ORDER BY seq")]
        assert self.plane.kept.audit == hashes[: len(self.plane.kept.audit)]

    def teardown(self) -> None:
        """The wire is whole again: everything arrives."""
        self.known_reports |= self.plane.kept.reports.keys()
        self.crash()
        for _ in range(500):
            assert run(push.align(self.pushing)).reply is None
            steps = (push.send_audit, push.send_ledger)
            moved = [run(step(self.pushing)) for step in steps]
            moved.append(run(push.send_old_reports(self.pushing, frozenset())))
            if not any(step.moved or step.again for step in moved):
                break
        self._compare()

    def _compare(self) -> None:
        kept = self.plane.kept
        assert self.plane.doubled == []
        rows = self.connection.execute
        assert kept.audit == [row[0] for row in rows("SELECT hash FROM audit_records ORDER BY seq")]
        here = {row[0]: row[1] for row in rows("SELECT session_id, status FROM session_ledger")}
        assert {name: said["status"] for name, (_, said) in kept.sessions.items()} == here
        events = {(row[0], row[1]) for row in rows("SELECT session_id, seq FROM session_events")}
        assert set(kept.events) == events
        usage = {row[0]: row[1] for row in rows("SELECT session_id, total_tokens FROM session_usage")}
        assert {name: said["total_tokens"] for name, said in kept.usage.items()} == usage
        # Reports lie nowhere else: what the control plane had and lost with its database is lost.
        assert self.sampled <= kept.reports.keys() | self.known_reports
        assert kept.reports.keys() <= self.sampled
        depth = run(push.depth(self.store, self.clock))  # type: ignore[arg-type]
        assert depth.waiting == 0
        dropped = {one.stream: one.dropped for one in depth.streams}
        if not self.sampled - kept.reports.keys():
            assert dropped[OutboxStream.REPORTS] == 0
        del dropped[
            OutboxStream.REPORTS
        ]  # of a control plane that is put back again and again an upper bound
        assert set(dropped.values()) == {0}


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(
    max_examples=RUNS, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
