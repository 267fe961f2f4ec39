from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ambientd.core.rejection import Rejected
from ambientd.ports.errors import UnavailableError
from ambientd.ports.runner import RunSpec
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import KillAnswer
from tests.services.rig import rigged


def ended_by(answer: KillAnswer | Rejected) -> str:
    assert isinstance(answer, KillAnswer), answer
    return answer.signal


async def test_killing_a_queued_session_cancels_it_at_once_and_it_never_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("sleep:100")
        first, second = await rig.spawn(), await rig.spawn()
        await rig.wait_running(first)
        answer = await rig.kill(second)
        assert isinstance(answer, KillAnswer)
        assert (answer.signal, answer.ended) == ("cancelled", True)
        row = await rig.row(second)
        assert (row.status, row.runtime_ms) == (SessionStatus.CANCELLED, 0)
        await rig.wait_ended(first)
        await trio.sleep(10)
    assert [spec.session_id for _, spec in rig.runner.launches] == [first]


async def test_those_who_wait_for_a_queued_session_hear_at_once_that_it_was_cancelled(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("sleep:100")
        first, second = await rig.spawn(), await rig.spawn()
        await rig.wait_running(first)
        watch, began = rig.news.watch(second), trio.current_time()
        ended_before = rig.tasks_ended
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.kill, second)
            assert await watch.wait(30)
        assert trio.current_time() == began
        assert rig.tasks_ended == ended_before + 1


async def test_killing_a_running_session_ends_it_with_proof_and_an_audit_record_of_both(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi", "forever")
        name = await rig.spawn()
        await rig.wait_running(name)
        await trio.sleep(7)
        assert ended_by(await rig.kill(name)) == "sent"
        row = await rig.wait_ended(name)
        last = (await rig.events(name))[-1].payload
    assert (row.status, row.error_code, row.runtime_ms) == (SessionStatus.KILLED, None, 7000)
    assert (last["cause"], last["signal"], last["proof"]) == ("ended", 15, True)


async def test_an_agent_that_ignores_term_is_killed_after_the_grace(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.bounds = replace(rig.bounds, grace=10.0)
        rig.add("deaf", "forever")
        name = await rig.spawn()
        await rig.wait_running(name)
        await rig.kill(name)
        row = await rig.wait_ended(name)
    assert (row.status, row.runtime_ms) == (SessionStatus.KILLED, 10_000)


async def test_an_agent_that_had_finished_before_the_kill_reached_it_has_finished(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever")
        name = await rig.spawn()
        script = await rig.wait_running(name)
        script.silent = True  # the kill does not get through …
        with pytest.raises(UnavailableError):
            await rig.kill(name)
        script.finish(exit_code=0)  # … before the agent is done
        row = await rig.wait_ended(name)
    assert (row.status, row.error_code) == (SessionStatus.SUCCESS, None)


async def test_a_kill_that_the_shim_did_not_answer_is_passed_on_until_it_does(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever")
        name = await rig.spawn()
        script = await rig.wait_running(name)
        script.silent = True
        with pytest.raises(UnavailableError):
            await rig.kill(name)
        await trio.sleep(100)
        assert await rig.status(name) is SessionStatus.RUNNING
        script.silent = False
        row = await rig.wait_ended(name)
    assert row.status is SessionStatus.KILLED
    assert 3 <= script.ends_asked <= 20


async def test_a_kill_whose_caller_hung_up_is_carried_out(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever")
        name = await rig.spawn()
        await rig.wait_running(name)
        with trio.CancelScope() as caller:
            rig.store.after_write = caller.cancel  # gone before anything was signalled
            await rig.kill(name)
        rig.store.after_write = None
        assert caller.cancelled_caught
        assert (await rig.wait_ended(name)).status is SessionStatus.KILLED


async def test_a_spawn_whose_caller_hung_up_runs_if_it_was_written(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        await trio.sleep(1)  # the service waits

        def hang_up() -> None:
            rig.store.after_write = None
            raise ConnectionError

        rig.store.after_write = hang_up
        with pytest.raises(ConnectionError):
            await rig.spawn()
        await trio.sleep(5)
    assert len(rig.runner.launches) == 1


async def test_a_kill_while_the_run_is_being_launched_ends_it_as_soon_as_there_is_something_to_end(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi", "forever")
        launching = trio.Event()

        async def slowly(spec: RunSpec) -> None:
            launching.set()
            await trio.sleep(5)

        rig.runner.before_launch = slowly
        name = await rig.spawn()
        await launching.wait()
        assert ended_by(await rig.kill(name)) == "sent"
        row = await rig.wait_ended(name)
    assert row.status is SessionStatus.KILLED
    assert rig.runner.of(name).ends_asked >= 1


async def test_a_kill_while_a_launch_fails_cancels_the_session_although_the_breaker_is_open(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        rig.runner.launches_to_fail = 3
        launching = trio.Event()

        async def slowly(spec: RunSpec) -> None:
            if len(rig.runner.launches) == 3:
                launching.set()
                await trio.sleep(5)

        rig.runner.before_launch = slowly
        name = await rig.spawn()
        await launching.wait()
        assert ended_by(await rig.kill(name)) == "sent"
        began = trio.current_time()
        row = await rig.wait_ended(name)
        took = trio.current_time() - began
    assert row.status is SessionStatus.CANCELLED
    assert took < 10
    assert len(rig.runner.launches) == 3


async def test_killing_one_that_waits_for_its_breaker_cancels_it_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        rig.runner.launches_to_fail = 100
        name = await rig.spawn()
        await trio.sleep(20)
        assert rig.service.open_breakers() == {"worker": "no shim today"}
        assert ended_by(await rig.kill(name)) == "cancelled"
        assert await rig.status(name) is SessionStatus.CANCELLED


async def test_a_kill_recorded_while_the_daemon_was_away_is_carried_out_at_the_next_start(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever")
        name = await rig.spawn()
        script = await rig.wait_running(name)
        script.silent = True
        with pytest.raises(UnavailableError):
            await rig.kill(name)
        await rig.stop()
        script.silent = False
        rig.start()
        assert (await rig.wait_ended(name)).status is SessionStatus.KILLED


async def test_killing_what_has_ended_is_refused_and_changes_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        name = await rig.spawn()
        before = await rig.wait_ended(name)
        answer = await rig.kill(name)
        assert isinstance(answer, Rejected)
        assert answer.code == "NOTHING_RUNS"
        assert await rig.row(name) == before
