"""Tasks, assignments, events and connect sessions, on both databases."""

from datetime import timedelta
from typing import Any

import pytest

from ambientd.core.fleet.records import NodeEvent, Requirements, TaskQuery, TaskRecord
from ambientd.ports.fleet.store import FleetTransaction
from ambientd.wire.fleet_enums import (
    AwayPolicy,
    ConnectStatus,
    DetachReason,
    ExecutionStatus,
    NodeEventKind,
    NodeStatus,
    NodeType,
    TaskStatus,
)
from tests.store.fleet.kit import (
    AT,
    Place,
    SqlitePlace,
    add_node,
    away,
    connect_session,
    later,
    new_hash,
    new_task,
    opened,
    report,
    scene,
)


def task_with(*nodes: str, task_id: str = "t1", **fields: Any) -> Any:
    def work(tx: FleetTransaction) -> None:
        tx.tasks.add(new_task(task_id, **fields))
        for n, node in enumerate(nodes):
            tx.assignments.attach(task_id, node, later(n))

    return work


async def test_a_task_reads_back_and_has_lists_even_without_nodes(place: Place) -> None:
    inputs = {"text": 'a "quoted" \\ back ü', "list": [1, 2.5, None, True], "deep": {"x": {"y": []}}}
    task = new_task(
        "t1",
        inputs=inputs,
        wasm_module="AGFzbQ==",
        requirements=Requirements(min_nodes=2, max_execution_time_sec=60, require_gpu=True),
        away=away(policy=AwayPolicy.MOVE, after_ms=60_000),
    )
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.tasks.add(task))
        found = await store.read(lambda tx: tx.tasks.get("t1"))
        work = await store.read(lambda tx: tx.tasks.work("t1"))
        assert await store.read(lambda tx: tx.tasks.get("t1", creator_id="bob")) is None
        assert await store.read(lambda tx: tx.tasks.work("none")) is None
    assert found == TaskRecord(
        task_id="t1",
        creator_id="ann",
        task_type="computation",
        status=TaskStatus.PENDING,
        requirements=task.requirements,
        away=task.away,
        created_at=AT,
        updated_at=AT,
        assigned_nodes=(),
        former_assigned_nodes=(),
    )
    assert work is not None
    assert (work.inputs, work.wasm_module) == (inputs, "AGFzbQ==")


async def test_nodes_that_left_are_former_in_get_and_in_lists(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n2", "n1", "n3"))
        gone = await store.write(
            lambda tx: tx.assignments.detach("t1", later(9), DetachReason.MOVED, nodes=("n1",))
        )
        one = await store.read(lambda tx: tx.tasks.get("t1"))
        (listed,) = await store.read(lambda tx: tx.tasks.page(TaskQuery(creator_id="ann")))
        by_node = await store.read(lambda tx: tx.tasks.page(TaskQuery(node_id="n1")))
    assert gone == ["n1"]
    assert one == listed
    assert [task.task_id for task in by_node] == ["t1"]
    assert (listed.assigned_nodes, listed.former_assigned_nodes) == (("n2", "n3"), ("n1",))


async def test_an_attachment_can_be_renewed_and_undone(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1"))
        with pytest.raises(ValueError, match="already"):
            await store.write(lambda tx: tx.assignments.attach("t1", "n1", later(1)))
        begun = ExecutionStatus.IN_PROGRESS
        await store.write(
            lambda tx: tx.assignments.note_execution("t1", "n1", begun, later(2), session_id="ses_1")
        )
        await store.write(
            lambda tx: tx.assignments.detach(
                "t1", later(3), DetachReason.MOVED, execution=ExecutionStatus.FAILED
            )
        )
        former = await store.read(lambda tx: tx.assignments.get("t1", "n1"))
        assert former is not None
        assert (former.disconnected_at, former.reason) == (later(3), DetachReason.MOVED)
        assert (former.execution_status, former.execution_completed_at) == (
            ExecutionStatus.FAILED,
            later(3),
        )
        assert await store.read(lambda tx: tx.assignments.of_node("n1")) == []
        assert await store.write(lambda tx: tx.assignments.reattach("t1", "n1", later(4))) is True
        assert await store.write(lambda tx: tx.assignments.reattach("t1", "n1", later(4))) is False
        back = await store.read(lambda tx: tx.assignments.get("t1", "n1"))
        assert back is not None
        assert (back.execution_status, back.execution_started_at, back.session_id, back.attempt) == (
            begun,
            later(2),
            "ses_1",
            1,
        )
        await store.write(lambda tx: tx.assignments.detach("t1", later(5), DetachReason.MOVED))
        anew = await store.write(lambda tx: tx.assignments.attach("t1", "n1", later(6)))
    assert (anew.attempt, anew.execution_status, anew.session_id, anew.assigned_at) == (
        2,
        ExecutionStatus.ASSIGNED,
        None,
        later(6),
    )


async def test_what_ended_keeps_its_end_when_it_is_detached(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1", "n2"))
        done = ExecutionStatus.COMPLETED
        assert await store.write(lambda tx: tx.assignments.note_execution("t1", "n1", done, later(2)))
        assert not await store.write(lambda tx: tx.assignments.note_execution("t1", "n3", done, later(2)))
        await store.write(
            lambda tx: tx.assignments.detach(
                "t1", later(3), DetachReason.TASK_ENDED, execution=ExecutionStatus.STOPPED
            )
        )
        found = await store.read(lambda tx: tx.assignments.of_task("t1"))
        assert await store.write(lambda tx: tx.assignments.detach("t1", later(4), DetachReason.MOVED)) == []
        assert (
            await store.write(lambda tx: tx.assignments.detach("t1", later(4), DetachReason.MOVED, nodes=()))
            == []
        )
    assert [(a.execution_status, a.execution_completed_at) for a in found] == [
        (done, later(2)),
        (ExecutionStatus.STOPPED, later(3)),
    ]


async def test_candidates_come_oldest_first_and_only_those_that_could(place: Place) -> None:
    def more(tx: FleetTransaction) -> None:
        add_node(tx, "any", at=later(-5), node_type=NodeType.ANY)
        add_node(tx, "storage", node_type=NodeType.STORAGE)
        tx.nodes.reject("n3", "ann", later(1))
        tx.tasks.add(new_task("t1"))
        tx.tasks.add(new_task("c1", task_type="connect_only"))
        tx.assignments.attach("t1", "n1", AT)
        tx.assignments.attach("c1", "n2", AT)

    async with opened(place) as store:
        await store.write(scene)
        await store.write(more)
        found = await store.read(lambda tx: tx.assignments.candidates(NodeType.COMPUTE, "t1", 10))
        assert [(c.node_id, c.active, c.connected) for c in found] == [
            ("any", 0, False),
            ("n2", 1, True),
            ("b1", 0, False),
        ]
        place_of = (found[0].registered_at, found[0].node_id)
        rest = await store.read(lambda tx: tx.assignments.candidates(NodeType.COMPUTE, "t1", 1, place_of))
        assert [c.node_id for c in rest] == ["n2"]
        assert await store.read(lambda tx: tx.assignments.candidate("n3")) is None
        one = await store.read(lambda tx: tx.assignments.candidate("n1"))
    assert one is not None
    assert (one.active, one.connected, one.node_type) == (1, False, NodeType.COMPUTE)


async def test_pages_of_tasks_go_on_where_they_stopped(place: Place) -> None:
    def many(tx: FleetTransaction) -> None:
        for n in range(7):
            tx.tasks.add(new_task(f"t{n}", at=later(n // 3)))
        tx.tasks.add(new_task("other", "bob", at=later(9)))
        tx.tasks.set_status("t0", TaskStatus.RUNNING, later(9))

    async with opened(place) as store:
        await store.write(scene)
        await store.write(many)
        seen: list[str] = []
        query = TaskQuery(creator_id="ann", limit=3)
        while page := await store.read(lambda tx, query=query: tx.tasks.page(query)):  # type: ignore[misc]
            seen += [task.task_id for task in page]
            query = TaskQuery(creator_id="ann", limit=3, after=(page[-1].created_at, page[-1].task_id))
        assert seen == ["t6", "t5", "t4", "t3", "t2", "t1", "t0"]
        running = await store.read(lambda tx: tx.tasks.page(TaskQuery(status=TaskStatus.RUNNING)))
        assert [task.task_id for task in running] == ["t0"]
        pending = await store.read(lambda tx: tx.tasks.pending(3))
        assert [task.task_id for task in pending] == ["t1", "t2", "t3"]
        assert await store.read(lambda tx: tx.tasks.pending(3, task_types=())) == []
        assert await store.read(lambda tx: tx.tasks.pending(3, task_types=("zk_proof",))) == []


async def test_a_task_ends_once(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1"))
        done, failed = TaskStatus.COMPLETED, TaskStatus.FAILED
        result = {"answer": 42}
        assert await store.write(lambda tx: tx.tasks.finish("t1", done, later(5), result=result)) is True
        assert await store.write(lambda tx: tx.tasks.finish("t1", failed, later(6), result=None)) is False
        assert await store.write(lambda tx: tx.tasks.set_status("t1", TaskStatus.PENDING, later(6))) is False
        task = await store.read(lambda tx: tx.tasks.get("t1"))
        stats = await store.read(lambda tx: tx.tasks.stats())
    assert task is not None
    assert (task.status, task.completed_at, task.result) == (done, later(5), result)
    assert (stats.total, stats.completed, stats.failed) == (1, 1, 0)


async def test_deleting_a_task_leaves_an_event_at_every_node_that_has_or_had_it(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1", "n2", "n3"))
        await store.write(
            lambda tx: tx.assignments.detach("t1", later(5), DetachReason.SESSION_ENDED, nodes=("n2",))
        )
        gone = await store.write(lambda tx: tx.tasks.delete("t1", later(6)))
        assert gone is not None
        assert (gone.events, gone.detached, gone.failure) == (3, ("n1", "n3"), None)
        assert await store.write(lambda tx: tx.tasks.delete("t1", later(6))) is None
        assert await store.read(lambda tx: tx.tasks.get("t1")) is None
        assert await store.read(lambda tx: tx.assignments.of_node("n1", former=True)) == []
    columns = "node_id, health_score, active_tasks, status"
    rows = place.rows(f"SELECT {columns} FROM node_heartbeat_history ORDER BY node_id")  # noqa: S608 - constants
    assert rows == [(node, 0.0, 0, "task_cleared") for node in ("n1", "n2", "n3")]
    async with opened(place) as store:  # a restart later
        events = [await store.read(lambda tx, n=n: tx.history.activity(n, 50)) for n in ("n1", "n2", "b1")]  # type: ignore[misc]
        (row,) = await store.read(lambda tx: tx.history.rows("n2", 5))
    cleared = NodeEvent(
        node_id="n1",
        kind=NodeEventKind.TASK_CLEARED,
        task_id="t1",
        task_type="computation",
        at=later(6),
    )
    assert events[0] == [cleared]
    assert [len(found) for found in events] == [1, 1, 0]
    assert row.metadata == {"task_id": "t1", "task_type": "computation", "event": "task_cleared"}


async def test_a_history_that_cannot_be_written_does_not_keep_a_task_from_being_deleted(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1", "n2"))
        if isinstance(place, SqlitePlace):
            place.rows(
                "CREATE TRIGGER refuse BEFORE INSERT ON node_heartbeat_history"
                " BEGIN SELECT RAISE(ABORT, 'read-only for a test'); END"
            )
        else:
            place.rows(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'read-only for a test'; END $$"
            )
            place.rows(
                "CREATE TRIGGER refuse BEFORE INSERT ON node_heartbeat_history"
                " FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        gone = await store.write(lambda tx: tx.tasks.delete("t1", later(6)))
        assert gone is not None
        assert gone.events == 0
        assert gone.failure is not None
        assert "read-only for a test" in gone.failure
        assert await store.read(lambda tx: tx.tasks.get("t1")) is None


async def test_events_come_newest_first_and_no_more_than_asked(place: Place) -> None:
    def events(tx: FleetTransaction) -> None:
        found = [
            NodeEvent(
                node_id="n1",
                kind=NodeEventKind.TASK_CONNECTED if n % 2 else NodeEventKind.TASK_CLEARED,
                task_id=f"t{n}",
                task_type="connect_only",
                at=later(n),
                session_id=f"s{n}" if n % 2 else None,
            )
            for n in range(6)
        ]
        assert tx.history.add_events(found) is None

    async with opened(place) as store:
        await store.write(scene)
        await store.write_reports([report("n1", 99)])
        await store.write(events)
        found = await store.read(lambda tx: tx.history.activity("n1", 4))
    assert [event.task_id for event in found] == ["t5", "t4", "t3", "t2"]
    assert found[0].session_id == "s5"


async def test_old_reports_go_before_old_events_a_few_at_a_time(place: Place) -> None:
    def event(tx: FleetTransaction) -> None:
        for second in (5, 60):
            tx.history.add_events(
                [
                    NodeEvent(
                        node_id="n1",
                        kind=NodeEventKind.TASK_CLEARED,
                        task_id=f"t{second}",
                        task_type="computation",
                        at=later(second),
                    )
                ]
            )

    async with opened(place) as store:
        await store.write(scene)
        for n in range(10):
            await store.write_reports([report("n1", n)])
        await store.write(event)
        for n in range(100, 103):
            await store.write_reports([report("n1", n)])
        steps, after = [], 0
        while True:
            pruned = await store.write(
                lambda tx, after=after: tx.history.remove(later(101), later(50), 4, after)  # type: ignore[misc]
            )
            steps.append(pruned.removed)
            if pruned.after is None:
                break
            after = pruned.after
        left = await store.read(lambda tx: tx.history.rows("n1", 50))
    assert sum(steps) == 12
    assert max(steps) <= 4
    assert [(row.status, row.recorded_at - AT) for row in reversed(left)] == [
        ("task_cleared", timedelta(seconds=60)),
        ("online", timedelta(seconds=101)),
        ("online", timedelta(seconds=102)),
    ]


async def test_only_work_that_does_not_wait_is_away(place: Place) -> None:
    def work(tx: FleetTransaction) -> None:
        for task, policy in (("t1", AwayPolicy.MOVE), ("t2", AwayPolicy.STOP), ("t3", AwayPolicy.WAIT)):
            after = None if policy is AwayPolicy.WAIT else 60_000
            tx.tasks.add(new_task(task, away=away(policy=policy, after_ms=after)))
            for node in ("n1", "n2"):
                tx.assignments.attach(task, node, AT)

    async with opened(place) as store:
        await store.write(scene)
        await store.write(work)
        assert await store.read(lambda tx: tx.assignments.away(10)) == []
    place.rows("UPDATE nodes SET status = 'offline' WHERE node_id = 'n1'")
    async with opened(place) as store:
        found = await store.read(lambda tx: tx.assignments.away(10))
        rest = await store.read(lambda tx: tx.assignments.away(10, ("t1", "n1")))
    assert [(a.task_id, a.node_id, a.away.policy) for a in found] == [
        ("t1", "n1", AwayPolicy.MOVE),
        ("t2", "n1", AwayPolicy.STOP),
    ]
    assert (found[0].node_status, found[0].last_seen) == (NodeStatus.OFFLINE, AT)
    assert [a.task_id for a in rest] == ["t2"]


async def test_ids_of_sessions_are_the_requesters_own(place: Place) -> None:
    """The same id of another requester is another session, and takes nothing from the first (S2)."""
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1", task_type="connect_only"))
        await store.write(task_with("n2", task_id="t2", creator_id="bob", task_type="connect_only"))
        first = connect_session("s", "ann")
        assert await store.write(lambda tx: tx.sessions.start(first)) is True
        assert await store.write(lambda tx: tx.sessions.start(first)) is False
        other = connect_session("s", "bob", task_id="t2", node_id="n1")
        assert await store.write(lambda tx: tx.sessions.start(other)) is False, "its node is taken"
        other = connect_session("s", "bob", task_id="t2", node_id="n2")
        assert await store.write(lambda tx: tx.sessions.start(other)) is True
        assert await store.read(lambda tx: tx.sessions.get("ann", "s")) == first
        assert await store.read(lambda tx: tx.sessions.get("bob", "s")) == other
        assert await store.read(lambda tx: tx.sessions.by_token(first.token_hash)) == first
        assert await store.read(lambda tx: tx.sessions.by_token(new_hash())) is None
        assert await store.read(lambda tx: tx.sessions.active_of_node("n1")) == first
        assert await store.read(lambda tx: tx.sessions.active_of_task("t2")) == [other]


async def test_a_session_lives_beats_and_ends_once(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1", task_type="connect_only"))
        session = connect_session("s")
        await store.write(lambda tx: tx.sessions.start(session))
        assert await store.write(lambda tx: tx.sessions.beat("ann", "s", later(5), node_id="n2")) is True
        assert await store.write(lambda tx: tx.sessions.beat("bob", "s", later(5))) is False
        found = await store.read(lambda tx: tx.sessions.get("ann", "s"))
        assert found is not None
        assert (found.node_id, found.last_heartbeat_at) == ("n2", later(5))
        ended = ConnectStatus.ENDED
        assert await store.write(lambda tx: tx.sessions.end("ann", "s", ended, later(6), "stop")) is True
        assert await store.write(lambda tx: tx.sessions.end("ann", "s", ended, later(7), "stop")) is False
        assert await store.write(lambda tx: tx.sessions.beat("ann", "s", later(8))) is False
        again = connect_session("s", created_at=later(9), updated_at=later(9))
        assert await store.write(lambda tx: tx.sessions.start(again)) is True
        assert await store.read(lambda tx: tx.sessions.get("ann", "s")) == again


async def test_sessions_are_due_by_time_or_by_their_node(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(task_with("n1", "n2", "n3", task_type="connect_only"))
        for n, node in enumerate(("n1", "n2", "n3")):
            session = connect_session(f"s{n}", node_id=node, expires_at=later(10 if n == 0 else 500))
            await store.write(lambda tx, s=session: tx.sessions.start(s))  # type: ignore[misc]
        assert await store.read(lambda tx: tx.sessions.due(later(9), 10)) == []
        await store.write(lambda tx: tx.nodes.delete("n3", "ann", later(1)))
        due = await store.read(lambda tx: tx.sessions.due(later(10), 10))
    assert [session.session_id for session in due] == ["s0", "s2"]
