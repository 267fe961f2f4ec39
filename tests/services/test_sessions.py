from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ambientd.core.breaker import RETRY_AFTER_SEC
from ambientd.flows import runs
from ambientd.ports.errors import UnavailableError
from ambientd.ports.runner import ArtifactFile
from ambientd.wire.enums import SessionStatus
from tests.services.rig import Rig, rigged

# --- one life


async def test_a_session_runs_and_its_ledger_tells_the_whole_story(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hello", "sleep:5", "err:careful", "exit:0")
        name = await rig.spawn()
        rig.runner.left_artifacts[name] = [ArtifactFile(name="a.txt", bytes=3, sha256="0" * 64)]
        row = await rig.wait_ended(name)
        events = await rig.events(name)
        usage = await rig.usage(name)
    assert (row.status, row.runtime_ms, row.artifact_count, row.error_code) == (
        SessionStatus.SUCCESS,
        5000,
        1,
        None,
    )
    assert row.running_since is not None
    assert row.ended_at is not None
    assert (row.ended_at - row.running_since).total_seconds() == 5
    assert [(event.seq, event.event_type.value) for event in events] == [
        (1, "state_transition"),
        (2, "state_transition"),
        (3, "message"),
        (4, "message"),
        (5, "artifact"),
        (6, "state_transition"),
    ]
    assert events[3].payload == {"stream": "err", "text": "careful"}
    last = events[-1].payload
    assert (last["from"], last["to"], last["cause"], last["exit_code"], last["proof"]) == (
        "running",
        "success",
        "exit",
        0,
        True,
    )
    assert usage is not None
    assert (usage.runtime_ms, usage.total_tokens) == (5000, None)
    assert rig.tasks_ended == 1


async def test_the_prompt_the_model_and_the_ids_reach_the_run_and_the_bounds_with_them(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.bounds = replace(rig.bounds, grace=3.0, output_limit=5000)
        rig.add("say:{prompt}", model="m/1", environment={"K": "v"}, memory_limit=2**30, cpu_time_limit=1.2)
        name = await rig.spawn(prompt="two words", model="m/2")
        await rig.wait_ended(name)
        said = await rig.texts(name)
    ((_, spec),) = rig.runner.launches
    assert said == ["two words"]
    assert (spec.stdin, spec.attempt, spec.grace, spec.output_limit) == ("two words", 1, 3.0, 5000)
    assert spec.environment == {
        "K": "v",
        "AMBIENT_SESSION_ID": name,
        "AMBIENT_AGENT_ID": "worker",
        "AMBIENT_MODEL": "m/2",
    }
    assert (spec.limits.memory, spec.limits.cpu_time) == (2**30, 1)


async def test_a_failed_agent_is_failed_and_says_with_which_status(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("exit:3")
        row = await rig.wait_ended(await rig.spawn())
    assert (row.status, row.error_code, row.error_message) == (
        SessionStatus.FAILED,
        "exit_status",
        "exited with status 3",
    )


async def test_a_run_past_its_time_limit_is_failed_as_such(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever", timeout=30.0)
        row = await rig.wait_ended(await rig.spawn())
    assert (row.status, row.error_code, row.runtime_ms) == (SessionStatus.FAILED, "timeout", 30_000)
    assert row.error_message == "ended after its time limit of 30 s"


async def test_the_time_limit_is_told_truly_when_the_agent_left_the_configuration_meanwhile(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever", timeout=30.0)
        name = await rig.spawn()
        await rig.wait_running(name)
        await rig.stop()
        rig.agents.clear()
        rig.start()
        row = await rig.wait_ended(name)
    assert row.error_message == "ended after its time limit of 30 s"


# --- the queue


async def test_no_more_run_at_once_than_the_agent_and_the_node_allow(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    most: dict[str, int] = {"a": 0, "b": 0, "all": 0}
    async with rigged(tmp_path) as rig:
        rig.bounds = replace(rig.bounds, max_concurrent=3)
        rig.add("sleep:10", id="a", max_concurrent=2)
        rig.add("sleep:10", id="b", max_concurrent=5)
        names = [await rig.spawn("a") for _ in range(6)] + [await rig.spawn("b") for _ in range(6)]

        async def count() -> None:
            while True:
                playing = rig.runner.playing()
                by = [names.index(name) < 6 for name in playing]
                most["a"] = max(most["a"], sum(by))
                most["b"] = max(most["b"], len(by) - sum(by))
                most["all"] = max(most["all"], len(by))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for name in names:
                assert (await rig.wait_ended(name)).status is SessionStatus.SUCCESS
            nursery.cancel_scope.cancel()
    assert most == {"a": 2, "b": 3, "all": 3}
    started = {spec.session_id: at for at, spec in rig.runner.launches}
    assert [started[name] for name in names[:6]] == sorted(started[name] for name in names[:6])


async def test_a_raised_bound_is_used_at_the_next_wake(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever", max_concurrent=1)
        names = [await rig.spawn() for _ in range(3)]
        await rig.wait_running(names[0])
        await trio.sleep(60)
        assert rig.runner.playing() == names[:1]
        rig.add("forever", max_concurrent=3)
        rig.service.wake()
        for name in names:
            await rig.wait_running(name)
        assert rig.service.live == 3


async def test_what_waits_is_told_of_nothing_before_its_turn(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("sleep:100")
        first, second = await rig.spawn(), await rig.spawn()
        await rig.wait_running(first)
        assert await rig.steps(second) == ["queued"]
        assert (await rig.run_record(second)).attempt == 0
        await rig.wait_ended(second)
        assert await rig.steps(second) == ["queued", "running", "success"]


# --- starts that fail


async def test_failing_launches_open_a_breaker_after_three_and_nothing_is_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        rig.runner.launches_to_fail = 5
        names = [await rig.spawn() for _ in range(4)]
        await trio.sleep(30)
        assert len(rig.runner.launches) == 3
        assert rig.service.open_breakers() == {"worker": "no shim today"}
        assert {await rig.status(name) for name in names} == {SessionStatus.QUEUED}
        for name in names:
            assert (await rig.wait_ended(name)).status is SessionStatus.SUCCESS
        assert rig.service.open_breakers() == {}
    times = [at for at, _ in rig.runner.launches]
    assert times[3] - times[2] == pytest.approx(RETRY_AFTER_SEC, abs=2)
    assert times[4] - times[3] == pytest.approx(RETRY_AFTER_SEC, abs=2)
    assert times[5] - times[4] == pytest.approx(RETRY_AFTER_SEC, abs=2)
    assert times[-1] - times[5] < 5
    assert rig.log.events().count("agent.breaker_open") == 1


async def test_a_breaker_holds_back_its_own_agent_only(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("missing", id="broken")
        rig.add("say:hi", id="fine")
        broken = [await rig.spawn("broken") for _ in range(5)]
        await trio.sleep(10)
        assert (await rig.wait_ended(await rig.spawn("fine"))).status is SessionStatus.SUCCESS
        assert [await rig.status(name) for name in broken] == [SessionStatus.FAILED] * 3 + [
            SessionStatus.QUEUED
        ] * 2


async def test_a_program_that_cannot_be_started_fails_its_session_and_counts_for_the_breaker(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("missing")
        names = [await rig.spawn() for _ in range(4)]
        row = await rig.wait_ended(names[0])
        assert (row.status, row.error_code) == (SessionStatus.FAILED, "not_found")
        assert await rig.steps(names[0]) == ["queued", "failed"]
        await rig.wait_ended(names[2])
        await trio.sleep(30)
        assert await rig.status(names[3]) is SessionStatus.QUEUED
        rig.add("say:hi")  # the operator mends it
        assert (await rig.wait_ended(names[3])).status is SessionStatus.SUCCESS


async def test_a_breaker_closes_when_the_trial_runs_and_not_only_when_it_has_ended(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("sleep:3000", max_concurrent=5)
        rig.runner.launches_to_fail = 3
        names = [await rig.spawn() for _ in range(4)]
        await trio.sleep(RETRY_AFTER_SEC + 10)
        assert rig.service.open_breakers() == {}
        assert sorted(rig.runner.playing()) == sorted(names)


async def test_an_agent_that_left_the_configuration_fails_what_waits_for_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("sleep:10")
        first, second = await rig.spawn(), await rig.spawn()
        await rig.wait_running(first)
        rig.agents.clear()
        gone = await rig.wait_ended(second)
        assert (await rig.wait_ended(first)).status is SessionStatus.SUCCESS
    assert (gone.status, gone.error_code) == (SessionStatus.FAILED, "unknown_agent")


async def test_an_unreadable_environment_file_fails_the_session_and_says_why(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        rig.environment.bad["worker"] = "/etc/x.env can be read by others"
        row = await rig.wait_ended(await rig.spawn())
    assert (row.status, row.error_code, row.error_message) == (
        SessionStatus.FAILED,
        "bad_environment",
        "/etc/x.env can be read by others",
    )
    assert rig.runner.launches == []


async def test_a_run_whose_shim_is_gone_is_failed_as_lost(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi", "sleep:3", "crash")
        name = await rig.spawn()
        row = await rig.wait_ended(name)
        usage = await rig.usage(name)
        last = (await rig.events(name))[-1].payload
        assert await rig.texts(name) == ["hi"]
    assert (row.status, row.error_code) == (SessionStatus.FAILED, "runner_lost")
    assert last["proof"] is False
    assert usage is not None
    assert usage.runtime_confidence.value == "low"


async def test_a_killed_session_whose_shim_is_gone_is_not_called_killed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever")
        name = await rig.spawn()
        script = await rig.wait_running(name)
        script.silent = True
        with pytest.raises(UnavailableError):
            await rig.kill(name)
        script.lose()
        row = await rig.wait_ended(name)
    assert (row.status, row.error_code) == (SessionStatus.FAILED, "runner_lost")


# --- bounds


async def test_output_past_the_bound_is_counted_and_not_kept_and_the_end_is_told_all_the_same(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "OUTPUT_EVENTS_MAX", 10)
    async with rigged(tmp_path) as rig:
        rig.add(*(f"say:{number}" for number in range(25)))
        name = await rig.spawn()
        row = await rig.wait_ended(name)
        assert await rig.texts(name) == [str(number) for number in range(10)]
        last = (await rig.events(name))[-1].payload
        record = await rig.run_record(name)
    assert row.status is SessionStatus.SUCCESS
    assert last["output_dropped_events"] == 15
    assert (record.output_events, record.output_dropped, record.spool_offset) == (10, 15, 25)


async def test_the_bound_holds_over_a_restart(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "OUTPUT_EVENTS_MAX", 5)
    async with rigged(tmp_path) as rig:
        rig.add("say:1", "say:2", "say:3", "sleep:50", *(f"say:{number}" for number in range(4, 10)))
        name = await rig.spawn()
        await rig.wait_running(name)
        await trio.sleep(5)
        await rig.stop()
        rig.start()
        await rig.wait_ended(name)
        assert await rig.texts(name) == ["1", "2", "3", "4", "5"]
        assert (await rig.run_record(name)).output_dropped == 4


async def test_a_kill_is_not_forgotten_by_output_that_is_written_at_the_same_time(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("deaf", *(step for n in range(40) for step in (f"say:{n}", "sleep:0.1")), "forever")
        rig.bounds = replace(rig.bounds, grace=2.0)
        name = await rig.spawn()
        await rig.wait_running(name)
        await rig.kill(name)
        row = await rig.wait_ended(name)
        assert (await rig.run_record(name)).end_cause == "killed"
    assert row.status is SessionStatus.KILLED


# --- idleness


async def test_an_idle_service_asks_the_store_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("forever")
        await rig.wait_running(await rig.spawn())
        await trio.sleep(5)
        reads = _counted(rig)
        await trio.sleep(3000)
        assert reads() == 0


def _counted(rig: Rig) -> Callable[[], int]:
    asked = []
    real = rig.store.read

    async def counting(work: Callable[..., object]) -> object:
        asked.append(1)
        return await real(work)

    rig.store.read = counting  # type: ignore[method-assign,assignment]
    return lambda: len(asked)


async def test_events_of_a_session_are_never_written_after_its_end(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.add("say:hi")
        name = await rig.spawn()
        await rig.wait_ended(name)
        before = await rig.events(name)
        await rig.stop()
        rig.start()
        await trio.sleep(100)
        assert await rig.events(name) == before
        assert before[-1].payload["to"] == "success"
