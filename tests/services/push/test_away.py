"""Three nodes and their control plane on virtual time: one is cut off for hours while all work.

Both sides' databases and services are the real ones, as are what finds out that the links are gone and what
samples Δv; the wire between them is a call, and time jumps. AMBIENT_LAN_LONG=1 makes it twenty.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import trio
from trio.testing import MockClock

from ambientd.config.upstream import ControlAddress
from ambientd.core.connectivity import Answer
from ambientd.core.delta_v_account import Basis
from ambientd.core.records import AuditEntry, NewEvent, SessionChange, UsageRecord
from ambientd.core.trustedtime import Reading, Trusted
from ambientd.flows.connectivity import Noted, record_change
from ambientd.host.threads import run_inline
from ambientd.ports.controlplane import ControlAnswer
from ambientd.services.connectivity import ConnectivityService, Wanted
from ambientd.services.delta_v import DeltaVService
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import Connectivity, EventType, SessionStatus
from tests.api.fleet.kit import FleetApi, ListLog, plane_of, plane_socket
from tests.bothsides import Row, check_equal, missing
from tests.fakes.clock import TrioWallClock
from tests.fakes.log import ListLog as NodeLog
from tests.fakes.meters import FakeMeters
from tests.fakes.prober import ScriptedLinks
from tests.fakes.trustedtime import HandTime
from tests.pushkit import LOST, OK, AppTransport, NodeRig
from tests.store.fleet.kit import SqlitePlace
from tests.store.kit import new_session

HOURS = 20 if os.environ.get("AMBIENT_LAN_LONG") else 2
HOUR = 3600.0
NAMES = ("edge-1", "edge-2", "edge-3")
WORK_EVERY = 300.0  # between two sessions of a node
BEATS_AN_HOUR = 60
TRIES = 5  # a report may be due in the very moment


class TrioTime(HandTime):
    """The machine's clocks follow trio's."""

    def reading(self) -> Reading:
        ms = round(trio.current_time() * 1000)
        return Reading(wall_ms=self.wall_ms + ms, boot_ms=self.at_boot_ms + ms, boot_id="boot-1")


class WatchedWire(AppTransport):
    """Remembers how its node stood at the control plane when each report was answered."""

    def __init__(self, api: FleetApi, name: str) -> None:
        super().__init__(api)
        self._name = name
        self.statuses: list[str] = []

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        answer = await super().send(method, target, headers, body, seconds=seconds)
        if target.endswith("/heartbeat"):
            self.statuses.append(status_of(self.api, self._name))
        return answer


def status_of(api: FleetApi, name: str) -> str:
    return str(dict(api.rows("SELECT node_id, status FROM nodes"))[name])


class Away(NodeRig):
    """A node that works; `cut` and `heal` are its cable."""

    def __init__(self, store: SqliteStore, api: FleetApi, name: str, owner: Any) -> None:
        super().__init__(store, api, name, owner)
        self.meters = FakeMeters()
        self._sessions = 0
        self.busy = True

    def restart(self) -> None:
        self.wire: WatchedWire = WatchedWire(self.api, self.name)
        self.hand = TrioTime()
        self.watch = ConnectivityService(
            links=ScriptedLinks(),
            upstream=self,
            wanted=lambda: Wanted(
                interval=30,
                timeout=5,
                misses=3,
                hold=15,
                control=ControlAddress(host="cp", port=443, tls=True, path=""),
            ),
            record=self._record_change,
            clock=self.clock,
            passed=trio.current_time,
            jitter=lambda: 0.5,
            changed=lambda: None,
            log=NodeLog(),
        )
        self.links: Any = self.watch
        super().restart()
        self.watch.on_change(self.service.wake)

    async def ask_control(self, address: ControlAddress, *, ca_file: str | None, seconds: float) -> Answer:
        """See `ports.prober.Upstream`."""
        await trio.sleep(0.01)
        return Answer(self.wire.always == OK, "" if self.wire.always == OK else "connect timeout")

    async def reach(self, target: Any, *, seconds: float) -> Answer:
        """See `ports.prober.Upstream`; nothing is asked."""
        raise AssertionError(target)

    async def _record_change(self, noted: Noted) -> None:
        await record_change(self.store, noted)
        self.service.new()

    def _look(self) -> Trusted:
        reading = self.hand.reading()
        return Trusted(
            earliest_ms=reading.wall_ms,
            latest_ms=None,
            now_ms=reading.wall_ms,
            boot_ms=reading.boot_ms,
            boot_id=reading.boot_id,
        )

    async def run(self) -> None:
        """All that runs in a daemon, as far as this needs it, and its work."""
        delta_v = DeltaVService(
            store=self.store,
            meters=self.meters,
            clock=self.clock,
            basis=Basis(),
            interval=60.0,
            gateway=False,
            changed=lambda: None,
            log=NodeLog(),
        )
        async with trio.open_nursery() as nursery:
            for service in (self.service.run, self.watch.run, self.watch.record, delta_v.run, self._work_on):
                nursery.start_soon(service)

    async def _work_on(self) -> None:
        """One session after the other, each told of in steps, with an order in the audit."""
        while self.busy:
            self._sessions += 1
            name = f"{self.name}-{self._sessions:05}"
            await self.store.write(lambda tx, name=name: self._begin(tx, name))  # type: ignore[misc]
            self.service.new()
            await trio.sleep(WORK_EVERY / 2)
            await self.end(name)
            await trio.sleep(WORK_EVERY / 2)

    def _begin(self, tx: Any, name: str) -> None:
        now = self.clock.now()
        tx.ledger.add(new_session(name, started_at=now, status=SessionStatus.RUNNING))
        tx.ledger.append(name, [self._line(f"line {n}") for n in range(3)])
        tx.audit.append(AuditEntry(kind="control.spawn", at=now, actor="uid:0", subject=name))

    def _line(self, text: str) -> NewEvent:
        return NewEvent(event_type=EventType.MESSAGE, at=self.clock.now(), payload={"text": text})

    async def end(self, name: str) -> None:
        """A session ends well."""
        now = self.clock.now()
        change = SessionChange(status=SessionStatus.SUCCESS, ended_at=now, runtime_ms=1000)

        def work(tx: Any) -> None:
            tx.ledger.append(name, [self._line("the last line")])
            tx.usage.put(UsageRecord(session_id=name, total_tokens=7, computed_at=now))
            tx.ledger.change(name, change)

        await self.store.write(work)
        self.service.new()

    def sides(self, path: Path) -> Any:
        """How both databases are asked, and the node's id there."""

        def here(sql: str) -> list[Row]:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                return connection.execute(sql).fetchall()
            finally:
                connection.close()

        return here, self.api.rows, self.name


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[list[Away]]:
    """A control plane with its sweeps, and three nodes that have joined, all at work."""
    clock, log = TrioWallClock(), ListLog()
    (folder / "plane").mkdir()
    place = SqlitePlace(folder / "plane")
    with plane_socket() as sock:
        plane = plane_of(place, sock, clock, log)  # type: ignore[arg-type]
        plane.store._run_sync = run_inline
        async with trio.open_nursery() as nursery:
            await nursery.start(plane.store.run)
            await plane.store.wait_settled()
            for service in (plane.reports.run, plane.lookups.run, plane.sweeps.run):
                nursery.start_soon(service)
            api = FleetApi(plane, clock, log, place)  # type: ignore[arg-type]
            owner = await api.person("ann")
            nodes = []
            for name in NAMES:
                store = SqliteStore(folder / f"{name}.db", clock=clock, ballast=0, run_sync=run_inline)
                await nursery.start(store.run)
                await store.wait_settled()
                node = Away(store, api, name, owner)
                await node.join()
                nodes.append(node)
                nursery.start_soon(node.run)
            yield nodes
            for node in nodes:
                await node.store.close()
            await plane.store.close()
            nursery.cancel_scope.cancel()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: days of commits would wait for the disk."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as name:
        yield Path(name)


async def test_hours_away_lose_and_double_nothing(memory: Path, autojump_clock: MockClock) -> None:
    async with fleet(memory) as nodes:
        away = nodes[0]
        api = away.api
        await trio.sleep(900)
        inputs = {"agent_id": "echo", "prompt": "wait"}
        task = await away.owner.submit(task_type="agent_session", inputs=inputs)
        await trio.sleep(120)
        ((session,),) = api.rows("SELECT session_id FROM node_sessions WHERE task_id IS NOT NULL")
        told = api.rows("SELECT node_id, count(*) FROM node_heartbeat_history GROUP BY node_id")
        # No limit ends it: hours are longer than any that can be asked for.
        begun = await away.store.read(lambda tx: tx.assignments.get(task))
        assert begun is not None
        await away.write(lambda tx: tx.assignments.put(msgspec.structs.replace(begun, limit_ms=None)))
        # The cable is pulled.
        away.wire.always = LOST
        await trio.sleep(120)
        assert away.watch.state is Connectivity.OFFLINE
        sent = len(away.wire.sent)
        states = []
        for _ in range(HOURS * 4):
            await trio.sleep(900)
            states.append(status_of(api, away.name))
        assert set(states[1:]) == {"offline"}
        assert [status_of(api, name) for name in NAMES] == ["offline", "online", "online"]
        assert len(away.wire.sent) == sent  # nothing was tried in vain
        assert away.service.depth.waiting > HOURS * BEATS_AN_HOUR
        row = await away.store.read(lambda tx: tx.ledger.get(session))
        assert row is not None
        assert row.status is SessionStatus.QUEUED  # nobody has touched the work
        # It is plugged in again.
        away.wire.statuses.clear()
        away.wire.always = OK
        await trio.sleep(60)
        assert away.wire.statuses[0] == "online"  # by its first report
        assert away.sessions.ended == []
        assert (await away.owner.get(f"/tasks/{task}"))["status"] == "running"
        await away.end(session)
        for node in nodes:
            node.busy = False
        await trio.sleep(2 * WORK_EVERY)
        done = await away.owner.get(f"/tasks/{task}")
        assert (done["status"], done["former_assigned_nodes"]) == ("completed", [away.name])
        assert done["result"]["session_id"] == session
        for node in nodes:
            here, there, name = node.sides(memory / f"{node.name}.db")
            for _ in range(TRIES):
                await node.sync()
                if not missing(here, there, name):
                    break
            counts = check_equal(here, there, name)
            print(name, counts)
            assert counts["reports"] >= HOURS * BEATS_AN_HOUR
            assert counts["windows"] >= HOURS * 60
            assert counts["sessions"] >= HOURS * HOUR / WORK_EVERY
        assert dict(told)[away.name] < counts["reports"]
