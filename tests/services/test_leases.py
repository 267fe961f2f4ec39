"""When leases are looked at: never without an active one, else at the next end, within a minute."""

from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from ambientd.flows.leases import Leases
from ambientd.ports.errors import StoreBusyError
from ambientd.services.bell import Bell
from ambientd.services.leases import AGAIN_SEC, LOOK_SEC, LeaseService
from ambientd.services.supervise import supervise
from tests.fakes.log import ListLog
from tests.fakes.trustedtime import HandTime
from tests.flows.leaserig import LEASES, leased


class _Counted:
    """Sweeps of real leases, with when they were."""

    def __init__(self, leases: Leases, source: HandTime) -> None:
        self._leases = leases
        self._source = source
        self._began = trio.current_time()
        self.at: list[float] = []

    async def sweep(self) -> float | None:
        self.at.append(trio.current_time() - self._began)
        return await self._leases.sweep()

    def open(self) -> None:
        self._leases.open()

    async def close(self) -> None:
        await self._leases.close()


async def test_sweeps_come_when_something_is_due(tmp_path: Path, autojump_clock: MockClock) -> None:
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig, trio.open_nursery() as nursery:
        bell, log = Bell(), ListLog()
        rig.leases._wake = bell.ring
        counted: Any = _Counted(rig.leases, source)
        nursery.start_soon(LeaseService(leases=counted, bell=bell, log=log).run)
        await trio.sleep(100_000)
        assert counted.at == [0]
        await rig.activate(LEASES.lease(max_duration_ms=90_000))
        for _ in range(91):
            source.run(1_000)
            await trio.sleep(1)
        assert await rig.state() == "duration"
        begun = counted.at[1]
        looked = [round(at - begun) for at in counted.at[1:4]]
        assert looked[:2] == [0, LOOK_SEC]
        assert 89 <= looked[2] <= 90
        await trio.sleep(100_000)
        assert len(counted.at) <= 6
        nursery.cancel_scope.cancel()


async def test_an_orderly_end_gives_back_what_was_accounted_for_and_not_used(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    source = HandTime()
    async with leased(tmp_path / "a.db", source) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(LeaseService(leases=rig.leases, bell=Bell(), log=ListLog()).run)
        await rig.activate(LEASES.lease())
        await rig.meter(1_000)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    async with leased(tmp_path / "a.db", source) as rig:
        (row,) = await rig.leases.page(active=True, limit=1)
        assert row.held.bytes == 1_000


class _CrashesOnce(_Counted):
    """The second sweep raises what nobody expects."""

    async def sweep(self) -> float | None:
        found = await super().sweep()
        if len(self.at) == 2:
            raise RuntimeError("a bug")
        return found


async def test_leases_are_active_again_when_the_service_was_restarted_after_a_crash(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with leased(tmp_path / "a.db") as rig, trio.open_nursery() as nursery:
        bell, log = Bell(), ListLog()
        leases: Any = _CrashesOnce(rig.leases, rig.source)
        service = LeaseService(leases=leases, bell=bell, log=log)
        nursery.start_soon(supervise, "leases", service.run, log)
        await trio.sleep(1)
        await rig.activate(LEASES.lease())
        assert await rig.meter(1_000) == "allowed"
        bell.ring()
        await trio.sleep(0.1)
        assert log.events() == ["service.crashed"]
        assert await rig.meter(1) == "lease_ended"
        await trio.sleep(2)
        assert await rig.code(lease_id="lease-1") == "allowed"
        (row,) = await rig.leases.page(active=True, limit=10)
        assert row.held.bytes == 1_000
        assert await rig.meter(1_000) == "allowed"
        assert log.events() == ["service.crashed"]
        nursery.cancel_scope.cancel()
    async with leased(tmp_path / "a.db", rig.source) as rig:
        (row,) = await rig.leases.page(active=True, limit=1)
        assert row.held.bytes == 2_000


async def test_a_store_that_fails_is_tried_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with leased(tmp_path / "a.db") as rig, trio.open_nursery() as nursery:
        bell, log = Bell(), ListLog()
        rig.store.trouble, rig.store.reads_too = StoreBusyError("held"), True
        nursery.start_soon(LeaseService(leases=rig.leases, bell=bell, log=log).run)
        await trio.sleep(AGAIN_SEC * 2.5)
        assert log.events() == ["leases.sweep_failed"] * 3
        rig.store.trouble = None
        await trio.sleep(AGAIN_SEC)
        assert len(log.events()) == 3
        nursery.cancel_scope.cancel()
