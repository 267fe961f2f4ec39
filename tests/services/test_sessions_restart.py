from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ambientd.ports.errors import StoreBusyError, StoreError, StoreFullError
from ambientd.ports.runner import OutputLine, RunSpec
from ambientd.wire.enums import EventType, SessionStatus
from tests.services.rig import rigged

# --- restarts


async def test_a_running_session_is_found_again_and_not_started_twice(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:one", "sleep:100", "say:two")
        name = await rig.spawn()
        await rig.wait_running(name)
        await rig.stop()
        await trio.sleep(10)
        rig.start()
        await trio.sleep(1)
        assert rig.service.live == 1
        row = await rig.wait_ended(name)
        assert await rig.texts(name) == ["one", "two"]
        assert await rig.steps(name) == ["queued", "running", "success"]
    assert (row.status, row.runtime_ms) == (SessionStatus.SUCCESS, 100_000)
    assert len(rig.runner.launches) == 1


async def test_a_session_that_ended_while_no_daemon_lived_is_closed_with_its_own_times(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("sleep:20", "say:done", "exit:1")
        name = await rig.spawn()
        running = (await rig.wait_running(name)).started_at_ms
        await rig.stop()
        await trio.sleep(1000)
        rig.start()
        row = await rig.wait_ended(name)
        assert await rig.texts(name) == ["done"]
    assert (row.status, row.error_code, row.runtime_ms) == (SessionStatus.FAILED, "exit_status", 20_000)
    assert row.ended_at is not None
    assert running is not None
    assert round(row.ended_at.timestamp() * 1000) == running + 20_000


async def test_a_session_that_was_being_launched_when_the_daemon_died_runs_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for where in ("before", "after"):
        folder = tmp_path / where
        folder.mkdir()
        async with rigged(folder) as rig:
            rig.add("say:hi", "sleep:50")
            launching = trio.Event()

            async def stall(spec: RunSpec, launching: trio.Event = launching) -> None:
                launching.set()
                await trio.sleep_forever()

            setattr(rig.runner, f"{where}_launch", stall)
            name = await rig.spawn()
            await launching.wait()
            await rig.stop()
            setattr(rig.runner, f"{where}_launch", None)
            rig.start()
            row = await rig.wait_ended(name)
            assert row.status is SessionStatus.SUCCESS
            assert await rig.texts(name) == ["hi"]
            assert (await rig.run_record(name)).attempt == (2 if where == "before" else 1)


async def test_queued_sessions_of_the_last_daemon_are_started_by_the_next(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path, started=False) as rig:
        rig.add("say:hi")
        names = [await rig.spawn() for _ in range(5)]
        rig.start()
        for name in names:
            assert (await rig.wait_ended(name)).status is SessionStatus.SUCCESS


async def test_a_running_session_whose_folder_was_removed_is_closed_as_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi", "forever")
        name = await rig.spawn()
        script = await rig.wait_running(name)
        await rig.stop()
        script.lose()
        rig.runner.forget(name)
        rig.start()
        row = await rig.wait_ended(name)
        assert await rig.texts(name) == ["hi"]
    assert (row.status, row.error_code) == (SessionStatus.FAILED, "runner_lost")
    assert len(rig.runner.launches) == 1


async def test_wherever_the_daemon_dies_every_line_enters_the_ledger_once_and_in_order(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    lines = [f"line {number}" for number in range(12)]
    steps = [step for line in lines for step in (f"say:{line}", "sleep:1")]
    for deaths in range(1, 12):
        folder = tmp_path / str(deaths)
        folder.mkdir()
        async with rigged(folder) as rig:
            rig.add(*steps)
            name = await rig.spawn()
            for _ in range(deaths):
                rig.store.after_write = rig.stop_now  # the daemon dies right after its next commit
                await trio.sleep(1.7)
                await rig.stop()
                rig.store.after_write = None
                rig.start()
            row = await rig.wait_ended(name)
            assert row.status is SessionStatus.SUCCESS
            assert await rig.texts(name) == lines
            assert await rig.steps(name) == ["queued", "running", "success"]
            assert [event.seq for event in await rig.events(name)] == list(range(1, 16))
            assert len(rig.runner.launches) <= 2


async def test_usage_adds_up_over_a_restart_in_the_middle(autojump_clock: MockClock, tmp_path: Path) -> None:
    line = '{"type":"usage","prompt_tokens":10,"completion_tokens":5,"cost_usd":0.25}'
    async with rigged(tmp_path) as rig:
        rig.add(
            f"say:{line}",
            "sleep:100",
            f"say:{line}",
            'say:{"type":"tool_call","tool":"x"}',
            "say:not json",
            output="jsonl",
        )
        name = await rig.spawn()
        await rig.wait_running(name)
        await trio.sleep(5)
        await rig.stop()
        rig.start()
        await rig.wait_ended(name)
        usage = await rig.usage(name)
        events = await rig.events(name)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cost_usd) == (
        20,
        10,
        30,
        0.5,
    )
    assert usage.runtime_ms == 100_000
    assert [event.event_type for event in events] == [
        EventType.STATE_TRANSITION,
        EventType.STATE_TRANSITION,
        EventType.TOOL_CALL,
        EventType.MESSAGE,
        EventType.STATE_TRANSITION,
    ]


async def test_a_long_line_in_several_parts_is_whole_although_the_daemon_died_between_them(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add(
            "say:before",
            'part:{"type":"usage","prompt_',
            "sleep:50",
            'part:tokens":40,"completion_',
            "sleep:50",
            'say:tokens":2}',
            "say:after",
            output="jsonl",
        )
        name = await rig.spawn()
        await rig.wait_running(name)
        for _ in range(2):
            await trio.sleep(30)
            await rig.stop()
            rig.start()
        await rig.wait_ended(name)
        usage = await rig.usage(name)
        assert await rig.texts(name) == ["before", "after"]
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (40, 2)


async def test_stopping_the_daemon_ends_no_session_and_lets_go_of_every_link(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever", max_concurrent=5)
        names = [await rig.spawn() for _ in range(5)]
        for name in names:
            await rig.wait_running(name)
        await rig.stop()
        assert sorted(rig.runner.playing()) == sorted(names)
        assert all(rig.runner.of(name).ends_asked == 0 for name in names)
        assert [link.closed for link in rig.runner.links] == [True] * 5


# --- the store in trouble


@pytest.mark.parametrize(
    "trouble",
    [
        StoreFullError("the disk is full"),
        StoreBusyError("another process holds the lock"),
        StoreError("the database is gone"),
    ],
)
@pytest.mark.parametrize("reads_too", [False, True])
async def test_while_the_store_takes_nothing_nothing_is_lost_and_it_goes_on_by_itself(
    autojump_clock: MockClock, tmp_path: Path, trouble: Exception, reads_too: bool
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:one", "sleep:10", "say:two", "sleep:10", "say:three", max_concurrent=2)
        names = [await rig.spawn() for _ in range(3)]
        await rig.wait_running(names[1])
        rig.store.trouble, rig.store.reads_too = trouble, reads_too
        await trio.sleep(3600)
        assert 10 < rig.store.refused < 2000
        assert await rig.status(names[0]) is SessionStatus.RUNNING
        assert rig.log.events().count("session.waiting_for_store") <= 5
        rig.store.trouble = None
        for name in names:
            row = await rig.wait_ended(name)
            assert (row.status, row.runtime_ms) == (SessionStatus.SUCCESS, 20_000)
            assert await rig.texts(name) == ["one", "two", "three"]
    assert len(rig.runner.launches) == 3


async def test_a_spawn_that_the_store_refuses_leaves_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        rig.store.trouble = StoreFullError("the disk is full")
        with pytest.raises(StoreFullError):
            await rig.spawn()
        rig.store.trouble = None
        await trio.sleep(10)
        assert await rig.real_store.read(lambda tx: tx.ledger.count()) == 0
    assert rig.runner.launches == []


async def test_what_goes_wrong_with_one_session_leaves_the_others_alone(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi", "sleep:100", "say:bye", max_concurrent=4)
        names = [await rig.spawn() for _ in range(3)]
        poisoned = (await rig.wait_running(names[1])).lines
        poisoned.append(OutputLine(at_ms=10**17, stream="out", text="a time that nothing can hold"))
        rig.runner.of(names[1]).tell()
        for name in (names[0], names[2], await rig.spawn()):
            assert (await rig.wait_ended(name)).status is SessionStatus.SUCCESS
        crashed = [facts["service"] for _, event, facts in rig.log.lines if event == "service.crashed"]
        assert set(crashed) == {f"session {names[1]}"}
        assert len(crashed) < 20
        del poisoned[1]  # and once the cause is gone it goes on
        assert (await rig.wait_ended(names[1])).status is SessionStatus.SUCCESS
        assert await rig.texts(names[1]) == ["hi", "bye"]
    assert len(rig.runner.launches) == 4
