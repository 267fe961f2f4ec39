"""Tasks that run for longer than they may and whose nodes say nothing of it, on both databases."""

from ambientd.core.fleet.liveness import LivenessTimes
from ambientd.core.fleet.records import Requirements, TaskRecord
from ambientd.core.fleet.timelimit import GAP, GRACE, LateParts
from ambientd.flows.fleet.sweeps import sweep_nodes
from ambientd.flows.fleet.timelimits import STEP as STEP_ROWS
from ambientd.flows.fleet.timelimits import sweep_late
from ambientd.flows.fleet.work import WorkRules, submit
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import ExecutionStatus, TaskStatus
from tests.store.fleet.kit import (
    Place,
    add_node,
    add_user,
    later,
    new_task,
    opened,
    report,
)

RULES = WorkRules()
LIMIT = 600
STEP = 60  # seconds


async def given(store: FleetStore, *, nodes: int = 1) -> None:
    await store.write(lambda tx: add_user(tx, "ann"))
    for n in range(nodes):
        await store.write(lambda tx, n=n: add_node(tx, f"n{n + 1}"))  # type: ignore[misc]
    asks = Requirements(max_execution_time_sec=LIMIT, min_nodes=nodes)
    await store.write(lambda tx: submit(tx, new_task("t1", requirements=asks), RULES))


async def look(store: FleetStore, seen: LateParts, first: int, last: float) -> list[tuple[str, str]]:
    """Sweeps each minute from one second to another; what failed."""
    found = []
    for second in range(first, int(last) + 1, STEP):
        failed = await sweep_late(store, later(second), float(second), seen, RULES)
        found += [(part.task_id, part.node_id) for part in failed]
    return found


async def task(store: FleetStore) -> TaskRecord:
    found = await store.read(lambda tx: tx.tasks.get("t1"))
    assert found is not None
    return found


async def test_a_task_of_whose_end_an_online_node_says_nothing_fails(place: Place) -> None:
    async with opened(place) as store:
        seen = LateParts()
        await given(store)
        began = later(120)
        await store.write(
            lambda tx: tx.assignments.note_execution("t1", "n1", ExecutionStatus.IN_PROGRESS, began)
        )
        assert await look(store, seen, 0, 120 + LIMIT + GRACE - 1) == []
        assert (await task(store)).status is TaskStatus.RUNNING
        assert await look(store, seen, 120 + LIMIT + int(GRACE), 120 + LIMIT + GRACE) == [("t1", "n1")]
        found = await task(store)
        assert (found.status, found.former_assigned_nodes) == (TaskStatus.FAILED, ("n1",))
        assert isinstance(found.result, dict)
        assert found.result["error"]["code"] == "time_limit"
        assert await look(store, seen, 3000, 5000) == []


async def test_one_that_tells_of_its_end_within_the_grace_has_done_it(place: Place) -> None:
    async with opened(place) as store:
        seen = LateParts()
        await given(store)
        assert await look(store, seen, 0, LIMIT + GRACE - 1) == []
        await store.write(
            lambda tx: tx.assignments.note_execution("t1", "n1", ExecutionStatus.COMPLETED, later(800))
        )
        assert await look(store, seen, LIMIT + int(GRACE), 5000) == []


async def test_a_node_that_was_away_has_all_of_the_grace_when_it_is_back(place: Place) -> None:
    async with opened(place) as store:
        seen = LateParts()
        await given(store)
        await sweep_nodes(store, later(400), LivenessTimes())
        assert await look(store, seen, 600, 9_600) == []
        await store.write_reports([report("n1", 9_601)])
        assert await look(store, seen, 9_660, 9_660 + GRACE - 1) == []
        assert await look(store, seen, 9_660 + int(GRACE), 9_660 + GRACE) == [("t1", "n1")]


async def test_the_grace_begins_anew_when_nobody_could_hear(place: Place) -> None:
    async with opened(place) as store:
        seen = LateParts()
        await given(store)
        assert await look(store, seen, 600, 780) == []
        again = 780 + int(GAP) + 1
        assert await look(store, seen, again, again + GRACE - 1) == []
        assert await look(store, seen, again + int(GRACE), again + GRACE) == [("t1", "n1")]


async def test_a_task_that_waited_for_nodes_has_its_time_from_when_it_ran(place: Place) -> None:
    async with opened(place) as store:
        seen = LateParts()
        await given(store)
        asks = Requirements(max_execution_time_sec=LIMIT, min_nodes=2)
        await store.write(lambda tx: submit(tx, new_task("t2", requirements=asks), RULES))
        await store.write(lambda tx: tx.tasks.set_status("t2", TaskStatus.RUNNING, later(4_000)))
        found = await look(store, seen, 0, 4_000 + LIMIT + GRACE - 1)
        assert found == [("t1", "n1")]
        second = 4_000 + LIMIT + int(GRACE)
        assert await look(store, seen, second, second + STEP) == [("t2", "n1")]


async def test_a_task_fails_when_all_of_its_nodes_are_late(place: Place) -> None:
    async with opened(place) as store:
        seen = LateParts()
        await given(store, nodes=2)
        await store.write(
            lambda tx: tx.assignments.note_execution("t1", "n2", ExecutionStatus.IN_PROGRESS, later(300))
        )
        assert await look(store, seen, 0, LIMIT + GRACE + 240) == [("t1", "n1")]
        assert (await task(store)).status is TaskStatus.RUNNING
        assert await look(store, seen, LIMIT + int(GRACE) + 300, LIMIT + GRACE + 300) == [("t1", "n2")]
        assert (await task(store)).status is TaskStatus.FAILED


async def test_more_late_parts_than_one_step_are_seen_once_each(place: Place) -> None:
    def crowd(tx: FleetTransaction) -> None:
        add_user(tx, "ann")
        add_node(tx, "n1")
        add_node(tx, "n2")
        asks = Requirements(max_execution_time_sec=LIMIT)
        for n in range(STEP_ROWS + 3):
            tx.tasks.add(new_task(f"t{n:04}", requirements=asks))
            tx.assignments.attach(f"t{n:04}", f"n{n % 2 + 1}", later(0))
            tx.tasks.set_status(f"t{n:04}", TaskStatus.RUNNING, later(0))

    async with opened(place) as store:
        seen = LateParts()
        await store.write(crowd)
        failed = await look(store, seen, LIMIT, LIMIT + GRACE)
        assert sorted(task for task, _ in failed) == [f"t{n:04}" for n in range(STEP_ROWS + 3)]
