"""When Δv is sampled, what it counts while clocks jump and disks fill up, how it goes on after a restart."""

import itertools
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ambientd.api.delta_v import delta_v_routes
from ambientd.api.router import build_application
from ambientd.core.delta_v import Parameters
from ambientd.core.delta_v_account import Account, Basis
from ambientd.core.records import RunRecord, SessionChange
from ambientd.core.target import Target, parse_target
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreFullError
from ambientd.ports.http import Request
from ambientd.services.delta_v import PENDING_MAX, DeltaVService
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from ambientd.wire.routes import DELTA_V
from tests.api.kit import OPERATOR
from tests.fakes.clock import EPOCH, TrioWallClock
from tests.fakes.http_log import ListHttpLog
from tests.fakes.log import ListLog
from tests.fakes.meters import FakeMeters
from tests.fakes.store import TroubledStore
from tests.store.kit import new_session

# 100 W, w = 0, v = 0, M = 4 GiB: 100 / 4 · e^-0.1 each second.
PER_SEC = 25 * math.exp(-0.1)


class Rig:
    """A service on virtual time over a real database; `start` and `stop` stand for the daemon."""

    def __init__(self, store: SqliteStore, nursery: trio.Nursery, clock: TrioWallClock) -> None:
        self.store = TroubledStore(store)
        self.clock = clock
        self.meters = FakeMeters()
        self.log = ListLog()
        self.changes = 0
        self.basis = Basis()
        self.interval = 60.0
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self.service = self._make()

    def _make(self) -> DeltaVService:
        return DeltaVService(
            store=self.store,
            meters=self.meters,
            clock=self.clock,
            basis=self.basis,
            interval=self.interval,
            gateway=True,
            changed=self._changed,
            log=self.log,
        )

    def _changed(self) -> None:
        self.changes += 1

    def start(self) -> None:
        self.service, self._scope = self._make(), trio.CancelScope()
        self._nursery.start_soon(self._run, self.service, self._scope)

    async def _run(self, service: DeltaVService, scope: trio.CancelScope) -> None:
        with scope:
            await service.run()

    async def stop(self) -> None:
        self._scope.cancel()
        await trio.sleep(0.001)

    @property
    def account(self) -> Account:
        assert self.service.account is not None
        return self.service.account

    async def kept(self) -> Account | None:
        return await self.store.read(lambda tx: tx.delta_v.account())

    async def ask(self, query: str = "", *, status: int = 200) -> Any:
        application = build_application(
            delta_v_routes(self.service, store=self.store, clock=self.clock),
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="ambient-admin",
        )
        found = parse_target((DELTA_V + query).encode())
        assert isinstance(found, Target)
        answer = await application(
            Request(
                method="GET",
                path=found.path,
                query=found.query,
                headers={},
                body=b"",
                caller=OPERATOR,
                request_id="req-1",
            )
        )
        assert answer.status == status, answer.body
        return json.loads(answer.body)

    async def add(self, name: str, *, run: bool = True) -> None:
        """A session that begins to run now."""
        at = self.clock.now()

        def work(tx: Any) -> None:
            tx.ledger.add(new_session(name, status=SessionStatus.RUNNING, started_at=at))
            tx.ledger.change(name, SessionChange(running_since=at))
            if run:
                tx.runs.add(RunRecord(session_id=name))

        await self.store.write(work)

    async def end(self, name: str, status: SessionStatus = SessionStatus.SUCCESS) -> None:
        change = SessionChange(status=status, ended_at=self.clock.now(), runtime_ms=1)
        await self.store.write(lambda tx: tx.ledger.change(name, change))


@asynccontextmanager
async def rigged(folder: Path, *, started: bool = True) -> AsyncIterator[Rig]:
    clock = TrioWallClock()
    store = SqliteStore(folder / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        rig = Rig(store, nursery, clock)
        if started:
            rig.start()
            await trio.sleep(0.5)
        yield rig
        await rig.stop()
        await store.close()
        nursery.cancel_scope.cancel()


async def test_a_sample_is_taken_each_interval_and_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        assert (rig.account.total.samples, rig.account.total.value) == (0, 0.0)
        assert await rig.kept() is None
        await trio.sleep(600)
        assert rig.account.total.samples == 10
        assert rig.account.total.value == pytest.approx(PER_SEC * 600, rel=1e-6)
        assert rig.account.since == EPOCH
        assert await rig.kept() == rig.account
        assert rig.changes == 10
        assert len(rig.meters.asked) == 11
        assert rig.log.lines == []


async def test_a_restart_goes_on_where_it_was_and_counts_nothing_for_the_time_between(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(130)
        before = rig.account
        await rig.stop()  # in the middle of an interval: less than one is lost
        await trio.sleep(7200)
        rig.start()
        await trio.sleep(1)
        assert rig.account == before
        await trio.sleep(120)
        assert rig.account.total.samples == 4
        assert rig.account.total.value == pytest.approx(PER_SEC * 240, rel=1e-3)
        assert rig.account.since == EPOCH


async def test_a_restart_shows_the_last_hour_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(1800)
        await rig.stop()
        rig.start()
        await trio.sleep(1)
        found = rig.service.status()
        assert found is not None
        assert found.window_value == pytest.approx(PER_SEC * 1800, rel=1e-3)
        assert found.source == "battery"
        assert found.confidence == "high"
        await trio.sleep(3700)
        after = rig.service.status()
        assert after is not None
        assert after.window_value == pytest.approx(PER_SEC * 3600, rel=0.02)
        assert len(after.spark) == 8
        assert after.spark == pytest.approx([PER_SEC * 3600] * 8, rel=0.01)


async def test_other_parameters_begin_another_sum_and_say_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(600)
        await rig.stop()
        rig.basis = Basis(parameters=Parameters(alpha=0.2))
        rig.start()
        await trio.sleep(1)
        assert (rig.account.generation, rig.account.total.samples) == (2, 0)
        assert rig.account.since > EPOCH + timedelta(seconds=600)
        assert ("info", "delta_v.begun") in [line[:2] for line in rig.log.lines]
        answer = await rig.ask()
        assert answer["reason"] == "the parameters were changed"
        assert (answer["value"], answer["window"]["samples"], answer["history"]) == (0.0, 0, [])
        await trio.sleep(120)
        assert (await rig.ask())["value"] == pytest.approx(25 * math.exp(-0.2) * 120, rel=1e-3)


@pytest.mark.parametrize("step", [-3600.0, 3600.0, -86400.0 * 400])
async def test_a_wall_clock_that_steps_changes_no_sample(
    tmp_path: Path, autojump_clock: MockClock, step: float
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(300)
        values = [rig.account.total.value]
        rig.clock.step(step)
        for _ in range(5):
            await trio.sleep(60)
            values.append(rig.account.total.value)
        grown = [after - before for before, after in itertools.pairwise(values)]
        assert grown == pytest.approx([PER_SEC * 60] * 5, rel=1e-6)
        assert rig.account.gap_sec == pytest.approx(0)
        found = rig.service.status()
        assert found is not None
        assert found.window_value == pytest.approx(PER_SEC * 600, rel=1e-6)
        rate = (await rig.ask())["window"]["per_hour"]
        assert rate == pytest.approx(PER_SEC * 3600, rel=1e-3)


async def test_time_in_which_nothing_was_looked_at_is_a_gap(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(60)
        autojump_clock.jump(7200)  # the process was stopped
        await trio.sleep(61)
        assert rig.account.seconds < 60 + 120 + 70
        assert rig.account.gap_sec > 7000
        rig.meters.asleep = 3600.0
        before = rig.account
        await trio.sleep(60)
        assert rig.account.gap_sec - before.gap_sec == pytest.approx(3600.0)
        assert rig.account.total.value - before.total.value == pytest.approx(PER_SEC * 60, rel=1e-3)


async def test_meters_that_do_not_answer_cost_their_values_and_nothing_else(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        rig.meters.silent = True
        await trio.sleep(180)
        assert rig.account.total.samples == 3
        found = rig.service.status()
        assert found is not None
        assert (found.source, found.confidence) == ("model:cpu-time", "low")
        assert rig.log.events() == ["delta_v.meters_silent"]
        rig.meters.silent = False
        await trio.sleep(60)
        found = rig.service.status()
        assert found is not None
        assert found.source == "battery"


async def test_nonsense_of_a_meter_is_refused_and_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        rig.meters.watts = math.nan
        await trio.sleep(60)
        rig.meters.watts = 100.0
        await trio.sleep(60)
        assert (rig.account.total.samples, rig.account.total.not_finite) == (1, 1)
        answer = await rig.ask()
        assert answer["refused"] == {"not_finite": 1, "overflow": 0}
        assert answer["value"] == pytest.approx(PER_SEC * 60, rel=1e-6)


async def test_what_a_full_disk_keeps_from_being_written_is_written_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.add("a")
        rig.meters.cpu["a"] = 30.0
        await trio.sleep(60)
        rig.store.trouble, rig.store.reads_too = StoreFullError("full"), True
        await trio.sleep(60 * (PENDING_MAX + 10))
        assert rig.account.total.samples == PENDING_MAX + 11
        assert rig.log.events() == ["delta_v.not_kept"]
        rig.store.trouble = None
        await trio.sleep(60)
        assert await rig.kept() == rig.account
        answer = await rig.ask("?since=2026-11-20T11:00:00Z")
        assert answer["window"]["samples"] == PENDING_MAX + 12
        assert answer["window"]["value"] == pytest.approx(answer["value"], rel=1e-9)


async def test_a_store_that_cannot_be_read_at_first_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path, started=False) as rig:
        rig.store.trouble, rig.store.reads_too = StoreFullError("away"), True
        rig.start()
        await trio.sleep(90)
        assert rig.service.account is None
        assert rig.service.status() is None
        assert (await rig.ask(status=503))["error"]["code"] == "STORAGE_FULL"
        rig.store.trouble = None
        await trio.sleep(120)
        assert rig.account.total.samples >= 1


async def test_before_the_first_sample_the_answer_is_what_was_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(120)
        await rig.stop()
        fresh = rig.service = rig._make()
        assert fresh.account is None
        answer = await rig.ask()
        assert (answer["samples"], answer["window"]["samples"], answer["inputs"]) == (2, 2, [])


# --- sessions


async def test_sessions_get_their_parts_by_processor_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        for name in ("worker", "other"):
            await rig.add(name)
        await rig.add("elsewhere", run=False)
        rig.meters.cpu = {"worker": 45.0, "other": 15.0}
        await trio.sleep(120)
        assert rig.meters.asked[-1] == ["other", "worker"]
        found = {one["session_id"]: one for one in (await rig.ask())["sessions"]}
        assert found.keys() == {"worker", "other"}
        total = rig.account.total.value
        assert found["worker"]["value"] == pytest.approx(total * 0.75, rel=1e-9)
        assert found["worker"]["joules"] == pytest.approx(100 * 120 * 0.75, rel=1e-3)
        assert (found["worker"]["source"], found["worker"]["confidence"]) == ("cpu-time", "medium")
        assert found["other"]["value"] == pytest.approx(total * 0.25, rel=1e-9)


async def test_a_session_between_two_samples_has_a_part_for_as_long_as_it_was_there(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(70)
        await rig.add("short")
        await trio.sleep(15)
        await rig.end("short", SessionStatus.FAILED)
        await trio.sleep(60)
        (one,) = (await rig.ask("?session=short"))["sessions"]
        assert one["joules"] == pytest.approx(100 * 15, rel=0.01)
        assert (one["source"], one["confidence"], one["samples"]) == ("equal", "low", 1)


async def test_sums_of_sessions_go_on_after_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await rig.add("worker")
        rig.meters.cpu = {"worker": 60.0}
        await trio.sleep(60)
        await rig.stop()
        rig.start()
        await trio.sleep(121)
        (one,) = (await rig.ask("?session=work"))["sessions"]
        assert one["samples"] == 3
        assert one["value"] == pytest.approx(rig.account.total.value, rel=1e-9)


async def test_completions_of_the_last_hour_are_the_velocity(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        for number in range(12):
            await rig.add(str(number))
            await rig.end(str(number), SessionStatus.SUCCESS if number else SessionStatus.KILLED)
        await trio.sleep(60)
        velocity = (await rig.ask())["inputs"][2]
        assert velocity["value"] == pytest.approx(11 / 6)
        assert (velocity["symbol"], velocity["source"], velocity["confidence"]) == ("v", "ledger", "high")
        await trio.sleep(3700)
        assert (await rig.ask())["inputs"][2]["value"] == 0.0


# --- the answer


async def test_the_answer_has_value_inputs_parameters_and_history(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(300)
        answer = await rig.ask()
        assert (answer["status"], answer["unit"], answer["mapping"]) == ("ok", "J/GiB", "ambient.node/1")
        assert answer["value"] == rig.account.total.value
        assert answer["window"]["per_hour"] == pytest.approx(PER_SEC * 3600, rel=1e-6)
        assert [(one["symbol"], one["unit"]) for one in answer["inputs"]] == [
            ("P", "W"),
            ("w", ""),
            ("v", ""),
            ("M", "GiB"),
        ]
        parameters = {
            one["name"]: (one["value"], one["minimum"], one["maximum"]) for one in answer["parameters"]
        }
        assert parameters["alpha"] == (0.1, 0.0, 1.0)
        assert answer["step_sec"] == 60
        assert sum(point["value"] for point in answer["history"]) == pytest.approx(answer["value"])
        assert [point["watts"] for point in answer["history"]] == pytest.approx([100.0] * 5)


async def test_longer_windows_have_wider_pieces(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await trio.sleep(86_400)
        widths = {}
        for since in (
            "2026-11-21T11:30:00Z",
            "2026-11-20T12:00:00Z",
            "2026-11-14T12:00:00Z",
            "2020-01-01T00:00:00Z",
        ):
            answer = await rig.ask(f"?since={since}")
            assert len(answer["history"]) <= 122
            widths[answer["step_sec"]] = answer["window"]["samples"]
        assert list(widths) == [60, 900, 7200, 2_592_000]
        assert widths[900] == widths[7200] == widths[2_592_000] == rig.account.total.samples
        assert 29 <= widths[60] <= 31


async def test_what_cannot_be_asked_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        refused = (await rig.ask("?since=yesterday", status=400))["error"]
        assert [detail["field"] for detail in refused["details"]] == ["since"]
        assert (await rig.ask("?until=1", status=400))["error"]["code"] == "VALIDATION_ERROR"
        assert (await rig.ask("?session=nobody", status=404))["error"]["code"] == "NOT_FOUND"
        future = await rig.ask("?since=2030-01-01T00:00:00Z")
        assert (future["history"], future["window"]["value"], future["window"]["per_hour"]) == ([], 0.0, None)
