"""What time alone brings about, on both databases."""

from datetime import timedelta
from typing import Any

from ambientd.core.fleet.away import STOP_DRIFT, STOP_GRACE
from ambientd.core.fleet.liveness import LivenessTimes
from ambientd.core.fleet.records import AccessTokenRecord
from ambientd.flows.fleet.sweeps import (
    sweep_expired,
    sweep_history,
    sweep_nodes,
    sweep_pending,
    sweep_sessions,
    sweep_work,
)
from ambientd.flows.fleet.work import WorkRules, delete_node, submit
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.fleet_enums import AwayPolicy, ConnectStatus, NodeStatus, TaskStatus
from tests.store.fleet.kit import (
    AT,
    Place,
    add_node,
    add_user,
    away,
    connect_session,
    later,
    new_hash,
    new_task,
    opened,
    report,
    scene,
)

TIMES = LivenessTimes()
RULES = WorkRules()


async def standing(store: FleetStore) -> dict[str, NodeStatus]:
    found = {}
    for node_id in ("n1", "n2", "n3", "b1"):
        node = await store.read(lambda tx, n=node_id: tx.nodes.get(n))  # type: ignore[misc]
        if node is not None:
            found[node_id] = node.status
    return found


async def test_silent_nodes_become_unknown_then_offline_and_are_never_forgotten(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.nodes.reject("n3", "ann", AT))
        await store.write_reports([report("b1", 100, "bob")])
        changed = await sweep_nodes(store, later(200), TIMES)
        assert sorted(change.node_id for change in changed) == ["n1", "n2"]
        await store.write_reports([report("n2", 250)])
        assert await sweep_nodes(store, later(260), TIMES) == []
        await sweep_nodes(store, later(1100), TIMES)
        assert await standing(store) == {
            "n1": NodeStatus.OFFLINE,
            "n2": NodeStatus.UNKNOWN,
            "n3": NodeStatus.REJECTED,
            "b1": NodeStatus.OFFLINE,
        }
        await sweep_nodes(store, later(10**8), TIMES)
        await store.write_reports([report("n1", 10**8 + 1)])
        assert (await standing(store))["n1"] is NodeStatus.ONLINE


async def test_more_nodes_than_one_step_are_swept(place: Place) -> None:
    def crowd(tx: FleetTransaction) -> None:
        add_user(tx, "ann")
        for n in range(1_203):
            add_node(tx, f"n{n:04}")

    async with opened(place) as store:
        await store.write(crowd)
        assert len(await sweep_nodes(store, later(500), TIMES)) == 1_203
        assert await sweep_nodes(store, later(500), TIMES) == []


async def test_work_moves_only_when_its_policy_says_so_and_somebody_can_take_it(place: Place) -> None:
    policies: dict[str, dict[str, Any]] = {
        "wait": {},
        "move": {"policy": AwayPolicy.MOVE, "after_ms": 600_000},
        "stop": {"policy": AwayPolicy.STOP, "after_ms": 600_000},
    }

    def holders(tx: FleetTransaction) -> dict[str, tuple[str, ...]]:
        tasks = {name: tx.tasks.get(name) for name in policies}
        return {name: task.assigned_nodes for name, task in tasks.items() if task is not None}

    stopped_at = 600 * (1 + STOP_DRIFT) + STOP_GRACE
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        await store.write(lambda tx: add_node(tx, "n1"))
        for name, policy in policies.items():
            task = new_task(name, away=away(**policy))
            await store.write(lambda tx, task=task: submit(tx, task, RULES))  # type: ignore[misc]
        await sweep_nodes(store, later(1000), TIMES)
        assert await sweep_work(store, later(599), RULES) == []
        assert await sweep_work(store, later(601), RULES) == [], "nobody else can take it"
        await store.write(lambda tx: add_node(tx, "n2", at=later(601)))
        moved = await sweep_work(store, later(602), RULES)
        assert [(row.task_id, row.reason) for row in moved] == [("move", "moved")]
        assert await store.read(holders) == {"wait": ("n1",), "move": ("n2",), "stop": ("n1",)}
        assert await sweep_work(store, later(stopped_at - 1), RULES) == []
        moved = await sweep_work(store, later(stopped_at), RULES)
        assert [(row.task_id, row.reason) for row in moved] == [("stop", "stopped")]
        assert await store.read(holders) == {"wait": ("n1",), "move": ("n2",), "stop": ("n2",)}


async def test_stopped_work_waits_for_a_node_rather_than_run_twice(place: Place) -> None:
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        await store.write(lambda tx: add_node(tx, "n1"))
        task = new_task("t1", away=away(policy=AwayPolicy.STOP, after_ms=60_000))
        await store.write(lambda tx: submit(tx, task, RULES))
        await sweep_nodes(store, later(1000), TIMES)
        await sweep_work(store, later(1000), RULES)
        found = await store.read(lambda tx: tx.tasks.get("t1"))
        assert found is not None
        assert (found.assigned_nodes, found.former_assigned_nodes, found.status) == (
            (),
            ("n1",),
            TaskStatus.PENDING,
        )
        assert await sweep_pending(store, later(1001), RULES) == []
        await store.write_reports([report("n1", 1002)])
        assert await sweep_pending(store, later(1003), RULES) == ["t1"]


async def test_sessions_end_by_time_or_with_their_node(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        for n in (1, 2, 3):
            await store.write(lambda tx, n=n: tx.tasks.add(new_task(f"t{n}", task_type="connect_only")))  # type: ignore[misc]
            await store.write(lambda tx, n=n: tx.assignments.attach(f"t{n}", f"n{n}", AT))  # type: ignore[misc]
            session = connect_session(
                f"s{n}", task_id=f"t{n}", node_id=f"n{n}", expires_at=later(60 if n == 1 else 5000)
            )
            await store.write(lambda tx, s=session: tx.sessions.start(s))  # type: ignore[misc]
        await store.write(lambda tx: delete_node(tx, "n2", "ann", later(5), RULES))
        await store.write_reports([report("n3", 1000)])
        assert await sweep_sessions(store, later(61), RULES) == 1
        assert await sweep_sessions(store, later(62), RULES) == 0
        found = [await store.read(lambda tx, n=n: tx.sessions.get("ann", f"s{n}")) for n in (1, 2, 3)]  # type: ignore[misc]
        first = await store.read(lambda tx: tx.tasks.get("t1"))
    assert [session.status for session in found if session] == [
        ConnectStatus.EXPIRED,
        ConnectStatus.ENDED,
        ConnectStatus.ACTIVE,
    ]
    assert first is not None
    assert (first.assigned_nodes, first.former_assigned_nodes) == ((), ("n1",))


async def test_old_history_and_tokens_go(place: Place) -> None:
    def tokens(tx: FleetTransaction) -> None:
        for n in range(3):
            token = AccessTokenRecord(
                token_hash=new_hash(), user_id="ann", family_id="f", issued_at=AT, expires_at=later(n * 100)
            )
            tx.tokens.add_access(token)

    day = timedelta(days=1)
    async with opened(place) as store:
        await store.write(scene)
        await store.write_reports([report("n1", 0, seq=n) for n in range(1, 2_501)])
        await store.write_reports([report("n1", 86_400, seq=5_000)])
        await store.write(tokens)
        assert await sweep_history(store, later(86_401), reports=day, events=30 * day) == 2_500
        assert await sweep_history(store, later(86_401), reports=day, events=30 * day) == 0
        assert await sweep_expired(store, later(150), keep=timedelta(seconds=40)) == 2
        (left,) = await store.read(lambda tx: tx.history.rows("n1", 9))
    assert left.report_seq == 5_000
