from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ambientd.ports.errors import StoreFullError
from ambientd.services import intake as intake_module
from ambientd.services.bell import Bell
from ambientd.services.intake import IntakeService
from tests.fakes.log import ListLog
from tests.flows.inbox import Inbox, inbox, task


class Swept(IntakeService):
    """A service over an inbox, and what was asked of its neighbours."""

    def __init__(self, box: Inbox) -> None:
        self.box = box
        self.bell = Bell()
        self.log = ListLog()
        self.woken = 0
        self.send, self.receive = trio.open_memory_channel[None](10)
        super().__init__(
            intake=box.intake,
            wake_sessions=self.wake_sessions,
            changes=self.changes,
            bell=self.bell,
            log=self.log,
        )

    def wake_sessions(self) -> None:
        self.woken += 1

    async def changes(self) -> AsyncIterator[None]:
        async for _ in self.receive:
            yield


@asynccontextmanager
async def swept(folder: Path) -> AsyncIterator[tuple[Inbox, Swept]]:
    async with inbox(folder) as box:
        service = Swept(box)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await trio.sleep(1)
            yield box, service
            nursery.cancel_scope.cancel()


async def test_what_lies_there_at_the_start_is_taken_in_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with inbox(tmp_path) as box:
        box.hand_in("a.json")
        service = Swept(box)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert box.names("running") == ["a.json"]
        assert (service.take_picked_up(), service.take_picked_up()) == (1, 0)
        assert service.woken == 1


async def test_a_hand_in_is_seen_when_the_folder_tells_and_otherwise_at_the_next_cycle(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swept(tmp_path) as (box, service):
        box.hand_in("a.json")
        await trio.sleep(500)
        assert box.names() == ["a.json"]
        service.send.send_nowait(None)
        await trio.sleep(1)
        assert box.names() == []
        box.hand_in("b.json", task("t2"))
        service.wake()
        await trio.sleep(1)
        assert box.names("running") == ["a.json", "b.json"]


async def test_the_folders_are_made_again_when_somebody_removed_them(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swept(tmp_path) as (box, service):
        for name in ("running", "done", "rejected", "blocked"):
            (box.folder / name).rmdir()
        box.folder.rmdir()
        service.wake()
        await trio.sleep(1)
        box.hand_in("a.json")
        service.wake()
        await trio.sleep(1)
        assert box.names("running") == ["a.json"]
        assert service.failing is None


async def test_one_file_that_cannot_be_moved_holds_up_none_of_the_others(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swept(tmp_path) as (box, service):
        box.spool.broken = {"b.json"}
        for name in "abc":
            box.hand_in(f"{name}.json", task(name))
        service.wake()
        await trio.sleep(1)
        assert (box.names(), box.names("running")) == (["b.json"], ["a.json", "c.json"])
        assert "b.json" in (service.failing or "")
        assert service.waiting == 1
        assert service.woken >= 2  # the session behind b.json was written all the same
        for _ in range(5):
            service.wake()
            await trio.sleep(1)
        assert service.log.events() == ["intake.failing"]
        assert len(await box.sessions()) == 3
        box.spool.broken = set()
        service.wake()
        await trio.sleep(1)
        assert box.names("running") == ["a.json", "b.json", "c.json"]
        assert service.log.events() == ["intake.failing", "intake.recovered"]
        assert service.failing is None
        assert len(await box.sessions()) == 3


async def test_a_full_disk_is_told_once_and_the_file_waits(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swept(tmp_path) as (box, service):
        box.store.trouble = StoreFullError("the disk is full")
        box.hand_in("a.json")
        for _ in range(10):
            service.wake()
            await trio.sleep(60)
        assert box.names() == ["a.json"]
        assert service.log.events() == ["intake.failing"]
        box.store.trouble = None
        service.wake()
        await trio.sleep(1)
        assert box.names("running") == ["a.json"]


async def test_more_files_than_a_sweep_takes_are_all_taken_without_waiting_for_a_cycle(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "FILES_PER_SWEEP", 10)
    async with swept(tmp_path) as (box, service):
        box.spool.broken = {f"{number:02}.json" for number in range(10)}  # a whole sweep's worth is stuck
        for number in range(45):
            box.hand_in(f"{number:02}.json", task(f"t{number}"))
        service.wake()
        await trio.sleep(1)
        service.wake()
        await trio.sleep(1)
        assert box.names() == sorted(box.spool.broken)
        assert len(box.names("running")) == 35


async def test_when_nothing_moves_the_service_rests_until_the_next_cycle(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "FILES_PER_SWEEP", 2)
    async with swept(tmp_path) as (box, service):
        box.spool.broken = {f"{number}.json" for number in range(5)}
        for number in range(5):
            box.hand_in(f"{number}.json", task(f"t{number}"))
        before = service.woken
        service.wake()
        await trio.sleep(3600)
        assert service.woken - before == 1


async def test_odd_names_are_counted_and_left(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swept(tmp_path) as (box, service):
        (box.folder / "job.yaml").touch()
        service.wake()
        await trio.sleep(1)
        assert (service.odd, service.waiting, box.names()) == (1, 0, ["job.yaml"])


async def test_an_ended_task_is_moved_when_its_end_is_told(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swept(tmp_path) as (box, service):
        box.hand_in("a.json")
        service.wake()
        await trio.sleep(1)
        await box.end_session((await box.sessions())[0].session_id)
        service.bell.ring()
        await trio.sleep(1)
        assert box.names("done") == ["a.json", "a.result.json"]
