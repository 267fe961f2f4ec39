"""A node beside a real control plane: both databases are real, the wire between them fails as told."""

import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ambientd.config.schema import AgentConfig
from ambientd.core.ed25519 import show_key
from ambientd.core.membership import Membership
from ambientd.core.peerbook import PeerBook
from ambientd.core.pushbodies import Condition, Meters
from ambientd.core.records import AuditEntry
from ambientd.core.roster import Ground as RosterGround
from ambientd.core.timefmt import to_ms
from ambientd.core.trustedtime import Trusted
from ambientd.flows.assignments import Work
from ambientd.flows.control import Controls
from ambientd.flows.leasebook import LeaseBook
from ambientd.flows.leases import Leases
from ambientd.flows.policycache import PolicyCache
from ambientd.flows.preferred_models import PreferredModels
from ambientd.flows.push import Pushing
from ambientd.flows.rosters import Rosters
from ambientd.flows.trustedtime import KeptTime
from ambientd.net.control_plane_http import ANSWER_MAX
from ambientd.ports.controlplane import ControlAnswer
from ambientd.ports.errors import UnavailableError
from ambientd.ports.http import Caller, Request
from ambientd.ports.store import Transaction
from ambientd.services.push import DeviceLink, PushParts, PushService, PushSettings
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import Connectivity
from tests.api.fleet.kit import FleetApi, Person, api_over
from tests.fakes.autonomy import FakeLinks, FakeTrustedClock
from tests.fakes.clock import CountingIds
from tests.fakes.identity import NamedIdentity, seed_of
from tests.fakes.log import ListLog
from tests.fakes.trustedtime import HandTime
from tests.store.fleet.kit import SqlitePlace
from tests.store.kit import StillClock

OK, LOST, UNHEARD = "ok", "lost", "unheard"
"""What the wire does with a request: brings it and its answer, loses it, loses the answer."""

Fault = str | ControlAnswer


class AppTransport:
    """Implements `ports.controlplane.ControlTransport` by the control plane's own application."""

    def __init__(self, api: FleetApi) -> None:
        self.api = api
        self.faults: list[Fault] = []
        self.always: Fault = OK
        self.sent: list[tuple[str, str]] = []
        self.bytes = 0

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        fault = self.faults.pop(0) if self.faults else self.always
        self.sent.append((method, target))
        self.bytes += len(body)
        await trio.lowlevel.checkpoint()
        if fault == LOST:
            raise UnavailableError("no connection")
        if isinstance(fault, ControlAnswer):
            return fault
        path, _, query = target.partition("?")
        pairs = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        lower = {name.lower(): value for name, value in headers.items()}
        if body:
            lower["content-type"] = "application/json"
        answer = await self.api.plane.application(
            Request(
                method=method,
                path=path,
                query=pairs,
                headers=lower,
                body=body,
                caller=Caller(transport="tcp", uid=None, pid=None, may_write=False, ip="192.0.2.7"),
                request_id="req-1",
                target=target,
            )
        )
        if fault == UNHEARD:
            raise UnavailableError("no answer in time")
        if len(answer.body) > ANSWER_MAX:
            raise UnavailableError(f"the answer is longer than {ANSWER_MAX} bytes")
        found = {name.lower(): value for name, value in answer.headers}
        return ControlAnswer(status=answer.status, headers=found, body=answer.body)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def paths(self, method: str = "") -> list[str]:
        """What was asked for, by the path behind the node's own."""
        return [t.split("/", 5)[-1] for m, t in self.sent if not method or m == method]


class HeldFile:
    """Implements `ports.controlplane.MembershipFile` in memory."""

    def __init__(self, current: Membership | None = None) -> None:
        self.current = current
        self.problem: str | None = None

    async def write(self, membership: Membership) -> None:
        await trio.lowlevel.checkpoint()
        self.current = membership

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()
        self.current = None


class FakeSessions:
    """Implements `ports.control.SessionControl`: nothing runs but what a test ends."""

    def __init__(self) -> None:
        self.woken = 0
        self.ended: list[str] = []

    def wake(self) -> None:
        self.woken += 1

    def holds(self, session_id: str) -> bool:
        return False

    async def end(self, session_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.ended.append(session_id)


class HeldTrust:
    """Implements `flows.peers.Trusting`: the book alone."""

    def __init__(self, own_key: str) -> None:
        self.book = PeerBook()
        self.own_key: str | None = own_key
        self.changes = 0

    def trust_changed(self, book: PeerBook) -> None:
        self.book = book
        self.changes += 1


class NodeRig:
    """One node: its database, and a push service that a test drives round by round."""

    def __init__(self, store: SqliteStore, api: FleetApi, name: str, owner: Person) -> None:
        self.store = store
        self.api = api
        self.owner = owner
        self.name = name
        self.identity = NamedIdentity(name)
        self.clock = api.clock
        self.wire = AppTransport(api)
        self.file = HeldFile()
        self.links = FakeLinks()
        self.log = ListLog()
        self.hand = HandTime()
        self.sessions = FakeSessions()
        self.outbox = 64 * 1024 * 1024
        self.interval = 60.0
        self.share = 0.5
        self.ids = CountingIds()
        self.agents: dict[str, AgentConfig] = {
            "echo": AgentConfig(id="echo", command=("cat",)),
        }
        self.wanted = True
        self.trusting = HeldTrust(show_key(self.identity.public_key))
        self.roster_refusals: list[str] = []
        self.rosters_wanted = True
        self._numbers = itertools.count(1)
        self.restart()

    # --- building

    def restart(self) -> None:
        """The daemon is another one: nothing in memory is left."""
        self.time = KeptTime(self.hand, released_ms=0)
        self.service = PushService(
            PushParts(
                store=self.store,
                clock=self.clock,
                file=self.file,
                links=self.links,
                build_link=self._link,
                build_work=self._work,
                policies=self._policies(),
                rosters=self.rosters(),
                look_at_time=self._look,
                condition=self._condition,
                settings=lambda: PushSettings(
                    interval=self.interval, pull_interval=300.0, outbox=self.outbox
                ),
                jitter=lambda: self.share,
                probe_soon=lambda: None,
                changed=lambda: None,
                log=self.log,
            )
        )

    def _look(self) -> Trusted:
        reading = self.hand.reading()
        return Trusted(
            earliest_ms=reading.wall_ms,
            latest_ms=None,
            now_ms=reading.wall_ms,
            boot_ms=reading.boot_ms,
            boot_id=reading.boot_id,
        )

    def _link(self, membership: Membership) -> DeviceLink:
        return DeviceLink(
            membership,
            transport=self.wire,
            identity=self.identity,
            store=self.store,
            timeout=lambda: 10.0,
        )

    def rosters(self) -> Rosters:
        """What takes rosters; whom this node trusts is in `self.trusting`."""
        self.intake = Rosters(
            store=self.store,
            clock=self.clock,
            peers=self.trusting,
            ground=self._roster_ground,
            now_ms=lambda: to_ms(self.clock.now()),
            wanted=lambda: self.rosters_wanted,
            refused=self.roster_refusals.append,
            changed=lambda: None,
        )
        return self.intake

    def _roster_ground(self) -> RosterGround:
        current = self.file.current
        if current is None:
            return RosterGround(network="default", owner="", issuers=frozenset())
        return RosterGround(network=current.network, owner=current.owner_id, issuers=current.issuer_keys)

    def _policies(self) -> PolicyCache:
        return PolicyCache(
            store=self.store,
            clock=FakeTrustedClock(self.clock.now()),
            links=self.links,
            network=lambda: "default" if self.file.current is None else self.file.current.network,
            issuers=lambda: frozenset() if self.file.current is None else self.file.current.issuer_keys,
            max_items=1_000,
            changed=lambda: None,
            stale=lambda: None,
        )

    def _work(self, pushing: Pushing) -> Work:
        book = LeaseBook(store=self.store, time=self.time, clock=self.clock)
        self.leases = Leases(
            book,
            ground=self._lease_ground,
            links=self.links,
            policies=self._policies(),
            changed=lambda: None,
            wake=lambda: None,
        )
        controls = Controls(
            store=self.store,
            sessions=self.sessions,
            agents=lambda: self.agents,
            clock=self.clock,
            ids=self.ids,
            models=PreferredModels(),
        )
        return Work(
            pushing=pushing,
            controls=controls,
            leases=self.leases,
            wanted=lambda: self.wanted,
            picked_up=lambda: None,
            look_at_time=self._look,
        )

    def _lease_ground(self) -> Any:
        from ambientd.core.lease import Ground

        current = self.file.current
        return Ground(
            network="default" if current is None else current.network,
            node=self.identity.public_key,
            issuers=frozenset() if current is None else current.lease_issuer_keys,
        )

    async def _condition(self) -> Condition:
        await trio.lowlevel.checkpoint()
        return Condition(state=Connectivity.ONLINE, health_score=100.0, meters=Meters(cpu=1.5))

    # --- what a test does

    async def join(self) -> None:
        """Enrols as the owner's node, past the node's own flow."""
        joined = await self.owner.join(self.name, seed_of(self.name))
        answer = joined.answer
        self.file.current = Membership(
            url="http://127.0.0.1:7443",
            node_id=self.name,
            owner_id=answer["owner_id"],
            credential_id=answer["credential_id"],
            device_token=answer["device_token"],
            incarnation=answer["incarnation"],
            network=answer["network"],
            issuers=tuple(answer["issuers"]),
            lease_issuers=tuple(answer["lease_issuers"]),
            public_key=show_key(self.identity.public_key),
            joined_at="2026-11-20T12:00:00.000Z",
        )

    def later(self, seconds: float) -> None:
        """Time passes for both sides."""
        self.api.later(seconds)
        self.hand.run(round(seconds * 1000))

    async def sample(self) -> None:
        """A report is kept, as at every beat while the node is away."""
        await self.service._enter()
        await self.service._sample()

    async def sync(self) -> Any:
        """One round; never raises for what the wire does."""
        return await self.service.sync()

    def refusal(self) -> str | None:
        return self.service.refused

    async def drain(self) -> None:
        """Rounds without faults until everything is told."""
        self.wire.faults.clear()
        self.wire.always = OK
        for _ in range(40):
            result = await self.sync()
            assert result is not None
            depth = await self.service.count()
            if result.reason is None and depth.waiting == 0:
                return
        raise AssertionError((result, depth))

    async def write(self, work: Callable[[Transaction], Any]) -> Any:
        return await self.store.write(work)

    async def record(self, count: int = 1) -> None:
        """Audit records."""

        def work(tx: Transaction) -> None:
            for _ in range(count):
                tx.audit.append(
                    AuditEntry(
                        kind="test", at=self.clock.now(), actor="test", subject=f"n{next(self._numbers)}"
                    )
                )

        await self.store.write(work)

    # --- both sides

    async def here(self) -> dict[str, Any]:
        """All that the node has to tell."""
        sql = "SELECT session_id, status, runtime_ms, task_title, error_code FROM session_ledger ORDER BY 1"
        events = "SELECT session_id, seq, event_type, payload_json FROM session_events ORDER BY 1, 2"
        usage = "SELECT session_id, total_tokens, cost_usd FROM session_usage ORDER BY 1"
        audit = "SELECT seq, hash FROM audit_records ORDER BY seq"

        def work(tx: Any) -> dict[str, Any]:
            ask = tx._connection.execute
            return {
                "sessions": ask(sql).fetchall(),
                "events": _decoded(ask(events).fetchall()),
                "usage": ask(usage).fetchall(),
                "audit": ask(audit).fetchall(),
            }

        return await self.store.read(work)

    def there(self) -> dict[str, Any]:
        """All that the control plane has of it."""
        session = "session_id, status, runtime_ms, task_title, error_code FROM node_sessions"
        event = "session_id, seq, event_type, payload FROM node_session_events"
        return {
            "sessions": self._of(session, "session_id"),
            "events": _decoded(self._of(event, "session_id, seq")),
            "usage": self._of("session_id, total_tokens, cost_usd FROM node_usage", "session_id"),
            "audit": self._of("seq, hash FROM node_audit", "seq"),
        }

    def _of(self, what: str, order: str) -> list[tuple[Any, ...]]:
        return self._rows(f"SELECT {what} WHERE node_id = '{self.name}' ORDER BY {order}")

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.api.rows(sql)]

    def reports_there(self) -> list[int]:
        """Numbers of the reports that the control plane has, in the order of their arrival."""
        rows = self._of("report_seq FROM node_heartbeat_history", "report_seq")
        return [row[0] for row in rows if row[0] is not None]


def _decoded(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(*row[:3], json.loads(row[3])) for row in rows]


@asynccontextmanager
async def node_beside(folder: Path, *, name: str = "edge-1", joined: bool = True) -> AsyncIterator[NodeRig]:
    """A node that has joined a control plane of its own."""
    (folder / "node").mkdir(exist_ok=True)
    (folder / "plane").mkdir(exist_ok=True)
    async with (
        api_over(SqlitePlace(folder / "plane")) as plane,
        store_at(folder / "node" / "ambient.db", plane.clock) as store,
    ):
        rig = NodeRig(store, plane, name, await plane.person("ann"))
        if joined:
            await rig.join()
        yield rig


@asynccontextmanager
async def store_at(path: Path, clock: StillClock) -> AsyncIterator[SqliteStore]:
    """A node's open database."""
    store = SqliteStore(path, clock=clock, ballast=0, busy_timeout=1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        yield store
        await store.close()
        nursery.cancel_scope.cancel()
