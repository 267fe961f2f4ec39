"""Work from submission to its end, on both databases."""

from typing import Any

from ambientd.core.fleet.records import Requirements
from ambientd.flows.fleet.work import (
    WorkRules,
    delete_node,
    delete_task,
    end_session,
    finish,
    note_result,
    offer_pending,
    offer_to_node,
    reconcile_node,
    register,
    reject_node,
    release,
    submit,
)
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import (
    ConnectStatus,
    DetachReason,
    ExecutionStatus,
    NodeStatus,
    NodeType,
    TaskStatus,
    Verdict,
)
from tests.store.fleet.kit import (
    Place,
    add_node,
    add_user,
    connect_session,
    credential,
    later,
    new_node,
    new_task,
    opened,
    report,
    scene,
)

RULES = WorkRules()


async def nodes_of(store: FleetStore, task_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    task = await store.read(lambda tx: tx.tasks.get(task_id))
    assert task is not None
    return task.assigned_nodes, task.former_assigned_nodes


async def status_of(store: FleetStore, task_id: str) -> TaskStatus:
    task = await store.read(lambda tx: tx.tasks.get(task_id))
    assert task is not None
    return task.status


def submitted(task_id: str, **fields: Any) -> Any:
    return lambda tx: submit(tx, new_task(task_id, **fields), RULES)


async def test_a_task_goes_to_the_oldest_that_can_and_runs_when_it_has_enough(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        two = await store.write(submitted("t1", requirements=Requirements(min_nodes=2)))
        assert (two.assigned_nodes, two.status) == (("n1", "n2"), TaskStatus.RUNNING)
        many = await store.write(submitted("t2", requirements=Requirements(min_nodes=9)))
        assert (many.assigned_nodes, many.status) == (("b1", "n1", "n2", "n3"), TaskStatus.PENDING)
        gpu = await store.write(submitted("t3", requirements=Requirements(require_gpu=True)))
        assert (gpu.assigned_nodes, gpu.status) == ((), TaskStatus.PENDING)


async def test_a_full_node_is_passed_over_however_many_there_are(place: Place) -> None:
    def crowd(tx: FleetTransaction) -> None:
        add_user(tx, "ann")
        for n in range(300):  # more than one page of candidates
            add_node(tx, f"n{n:03}", at=later(n))
        tx.tasks.add(new_task("old"))
        for n in range(299):
            tx.assignments.attach("old", f"n{n:03}", later(0))

    async with opened(place) as store:
        await store.write(crowd)
        task = await store.write(lambda tx: submit(tx, new_task("t1"), WorkRules(max_active=1)))
        assert task.assigned_nodes == ("n299",)
        task = await store.write(lambda tx: submit(tx, new_task("t2"), WorkRules(max_active=1)))
        assert (task.assigned_nodes, task.status) == ((), TaskStatus.PENDING)


async def test_a_new_node_gets_what_waits_oldest_first_up_to_its_limit(place: Place) -> None:
    def waiting(tx: FleetTransaction) -> None:
        add_user(tx, "ann")
        for n in range(4):
            tx.tasks.add(new_task(f"t{n}", at=later(n)))
        tx.tasks.add(new_task("c1", task_type="connect_only", at=later(-2)))
        tx.tasks.add(new_task("c2", task_type="connect_only", at=later(-1)))

    async with opened(place) as store:
        await store.write(waiting)
        node = new_node("n1", node_type=NodeType.ANY)
        assert await store.write(lambda tx: register(tx, node, later(9), WorkRules(max_active=3))) is not None
        assert [await status_of(store, task) for task in ("c1", "c2", "t0", "t1", "t2")] == [
            TaskStatus.RUNNING,
            TaskStatus.PENDING,  # one connect session at a time
            TaskStatus.RUNNING,
            TaskStatus.RUNNING,
            TaskStatus.PENDING,
        ]
        assert await store.write(lambda tx: offer_to_node(tx, "n1", later(10), WorkRules(max_active=3))) == []
        assert await store.write(lambda tx: offer_to_node(tx, "nobody", later(10), RULES)) == []
        given = await store.write(lambda tx: offer_to_node(tx, "n1", later(10), RULES))
        assert given == ["t2", "t3"]


async def test_the_first_completed_part_ends_a_task(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(submitted("t1", requirements=Requirements(min_nodes=2)))
        failed, done = ExecutionStatus.FAILED, ExecutionStatus.COMPLETED
        task = await store.write(lambda tx: note_result(tx, "t1", "n1", failed, later(1)))
        assert task is not None
        assert task.status is TaskStatus.RUNNING
        assert await store.write(lambda tx: note_result(tx, "t1", "n3", done, later(1))) is None
        task = await store.write(lambda tx: note_result(tx, "t1", "n2", done, later(2), result={"r": 1}))
        assert task is not None
        assert (task.status, task.result, task.assigned_nodes) == (TaskStatus.COMPLETED, {"r": 1}, ())
        assert task.former_assigned_nodes == ("n1", "n2")
        parts = await store.read(lambda tx: tx.assignments.of_task("t1"))
        assert [part.execution_status for part in parts] == [failed, done]
        again = await store.write(lambda tx: note_result(tx, "t1", "n2", done, later(3), result={"r": 2}))
        assert again is None
        assert not await store.write(lambda tx: finish(tx, "t1", TaskStatus.FAILED, later(3)))


async def test_a_task_fails_when_all_its_nodes_have(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(submitted("t1", requirements=Requirements(min_nodes=2)))
        for node in ("n1", "n2"):
            await store.write(
                lambda tx, node=node: note_result(  # type: ignore[misc]
                    tx, "t1", node, ExecutionStatus.FAILED, later(1), result={"error": node}
                )
            )
        task = await store.read(lambda tx: tx.tasks.get("t1"))
    assert task is not None
    assert (task.status, task.result) == (TaskStatus.FAILED, {"error": "n2"})


async def test_work_of_a_deleted_node_goes_to_another_and_its_credentials_end(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.devices.add(credential("c1", "n1")))
        await store.write(submitted("t1"))
        assert await store.write(lambda tx: delete_node(tx, "n1", "bob", later(5), RULES)) is None
        assert await store.write(lambda tx: delete_node(tx, "n1", "ann", later(5), RULES)) == ["t1"]
        assert await nodes_of(store, "t1") == (("n2",), ("n1",))
        (device,) = await store.read(lambda tx: tx.devices.credentials("n1"))
        assert device.revoked_at == later(5)
        assert await store.write(lambda tx: reject_node(tx, "n2", "ann", later(6), RULES)) == ["t1"]
        assert await nodes_of(store, "t1") == (("n3",), ("n1", "n2"))
        assert await store.write(lambda tx: delete_node(tx, "n1", "ann", later(7), RULES)) is None
        anew = await store.write(lambda tx: register(tx, new_node("n1"), later(8), RULES))
    assert anew is not None
    assert anew.status is NodeStatus.ONLINE


async def test_a_task_cleared_after_its_session_ended_leaves_an_event(place: Place) -> None:
    """The node is only a former one then (R1.34)."""
    async with opened(place) as store:
        await store.write(scene)
        node = new_node("n1", node_type=NodeType.OPEN_INTERNET)
        await store.write(lambda tx: register(tx, node, later(1), RULES))
        await store.write(submitted("c1", task_type="connect_only"))
        session = connect_session("s", task_id="c1")
        await store.write(lambda tx: tx.sessions.start(session))
        ended = ConnectStatus.ENDED
        assert await store.write(lambda tx: end_session(tx, "ann", "s", ended, "stop", later(2)))
        assert not await store.write(lambda tx: end_session(tx, "ann", "s", ended, "stop", later(3)))
        assert await nodes_of(store, "c1") == ((), ("n1",))
        assert await store.write(lambda tx: delete_task(tx, "c1", "bob", later(4))) is None
        gone = await store.write(lambda tx: delete_task(tx, "c1", "ann", later(4)))
        assert gone is not None
        assert gone.events == 1
        (event,) = await store.read(lambda tx: tx.history.activity("n1", 9))
    assert (event.task_id, event.task_type, event.at) == ("c1", "connect_only", later(4))


async def test_the_end_of_a_task_ends_its_sessions(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(submitted("t1"))
        await store.write(lambda tx: tx.sessions.start(connect_session("s")))
        await store.write(lambda tx: finish(tx, "t1", TaskStatus.COMPLETED, later(1), result=1))
        session = await store.read(lambda tx: tx.sessions.get("ann", "s"))
    assert session is not None
    assert (session.status, session.ended_at) == (ConnectStatus.ENDED, later(1))


async def test_healthy_work_of_a_node_that_is_back_goes_on(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
    place.rows("UPDATE nodes SET status = 'offline' WHERE node_id <> 'n1'")
    async with opened(place) as store:
        for task in ("moved", "lost", "done", "fresh"):
            await store.write(submitted(task))
        begun = ExecutionStatus.IN_PROGRESS
        for task in ("moved", "lost", "done"):
            await store.write(
                lambda tx, task=task: tx.assignments.note_execution(task, "n1", begun, later(1))  # type: ignore[misc]
            )
        for task in ("moved", "done"):
            await store.write(
                lambda tx, task=task: release(tx, task, ("n1",), DetachReason.MOVED, later(2), RULES)  # type: ignore[misc]
            )
        assert (await nodes_of(store, "moved"))[0] == ("n1",), "the only one online is asked again"
        await store.write(lambda tx: release(tx, "moved", ("n1",), DetachReason.MOVED, later(2), RULES))
    place.rows("UPDATE nodes SET status = CASE node_id WHEN 'n2' THEN 'online' ELSE 'offline' END")
    async with opened(place) as store:
        for task in ("moved", "done"):
            await store.write(
                lambda tx, task=task: release(tx, task, ("n1",), DetachReason.MOVED, later(3), RULES)  # type: ignore[misc]
            )
        assert await nodes_of(store, "moved") == (("n2",), ("n1",))
        await store.write(
            lambda tx: note_result(tx, "done", "n2", ExecutionStatus.COMPLETED, later(4), result=1)
        )
        await store.write_reports([report("n1", 5)])
        runs = ["moved", "done", "unknown"]
        found = await store.write(lambda tx: reconcile_node(tx, "n1", runs, later(6), RULES))
        assert found.verdicts == {
            "moved": Verdict.KEEP,
            "done": Verdict.STOP,
            "unknown": Verdict.STOP,
            "lost": Verdict.START,
            "fresh": Verdict.START,
        }
        assert await nodes_of(store, "moved") == (("n1",), ("n2",)), "who had not begun gives it back"
        lost = await store.read(lambda tx: tx.assignments.get("lost", "n1"))
        again = await store.write(lambda tx: reconcile_node(tx, "n1", ["moved"], later(7), RULES))
    assert lost is not None
    assert (lost.attempt, lost.execution_status) == (2, ExecutionStatus.ASSIGNED)
    assert again.verdicts["moved"] is Verdict.KEEP


async def test_work_that_another_node_has_begun_is_not_taken_from_it(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(submitted("t1"))
    place.rows("UPDATE nodes SET status = 'offline' WHERE node_id = 'n1'")
    async with opened(place) as store:
        await store.write(lambda tx: release(tx, "t1", ("n1",), DetachReason.MOVED, later(2), RULES))
        begun = ExecutionStatus.IN_PROGRESS
        await store.write(lambda tx: tx.assignments.note_execution("t1", "n2", begun, later(3)))
        found = await store.write(lambda tx: reconcile_node(tx, "n1", ["t1"], later(4), RULES))
        assert found.verdicts == {"t1": Verdict.KEEP}
        assert (await nodes_of(store, "t1"))[0] == ("n1", "n2"), "both run it; the first result ends it"


async def test_what_is_pending_is_offered_again(place: Place) -> None:
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        await store.write(submitted("t1"))
        await store.write(lambda tx: add_node(tx, "n1"))
        assert await store.write(lambda tx: offer_pending(tx, later(1), RULES)) == ["t1"]
        assert await store.write(lambda tx: offer_pending(tx, later(1), RULES)) == []


async def test_strangers_fill_a_node_up_to_what_its_owner_keeps(place: Place) -> None:
    rules = WorkRules(max_active=4)

    async def hand_in(task_id: str, creator_id: str) -> TaskStatus:
        task = new_task(task_id, creator_id)
        return (await store.write(lambda tx: submit(tx, task, rules))).status

    async with opened(place) as store:
        await store.write(scene)
        for node_id in ("n2", "n3", "b1"):
            owner = "bob" if node_id == "b1" else "ann"
            await store.write(lambda tx, n=node_id, o=owner: tx.nodes.reject(n, o, later(0)))  # type: ignore[misc]
        theirs = [await hand_in(f"b{n}", "bob") for n in range(4)]
        assert theirs == [TaskStatus.RUNNING] * 2 + [TaskStatus.PENDING] * 2
        assert [await hand_in(f"a{n}", "ann") for n in range(3)] == [TaskStatus.RUNNING] * 2 + [
            TaskStatus.PENDING
        ]
        # One of the owner's ends: its place is the owner's again.
        await store.write(lambda tx: finish(tx, "a0", TaskStatus.COMPLETED, later(1)))
        assert await store.write(lambda tx: offer_to_node(tx, "n1", later(2), rules)) == ["a2"]
        # One of theirs ends: another one of theirs has its place.
        await store.write(lambda tx: finish(tx, "b0", TaskStatus.COMPLETED, later(3)))
        assert await store.write(lambda tx: offer_to_node(tx, "n1", later(4), rules)) == ["b2"]
