"""When retention runs: daily, at an hour, when it is asked for, and never twice at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from ambientd.config.schema import RetentionConfig
from ambientd.ports.errors import Rejected
from ambientd.services.upkeep import FIRST_AFTER_SEC, UpkeepService
from ambientd.wire.messages import RetentionAnswer
from tests.flows.test_retention import audit, ids, rows
from tests.flows.test_upkeep import Kept, kept

DAY = 86_400.0


class ListLog:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **facts: object) -> object:
        self.told.append((event, facts))
        return None

    warning = error = info


@asynccontextmanager
async def serving(folder: Path, **bounds: int) -> AsyncIterator[tuple[Kept, UpkeepService, ListLog]]:
    async with kept(folder) as box, trio.open_nursery() as nursery:
        box.ledger_bounds = RetentionConfig(**bounds)
        log = ListLog()
        service = UpkeepService(upkeep=box.upkeep, log=log)
        nursery.start_soon(service.run)
        yield box, service, log
        nursery.cancel_scope.cancel()


async def runs(box: Kept) -> int:
    return [kind for kind, _, _ in await audit(box)].count("retention.done")


async def test_it_runs_a_while_after_the_start_and_then_daily(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as (box, _, log):
        await box.session("ses_old", 91)
        await trio.sleep(FIRST_AFTER_SEC - 1)
        assert await runs(box) == 0
        await trio.sleep(2)
        assert await runs(box) == 1
        assert await ids(box) == set()
        assert [event for event, _ in log.told] == ["retention.done"]
        await trio.sleep(3 * DAY)
        assert await runs(box) == 4


async def test_with_an_hour_it_runs_when_that_hour_begins(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(tmp_path, hour=3) as (box, _, _):  # the clock of the tests begins at noon
        await trio.sleep(15 * 3600 - 1)
        assert await runs(box) == 0
        await trio.sleep(2)
        assert await runs(box) == 1
        await trio.sleep(2 * DAY)
        assert await runs(box) == 3


async def test_a_run_that_was_asked_for_answers_with_its_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as (box, service, _):
        await box.session("ses_old", 91)
        assert await service.latest(wait=0) is None
        plan = await service.preview("uid:1")
        answer = await service.start(plan.plan_id, "uid:1", wait=5)
        assert isinstance(answer, RetentionAnswer)
        assert (answer.plan_id, answer.running, rows(answer)["session_ledger"]) == (plan.plan_id, False, 1)
        assert await service.latest(wait=0) == answer


async def test_a_second_run_is_refused_while_the_first_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as (box, service, _):
        await box.session("ses_old", 91)
        first = await service.start(None, "uid:1", wait=0)
        assert isinstance(first, RetentionAnswer)
        assert first.running
        second = await service.start(None, "uid:2", wait=5)
        assert isinstance(second, Rejected)
        assert second.code == "RETENTION_RUNS"
        ended = await service.latest(wait=5)
        assert ended is not None
        assert not ended.running
        assert await runs(box) == 1
        third = await service.start(None, "uid:2", wait=5)
        assert isinstance(third, RetentionAnswer)
        assert await runs(box) == 2


async def test_a_run_goes_on_when_who_asked_for_it_goes_away(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as (box, service, _):
        await box.session("ses_old", 91)
        with trio.CancelScope() as scope:
            scope.cancel()
            await service.start(None, "uid:1", wait=5)
        await trio.sleep(1)
        assert await ids(box) == set()
        assert await runs(box) == 1


async def test_a_daily_run_that_fails_is_told_and_tried_again_within_the_hour(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as (box, service, log):
        (tmp_path / "inbox" / "done").rmdir()
        (tmp_path / "inbox" / "done").write_text("in the way")
        await trio.sleep(FIRST_AFTER_SEC + 1)
        assert [event for event, _ in log.told] == ["retention.failed"]
        last = await service.latest(wait=0)
        assert last is not None
        assert last.error is not None
        assert not last.running
        (tmp_path / "inbox" / "done").unlink()
        (tmp_path / "inbox" / "done").mkdir()
        await trio.sleep(3600)
        assert await runs(box) == 1
