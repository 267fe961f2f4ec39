"""Work of the control plane on its node: begun once, told of durably, stopped as its policy says."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambientd.core.assignments import AssignmentState, StopCause, Told
from ambientd.core.records import NewEvent, RunRecord, SessionChange, UsageRecord
from ambientd.ports.controlplane import ControlAnswer
from ambientd.services.push import RoundResult
from ambientd.wire.enums import EventType, SessionStatus
from tests.pushkit import LOST, OK, UNHEARD, NodeRig, node_beside
from tests.store.kit import AT

BIG = {"bandwidth_mbps": 1000, "cpu_cores": 16, "memory_gb": 64}


async def submit(rig: NodeRig, **fields: Any) -> str:
    inputs = {"agent_id": "echo", "prompt": "Say something", "title": "Words"}
    return await rig.owner.submit(task_type="agent_session", inputs=inputs, **fields)


async def end(rig: NodeRig, session_id: str, status: SessionStatus = SessionStatus.SUCCESS) -> None:
    """The session ends as the runner ends one."""

    def work(tx: Any) -> None:
        text = NewEvent(
            event_type=EventType.MESSAGE, at=AT, payload={"stream": "stdout", "text": "something"}
        )
        tx.ledger.append(session_id, [text])
        tx.usage.put(UsageRecord(session_id=session_id, total_tokens=42, computed_at=AT))
        tx.ledger.change(session_id, SessionChange(status=status, ended_at=rig.clock.now(), runtime_ms=1500))

    await rig.write(work)


async def sessions(rig: NodeRig) -> list[str]:
    return [row.session_id for row in await rig.store.read(lambda tx: tx.ledger.active())]


async def mine(rig: NodeRig, task_id: str) -> Any:
    return await rig.store.read(lambda tx: tx.assignments.get(task_id))


async def task(rig: NodeRig, task_id: str) -> Any:
    return await rig.owner.get(f"/tasks/{task_id}")


async def test_a_task_runs_as_a_session_and_its_result_comes_back(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig)
        await rig.sync()
        [session_id] = await sessions(rig)
        row = await rig.store.read(lambda tx: tx.ledger.get(session_id))
        assert row is not None
        assert (row.agent_id, row.task_text, row.task_title) == ("echo", "Say something", "Words")
        assert rig.sessions.woken
        await rig.sync()
        assert (await task(rig, task_id))["status"] == "running"
        assert (await mine(rig, task_id)).told is Told.IN_PROGRESS
        await end(rig, session_id)
        await rig.drain()
        found = await task(rig, task_id)
        assert found["status"] == "completed"
        assert found["former_assigned_nodes"] == ["edge-1"]
        assert found["result"] == {
            "session_id": session_id,
            "status": "success",
            "agent_id": "echo",
            "model_id": "unknown",
            "runtime_ms": 1500,
            "ended_at": "2026-11-20T12:00:00.000Z",
            "artifacts": 0,
            "output": "something",
            "usage": {"total_tokens": 42},
        }
        assert rig.there()["sessions"] == (await rig.here())["sessions"]
        shown = await rig.owner.get(f"/nodes/edge-1/ledger/{session_id}")
        assert shown["session"]["task_id"] == task_id


@pytest.mark.parametrize("fault", [LOST, UNHEARD])
@pytest.mark.parametrize("place", range(7))
async def test_whatever_is_lost_it_runs_once_and_is_told_of(tmp_path: Path, fault: str, place: int) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig)
        rig.wire.faults = [*[OK] * place, fault]
        await rig.sync()
        rig.restart()
        await rig.sync()
        [session_id] = await sessions(rig)
        await end(rig, session_id)
        rig.wire.faults = [*[OK] * place, fault]
        await rig.sync()
        rig.restart()
        await rig.drain()
        assert (await task(rig, task_id))["status"] == "completed"
        assert len((await rig.here())["sessions"]) == 1
        assert rig.there() == await rig.here()


async def test_an_agent_that_is_not_here_fails_the_task_with_the_reason(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        rig.agents.clear()
        await rig.drain()
        task_id = await submit(rig)
        await rig.drain()
        found = await task(rig, task_id)
        assert found["status"] == "failed"
        assert found["result"]["error"]["code"] == "NOT_FOUND"
        assert await sessions(rig) == []


async def test_an_operator_may_refuse_all_work(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        rig.wanted = False
        await rig.drain()
        task_id = await submit(rig)
        await rig.drain()
        assert (await task(rig, task_id))["result"]["error"]["code"] == "tasks_refused"
        assert await sessions(rig) == []


async def test_work_of_another_kind_is_refused_with_words(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await rig.owner.submit()
        await rig.drain()
        found = await task(rig, task_id)
        assert (found["status"], found["result"]["error"]["code"]) == ("failed", "unsupported_task_type")


async def test_reconnecting_leaves_healthy_work_alone(tmp_path: Path) -> None:
    """N8: online or offline, whatever restarts: the session that runs is not begun again and not ended."""
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig)
        await rig.sync()
        before = await sessions(rig)
        for reboot, away in ((False, False), (True, False), (False, True), (True, True)):
            if away:
                rig.wire.always = LOST
                rig.later(3 * 3600)
                await rig.api.sweep()
                await rig.sample()
                await rig.sync()
                assert (await rig.owner.get("/nodes/edge-1"))["status"] == "offline"
            if reboot:
                rig.hand.reboot(60_000)
            rig.restart()
            rig.wire.always = OK
            await rig.sync()
            assert (await rig.owner.get("/nodes/edge-1"))["status"] == "online"
            assert await sessions(rig) == before
            assert rig.sessions.ended == []
        await end(rig, before[0])
        await rig.drain()
        assert (await task(rig, task_id))["status"] == "completed"


async def test_a_task_that_was_cleared_is_stopped_here(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig)
        await rig.sync()
        [session_id] = await sessions(rig)
        await rig.write(lambda tx: tx.ledger.change(session_id, SessionChange(status=SessionStatus.RUNNING)))
        await rig.write(lambda tx: tx.runs.put(RunRecord(session_id=session_id, attempt=1)))
        await rig.owner.delete(f"/tasks/{task_id}")
        await rig.sync()
        assert (await mine(rig, task_id)).stop_cause is StopCause.VERDICT
        assert rig.sessions.ended == [session_id]
        await end(rig, session_id, SessionStatus.KILLED)
        await rig.drain()
        assert (await mine(rig, task_id)).told is Told.ENDED
        events = (await rig.owner.get("/nodes/edge-1/heartbeat/activity"))["events"]
        assert [event["event"] for event in events] == ["task_cleared"]


async def test_a_task_that_never_began_and_was_cleared_is_forgotten(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig)
        rig.wire.faults = [OK, UNHEARD]  # the reconciliation's answer
        await rig.sync()
        await rig.owner.delete(f"/tasks/{task_id}")
        await rig.drain()
        assert await sessions(rig) == []


async def test_the_policy_stop_ends_work_without_any_answer_and_another_node_gets_it(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig, away={"policy": "stop", "after_sec": 600})
        await rig.sync()
        [session_id] = await sessions(rig)
        await rig.write(lambda tx: tx.ledger.change(session_id, SessionChange(status=SessionStatus.RUNNING)))
        await rig.write(lambda tx: tx.runs.put(RunRecord(session_id=session_id, attempt=1)))
        await rig.sync()
        await rig.sample()  # keeps when the control plane was last heard of
        rig.wire.always = LOST
        rig.later(599)
        rig.restart()
        await rig.service._enter()
        await rig.service._end_overdue()
        assert rig.sessions.ended == []
        rig.later(2)
        await rig.service._end_overdue()
        assert rig.sessions.ended == [session_id]
        await end(rig, session_id, SessionStatus.KILLED)
        other = await rig.owner.join("edge-2", node_type="any", capabilities=BIG)
        await rig.drain()
        assert (await mine(rig, task_id)).state is AssignmentState.STOPPED
        found = await task(rig, task_id)
        assert found["status"] == "running"
        assert set(found["assigned_nodes"]) <= {"edge-1", other.node_id}


async def test_a_second_attempt_after_a_stop_is_a_second_session(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig, away={"policy": "stop", "after_sec": 600})
        await rig.sync()
        [first] = await sessions(rig)
        await rig.write(lambda tx: tx.runs.put(RunRecord(session_id=first, attempt=1)))
        await rig.write(lambda tx: tx.ledger.change(first, SessionChange(status=SessionStatus.RUNNING)))
        await rig.sync()
        rig.later(601)
        await rig.service._end_overdue()
        await end(rig, first, SessionStatus.KILLED)
        await rig.sync()
        await rig.sync()
        await rig.sync()
        [second] = await sessions(rig)
        assert second != first
        assert (await mine(rig, task_id)).attempt == 2
        await end(rig, second)
        await rig.drain()
        assert (await task(rig, task_id))["result"]["session_id"] == second


async def test_tasks_that_both_sides_have_ended_are_forgotten_after_a_month(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig)
        await rig.sync()
        await end(rig, (await sessions(rig))[0])
        await rig.drain()
        rig.later(29 * 86_400)
        rig.service._forget_at = 0.0
        await rig.sync()
        assert await mine(rig, task_id) is not None
        rig.later(2 * 86_400)
        rig.service._forget_at = 0.0
        await rig.sync()
        assert await mine(rig, task_id) is None


async def test_work_of_many_megabytes_comes_in_several_answers_and_holds_nothing_up(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        bob = await rig.api.person("bob")
        inputs = {"a": ["x" * 9_000] * 400}
        tasks = [await bob.submit(inputs=inputs) for _ in range(4)]
        own = await submit(rig)
        await rig.record(3)
        # What this node does not do has failed; all of it was told of, and so was the rest.
        await rig.drain()
        for _ in range(3):
            rig.later(60)
            await rig.drain()
        assert {(await bob.get(f"/tasks/{one}"))["status"] for one in tasks} == {"failed"}
        assert (await mine(rig, own)).state is AssignmentState.RUNNING
        assert len(rig.there()["audit"]) == len((await rig.here())["audit"])


async def running(rig: NodeRig, task_id: str) -> str:
    """The session of a task that has begun."""
    await rig.sync()
    session_id = str((await mine(rig, task_id)).session_id)
    await rig.write(lambda tx: tx.ledger.change(session_id, SessionChange(status=SessionStatus.RUNNING)))
    await rig.write(lambda tx: tx.runs.put(RunRecord(session_id=session_id, attempt=1)))
    await rig.sync()
    return session_id


@pytest.mark.parametrize("status", [503, 422])
async def test_only_a_report_that_was_taken_is_a_sign_of_the_control_plane(
    tmp_path: Path, status: int
) -> None:
    """It counts from the last report when it gives the work to another node; whatever else it answers."""
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        session_id = await running(rig, await submit(rig, away={"policy": "stop", "after_sec": 600}))
        real = rig.wire.send

        async def send(method: str, target: str, *rest: Any, **more: Any) -> ControlAnswer:
            if target.endswith(("/heartbeat", "/reports")):
                return ControlAnswer(status=status, headers={}, body=b"{}")
            return await real(method, target, *rest, **more)

        rig.wire.send = send  # type: ignore[method-assign]
        for _ in range(11):
            rig.later(60)
            await rig.sync()
            await rig.service._end_overdue()
        assert rig.sessions.ended == [session_id]


async def test_what_was_to_be_ended_is_ended_after_a_restart_too(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig, away={"policy": "stop", "after_sec": 600})
        session_id = await running(rig, task_id)
        row = await mine(rig, task_id)
        wanted = msgspec.structs.replace(row, stop_cause=StopCause.AWAY)
        await rig.write(lambda tx: tx.assignments.put(wanted))
        rig.wire.always = LOST
        rig.restart()
        await rig.service._turn()
        assert rig.sessions.ended == [session_id]
        await end(rig, session_id, SessionStatus.KILLED)
        rig.service._beat_at = 0.0
        await rig.service._turn()
        assert rig.sessions.ended == [session_id]
        assert (await mine(rig, task_id)).state is AssignmentState.STOPPED


async def test_leaving_ends_work_that_must_not_go_on_alone(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        waits = await running(rig, await submit(rig))
        stops = await running(rig, await submit(rig, away={"policy": "stop", "after_sec": 600}))
        await rig.service.end_alone()
        assert rig.sessions.ended == [stops]
        assert waits in await sessions(rig)


async def test_what_came_of_work_is_told_to_nobody_but_who_gave_it(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        ended, runs = await submit(rig), await submit(rig)
        await running(rig, ended)
        first, second = [str((await mine(rig, one)).session_id) for one in (ended, runs)]
        await running(rig, runs)
        await end(rig, first)
        await rig.service._drain(RoundResult())
        rig.wire.sent.clear()
        rig.wire.always = LOST
        assert rig.file.current is not None
        rig.file.current = msgspec.structs.replace(rig.file.current, url="http://127.0.0.1:9999")
        await rig.sync()
        assert rig.sessions.ended == [second]
        await end(rig, second, SessionStatus.KILLED)
        rig.wire.always = OK
        await rig.drain()
        assert not [path for path in rig.wire.paths("POST") if path.endswith("/result")]
        assert [(await mine(rig, one)).told for one in (ended, runs)] == [Told.ENDED, Told.ENDED]


async def test_a_task_that_runs_too_long_is_ended_and_fails_with_that_reason(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig, requirements={"max_execution_time_sec": 300})
        session_id = await running(rig, task_id)
        rig.wire.always = LOST  # it needs nobody for this
        rig.later(299)
        rig.restart()  # and has not begun anew
        await rig.service._enter()
        await rig.service._end_overdue()
        assert rig.sessions.ended == []
        rig.later(1)
        await rig.service._end_overdue()
        assert rig.sessions.ended == [session_id]
        await end(rig, session_id, SessionStatus.KILLED)
        rig.wire.always = OK
        await rig.drain()
        found = await task(rig, task_id)
        assert found["status"] == "failed"
        assert found["result"]["error"]["code"] == "time_limit"
        assert "300 seconds" in found["result"]["error"]["message"]


async def test_what_was_done_in_the_last_moment_is_done(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        task_id = await submit(rig, requirements={"max_execution_time_sec": 300})
        session_id = await running(rig, task_id)
        rig.later(301)
        await rig.service._end_overdue()
        await end(rig, session_id, SessionStatus.SUCCESS)
        await rig.drain()
        found = await task(rig, task_id)
        assert (found["status"], "error" in found["result"]) == ("completed", False)
