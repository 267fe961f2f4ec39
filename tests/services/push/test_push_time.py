"""When the node speaks: at each beat, soon after news, after growing pauses, not before it may."""

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from ambientd.core.records import AuditEntry
from ambientd.core.trustedtime import Reading, Trusted
from ambientd.host.threads import run_inline
from ambientd.ports.controlplane import ControlAnswer
from ambientd.ports.errors import UnavailableError
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_api_messages import (
    HeartbeatAnswer,
    ItemsAnswer,
    NodeInfo,
    ReconcileAnswer,
    ReportsAnswer,
)
from ambientd.wire.fleet_enums import NodeStatus
from ambientd.wire.fleet_push_messages import AuditAnswer, StreamsAnswer, StreamView
from tests.core.test_membership import membership
from tests.fakes.clock import EPOCH, TrioWallClock
from tests.pushkit import NodeRig
from tests.store.kit import ingest


class PlainPlane:
    """Implements `ports.controlplane.ControlTransport`: takes everything, unless it is told not to."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str, str]] = []
        self.trouble: ControlAnswer | None = None
        self.away = False
        self.reports: list[int] = []
        self.heads: list[int | None] = []
        self.acked: dict[str, int] = {}

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, seconds: float
    ) -> ControlAnswer:
        what = target.partition("?")[0].rpartition("/")[2]
        self.asked.append((round(trio.current_time(), 3), method, what))
        await trio.lowlevel.checkpoint()
        if self.away:
            raise UnavailableError("no connection")
        if self.trouble is not None:
            return self.trouble
        return ControlAnswer(status=200, headers={}, body=msgspec.json.encode(self._answer(what, body)))

    def _answer(self, what: str, body: bytes) -> Any:
        match what:
            case "heartbeat":
                said, known = msgspec.json.decode(body), max(self.reports, default=0)
                self.reports.append(said["seq"])
                self.heads.append(said.get("audit_head_seq"))
                fields: dict[str, Any] = dict.fromkeys(HeartbeatAnswer.__struct_fields__, "")
                facts = {"node_status": "online", "assigned_tasks": [], "duplicate": False, "active_tasks": 0}
                return {
                    **fields,
                    **facts,
                    "health_score": 1.0,
                    "assigned_task_ids": [],
                    "internet_active": False,
                    "known_report_seq": known,
                }
            case "reports":
                found = [one["seq"] for one in msgspec.json.decode(body)["reports"]]
                self.reports += found
                return ReportsAnswer(found[-1], len(found), 0, NodeStatus.ONLINE, 0, [])
            case "streams":
                return StreamsAnswer([StreamView(name, seq, "") for name, seq in self.acked.items()])
            case "reconcile":
                return ReconcileAnswer([], [])
            case "policies" | "leases":
                return ItemsAnswer(0, False, [])
            case "audit":
                last = msgspec.json.decode(body)["records"][-1]
                self.acked[what] = last["seq"]
                return AuditAnswer(last["seq"], last["hash"], 1, 0)
            case "ledger":
                last = msgspec.json.decode(body)["records"][-1]
                self.acked[what] = last["seq"]
                return {"acked_seq": last["seq"], "taken": 1, "duplicates": 0, "left_out": []}
        return {**_node(), "report_seq": max(self.reports, default=0)}

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def times(self, what: str) -> list[float]:
        return [at for at, _, name in self.asked if name == what]


def _node() -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(NodeInfo.__struct_fields__)
    texts = ("node_id", "region", "owner_id", "registered_at", "last_seen", "updated_at")
    return {
        **fields,
        **dict.fromkeys(texts, "x"),
        "node_type": "any",
        "capabilities": {"bandwidth_mbps": 1.0, "cpu_cores": 1, "memory_gb": 1.0, "gpu_available": False},
        "health_score": 1.0,
        "status": "online",
        "report_interval_sec": 60,
        "report_seq": 0,
        "incarnation": 1,
    }


class _Clocks:
    """Stands for the control plane's test clock, so that the rig's two clocks are one."""

    def __init__(self, clock: TrioWallClock) -> None:
        self.clock = clock


class TimedRig(NodeRig):
    """A node on virtual time; `start` and `stop` stand for the daemon."""

    def __init__(self, store: SqliteStore, clock: TrioWallClock, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        super().__init__(store, _Clocks(clock), "edge-1", None)  # type: ignore[arg-type]
        self.wire: Any = PlainPlane()
        self.file.current = membership(url="http://127.0.0.1:1")
        self._scope = trio.CancelScope()

    def _look(self) -> Trusted:
        ms = round(trio.current_time() * 1000)
        reading = Reading(wall_ms=ms, boot_ms=ms, boot_id="b")
        return Trusted(
            earliest_ms=ms, latest_ms=None, now_ms=ms, boot_ms=reading.boot_ms, boot_id=reading.boot_id
        )

    def start(self) -> None:
        self._scope = trio.CancelScope()
        self.restart()
        self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self._scope:
            await self.service.run()

    async def stop(self) -> None:
        self._scope.cancel()
        await trio.sleep(0.001)

    def link(self, up: bool) -> None:
        """The links' state changes."""
        self.links.state = Connectivity.ONLINE if up else Connectivity.OFFLINE
        self.service.wake()


@asynccontextmanager
async def timed(folder: Path) -> AsyncIterator[TimedRig]:
    clock = TrioWallClock()
    store = SqliteStore(folder / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        rig = TimedRig(store, clock, nursery)
        rig.start()
        await trio.sleep(0.1)
        yield rig
        await rig.stop()
        await store.close()
        nursery.cancel_scope.cancel()


async def test_a_report_goes_at_each_interval(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with timed(tmp_path) as rig:
        await trio.sleep(605)
        times = rig.wire.times("heartbeat")
        assert len(times) == 11
        gaps = [round(b - a) for a, b in itertools.pairwise(times)]
        assert gaps == [60] * 10
        assert rig.wire.reports == list(range(1, 12))
        # In between there is nothing to say, and nothing is said.
        assert {name for _, _, name in rig.wire.asked if name not in ("heartbeat", "policies", "leases")} == {
            "edge-1",
            "streams",
            "reconcile",
        }
        assert len(rig.wire.times("reconcile")) == 1
        assert len(rig.wire.times("policies")) == 3  # every five minutes


async def test_the_newest_audit_record_is_told_when_it_is_another_and_now_and_then(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with timed(tmp_path) as rig:
        await rig.record(2)
        rig.service.new()
        await trio.sleep(420)
        assert rig.wire.heads == [None, 2, None, None, None, None, 2, None]  # fetching policies at 300
        await rig.record()
        await trio.sleep(130)
        assert rig.wire.heads[8:] == [3, None]
        rig.wire.away = True
        await trio.sleep(60)
        rig.wire.away = False
        await trio.sleep(300)
        assert 3 in rig.wire.heads[10:]
        assert len(rig.wire.reports) == len(set(rig.wire.reports))


async def test_news_goes_out_soon_and_a_burst_goes_together(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with timed(tmp_path) as rig:
        await trio.sleep(10)
        for n in range(20):
            await rig.write(lambda tx: ingest(tx, f"ses_{n}", second=n))  # noqa: B023 - done at once
            rig.service.new()
            await trio.sleep(0.05)
        began = trio.current_time()
        await trio.sleep(10)
        times = rig.wire.times("ledger")
        assert len(times) == 1
        assert times[0] - began < 2.5
        assert rig.service.depth.waiting == 0


async def test_while_the_link_is_down_reports_wait_and_nothing_is_tried(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with timed(tmp_path) as rig:
        rig.link(up=False)
        asked = len(rig.wire.asked)
        await trio.sleep(3600)
        assert len(rig.wire.asked) == asked
        assert rig.service.depth.waiting == 60
        rig.link(up=True)
        await trio.sleep(5)
        first = [name for _, _, name in rig.wire.asked[asked:]]
        assert first[0] == "heartbeat"  # the node is back by its first word
        assert "reports" in first
        assert rig.service.depth.waiting == 0
        assert sorted(rig.wire.reports) == list(range(1, len(rig.wire.reports) + 1))
        assert len(rig.wire.reports) == len(set(rig.wire.reports)) == 61


async def test_pauses_grow_while_nobody_answers(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with timed(tmp_path) as rig:
        rig.wire.away = True
        rig.share = 0.999
        await trio.sleep(1800)
        times = [at for at, _, _ in rig.wire.asked if at > 1]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert max(gaps) <= 301
        assert gaps == sorted(gaps)[: len(gaps)] or max(gaps[:3]) < min(gaps[-3:])
        assert len(times) < 20
        rig.wire.away = False
        await trio.sleep(305)
        assert rig.service.depth.waiting == 0
        assert rig.service.trouble is None


async def test_retry_after_is_kept_to_whatever_else_happens(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with timed(tmp_path) as rig:
        await trio.sleep(30)
        rig.wire.trouble = ControlAnswer(status=429, headers={"retry-after": "600"}, body=b"")
        await trio.sleep(40)
        asked = len(rig.wire.asked)
        for _ in range(10):
            rig.service.new()
            rig.link(up=False)
            rig.link(up=True)
            await trio.sleep(50)
        assert len(rig.wire.asked) == asked
        rig.wire.trouble = None
        await trio.sleep(200)
        assert rig.service.depth.waiting == 0


async def test_a_revoked_credential_is_not_worn_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with timed(tmp_path) as rig:
        body = b'{"error":{"code":"NOT_AUTHENTICATED","message":"revoked","details":[],"requestId":"r"}}'
        rig.wire.trouble = ControlAnswer(status=401, headers={}, body=body)
        await trio.sleep(100)
        asked = len(rig.wire.asked)
        assert rig.service.refused
        await trio.sleep(1700)
        assert len(rig.wire.asked) == asked
        assert rig.log.events().count("control_plane.refused") == 1
        rig.wire.trouble = None
        await trio.sleep(5500)  # it may have been a mistake of the control plane's
        assert rig.refusal() is None
        assert rig.service.depth.waiting == 0


async def test_a_restart_goes_on_with_what_waits_and_with_higher_numbers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with timed(tmp_path) as rig:
        rig.link(up=False)
        await trio.sleep(600)
        await rig.stop()
        rig.start()
        await trio.sleep(600)
        rig.link(up=True)
        await trio.sleep(10)
        numbers = rig.wire.reports
        assert len(numbers) == len(set(numbers))
        assert sorted(numbers) == list(range(1, len(numbers) + 1))


async def test_a_node_without_a_membership_has_no_timer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with timed(tmp_path) as rig:
        rig.file.current = None
        rig.service.wake()
        await trio.sleep(1)
        asked, commits = len(rig.wire.asked), rig.store.commits
        await trio.sleep(86_400)
        assert (len(rig.wire.asked), rig.store.commits) == (asked, commits)
        rig.file.current = membership(url="http://127.0.0.1:1", credential_id="c9")
        rig.service.wake()
        await trio.sleep(5)
        assert len(rig.wire.asked) > asked


async def test_a_quiet_hour_costs_few_writes(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with timed(tmp_path) as rig:
        await trio.sleep(100)
        before = rig.store.commits
        await trio.sleep(3600)
        assert rig.store.commits - before <= 61  # one for each report, and nothing else


async def test_a_node_that_always_has_something_to_tell_still_hears(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What comes down (a revocation, work that is taken away) does not wait for a quiet moment."""
    async with timed(tmp_path) as rig:
        told = rig.wire.send

        async def send(*arguments: Any, **options: Any) -> ControlAnswer:
            answer: ControlAnswer = await told(*arguments, **options)
            await trio.sleep(3)  # a distant control plane
            await rig.write(_one_more)
            rig.service.new()
            return answer

        rig.wire.send = send
        await rig.write(_one_more)
        await trio.sleep(900)
        pulls = rig.wire.times("leases")
        assert max(b - a for a, b in itertools.pairwise([*pulls, trio.current_time()])) < 400
        assert len(rig.wire.times("heartbeat")) in range(13, 18)
        with trio.fail_after(60):
            result = await rig.sync()
        assert result.reason


def _one_more(tx: Any) -> None:
    entry = AuditEntry(kind="test", at=EPOCH, actor="test", subject="more")
    tx.audit.append(entry)
