"""Two control-plane processes on one PostgreSQL, and a server that is killed while they work."""

from collections import Counter
from functools import partial

import trio

from ambientd.core.audit import first_bad
from ambientd.core.fleet.liveness import LivenessTimes
from ambientd.core.fleet.pushed import FleetItem
from ambientd.core.fleet.records import Requirements
from ambientd.core.records import AuditEntry
from ambientd.core.signeditem import SignedItem
from ambientd.flows.fleet.sweeps import sweep_nodes, sweep_work
from ambientd.flows.fleet.work import (
    WorkRules,
    delete_node,
    note_result,
    offer_pending,
    submit,
)
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import AwayPolicy, ExecutionStatus, ItemKind
from tests.store.fleet.kit import (
    AT,
    PostgresqlPlace,
    add_node,
    add_user,
    away,
    later,
    new_task,
    opened,
    report,
)

RULES = WorkRules(max_active=3)  # also in `check_assignments`
NODES = 6
HELD = "SELECT node_id, count(*) FROM task_assignments WHERE disconnected_at IS NULL GROUP BY node_id"


def nodes(count: int) -> "partial[None]":
    def work(tx: FleetTransaction, count: int) -> None:
        add_user(tx, "ann")
        for n in range(count):
            add_node(tx, f"n{n:03}", at=later(n))

    return partial(work, count=count)


def end_part(tx: FleetTransaction, task_id: str, node_id: str) -> None:
    note_result(tx, task_id, node_id, ExecutionStatus.COMPLETED, AT, result=node_id)


def check_assignments(place: PostgresqlPlace) -> None:
    """No task has more nodes than it asks for, and no node more tasks than it may have."""
    too_many = place.rows(
        "SELECT t.task_id, count(*) FROM tasks AS t JOIN task_assignments AS a ON a.task_id = t.task_id"
        " AND a.disconnected_at IS NULL GROUP BY t.task_id, t.min_nodes HAVING count(*) > t.min_nodes"
    )
    assert too_many == []
    crowded = place.rows(
        "SELECT node_id, count(*) FROM task_assignments WHERE disconnected_at IS NULL"
        " GROUP BY node_id HAVING count(*) > 3"
    )
    assert crowded == []
    wrong = place.rows(
        "SELECT task_id, status FROM tasks AS t WHERE status IN ('pending', 'running')"
        " AND (status = 'running') <> ((SELECT count(*) FROM task_assignments AS a"
        " WHERE a.task_id = t.task_id AND a.disconnected_at IS NULL) >= min_nodes)"
    )
    assert wrong == []


async def test_two_processes_never_assign_twice(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as one, opened(pg_place) as two:
        stores = (one, two)
        await one.write(nodes(NODES))

        async def submitter(store: FleetStore, first: int) -> None:
            for n in range(first, first + 12):
                task = new_task(f"t{n:03}", requirements=Requirements(min_nodes=1 + n % 2))
                await store.write(lambda tx, task=task: submit(tx, task, RULES))  # type: ignore[misc]

        async def offerer(store: FleetStore) -> None:
            for second in range(10):
                await store.write(lambda tx, s=second: offer_pending(tx, later(s), RULES))  # type: ignore[misc]

        async def finisher(store: FleetStore, node: str) -> None:
            for _ in range(8):
                held = await store.read(lambda tx: tx.assignments.of_node(node))
                for assignment in held[:1]:
                    task_id = assignment.task_id
                    work = partial(end_part, task_id=task_id, node_id=node)
                    await store.write(work)

        async with trio.open_nursery() as nursery:
            for n in range(4):
                nursery.start_soon(submitter, stores[n % 2], n * 100)
            for store in stores:
                nursery.start_soon(offerer, store)
            for n in range(NODES):
                nursery.start_soon(finisher, stores[n % 2], f"n{n:03}")
            nursery.start_soon(one.write, lambda tx: delete_node(tx, "n005", "ann", AT, RULES))
        check_assignments(pg_place)
        for store in stores:
            await store.write(lambda tx: offer_pending(tx, later(99), RULES))
        check_assignments(pg_place)
        held = dict(pg_place.rows(HELD))
    assert "n005" not in held
    assert sum(held.values()) > 0


async def test_two_processes_never_sweep_twice(pg_place: PostgresqlPlace) -> None:
    def work(tx: FleetTransaction) -> None:
        nodes(600)(tx)
        policy = away(policy=AwayPolicy.MOVE, after_ms=60_000)
        for n in range(10):
            tx.tasks.add(new_task(f"t{n}", away=policy))
            tx.assignments.attach(f"t{n}", f"n{n:03}", AT)

    async with opened(pg_place) as one, opened(pg_place) as two:
        await one.write(work)
        await one.write_reports([report("n599", 10_000)])
        changed: Counter[str] = Counter()
        moved: Counter[tuple[str, str]] = Counter()

        async def sweeper(store: FleetStore) -> None:
            for _ in range(3):
                found = await sweep_nodes(store, later(10_000), LivenessTimes())
                changed.update(change.node_id for change in found)
                taken = await sweep_work(store, later(10_000), WorkRules())
                moved.update((move.task_id, move.node_id) for move in taken)

        async with trio.open_nursery() as nursery:
            for store in (one, two):
                nursery.start_soon(sweeper, store)
        await sweeper(one)  # who found the other one sweeping left it at that
        held = pg_place.rows(HELD)
    assert (len(changed), max(changed.values())) == (599, 1)
    # A task may go first to a node that is found away a moment later; from each node it goes once.
    assert {task for task, _ in moved} == {f"t{n}" for n in range(10)}
    assert max(moved.values()) == 1
    assert held == [("n599", 10)]


async def test_the_chain_and_the_revisions_of_two_processes_have_no_gap(pg_place: PostgresqlPlace) -> None:
    seen: list[int] = []

    async with opened(pg_place) as one, opened(pg_place) as two:
        await one.write(nodes(1))
        done = trio.Event()

        async def writer(store: FleetStore, number: int) -> None:
            for n in range(15):
                entry = AuditEntry(kind="k", at=AT, actor="a", subject=f"{number}-{n}")
                signed = SignedItem(b"%d-%d" % (number, n), bytes(32), bytes(64))
                item = FleetItem(kind=ItemKind.POLICY, subject="p", item=signed, created_at=AT)
                await store.write(lambda tx, e=entry: tx.audit.append(e))  # type: ignore[misc]
                await store.write(lambda tx, i=item: tx.items.add(i))  # type: ignore[misc]

        async def follower() -> None:
            """Asks for what is new again and again, as a node does: it must miss none."""
            while not done.is_set() or len(seen) < 60:
                after = seen[-1] if seen else 0
                new = await two.read(lambda tx, a=after: tx.items.since(a, owner_id="ann", node_id="n000"))  # type: ignore[misc]
                seen.extend(item.revision for item in new)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower)
            async with trio.open_nursery() as writers:
                for number, store in enumerate((one, two, one, two)):
                    writers.start_soon(writer, store, number)
            done.set()
        records = await one.read(lambda tx: tx.audit.records(0, 100))
    assert len(records) == 60
    assert first_bad(records) is None
    assert seen == list(range(1, 61))


async def test_a_report_that_reaches_two_processes_is_there_once(pg_place: PostgresqlPlace) -> None:
    async with opened(pg_place) as one, opened(pg_place) as two:
        await one.write(nodes(4))

        async def push(store: FleetStore, order: int) -> None:
            for first in range(1, 60, 10):
                batch = [
                    report(f"n{n:03}", first, seq=seq)
                    for n in (range(4) if order else reversed(range(4)))
                    for seq in range(first, first + 10)
                ]
                await store.write_reports(batch)

        async with trio.open_nursery() as nursery:
            for n, store in enumerate((one, two, one, two)):
                nursery.start_soon(push, store, n % 2)
    found = pg_place.rows(
        "SELECT node_id, count(*), count(DISTINCT report_seq) FROM node_heartbeat_history"
        " GROUP BY node_id ORDER BY node_id"
    )
    assert found == [(f"n{n:03}", 60, 60) for n in range(4)]


KILLS = 4


async def test_a_server_killed_in_the_middle_of_the_work_loses_and_doubles_nothing(
    pg_place: PostgresqlPlace,
) -> None:
    acknowledged: set[tuple[str, int]] = set()
    refused = 0
    stop = trio.Event()

    async def pusher(store: FleetStore, node_id: str) -> None:
        """As a node does: what was not acknowledged is sent again, with the same numbers."""
        nonlocal refused
        first = 1
        while not stop.is_set():
            batch = [report(node_id, first, seq=seq) for seq in range(first, first + 5)]
            try:
                outcomes = await store.write_reports(batch)
            except (UnavailableError, StoreError):
                refused += 1
                await trio.sleep(0.02)
                continue
            assert [outcome.refused for outcome in outcomes] == [None] * 5
            acknowledged.update((node_id, seq) for seq in range(first, first + 5))
            first += 5

    async with opened(pg_place) as one, opened(pg_place) as two:
        await one.write(nodes(12))
        async with trio.open_nursery() as nursery:
            for n in range(12):
                nursery.start_soon(pusher, (one, two)[n % 2], f"n{n:03}")
            for _ in range(KILLS):
                before = len(acknowledged)
                with trio.fail_after(60):
                    while len(acknowledged) < before + 200:
                        await trio.sleep(0.02)
                await trio.to_thread.run_sync(pg_place.server.kill)
                await trio.sleep(0.05)
                await trio.to_thread.run_sync(pg_place.server.start)
            before = len(acknowledged)
            with trio.fail_after(60):
                while len(acknowledged) < before + 200:
                    await trio.sleep(0.02)
            stop.set()
        with trio.fail_after(60):
            while not (one.facts().ready and two.facts().ready):
                await trio.sleep(0.05)
    rows = pg_place.rows("SELECT node_id, report_seq FROM node_heartbeat_history")
    assert len(rows) == len(set(rows)), "a report was doubled"
    assert acknowledged - set(rows) == set(), "an acknowledged report was lost"
    assert len(set(rows) - acknowledged) <= 12 * 5, "only what was under way may be there unacknowledged"
    assert refused > 0
