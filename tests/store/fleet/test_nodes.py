"""The registry of nodes and their reports, on both databases."""

import pytest

from ambientd.core.fleet.records import Capabilities, NodeQuery, StatusChange
from ambientd.ports.fleet.store import FleetStore, FleetTransaction
from ambientd.wire.enums import Connectivity
from ambientd.wire.fleet_enums import NodeStatus, NodeType, ReportRefusal
from tests.store.fleet.kit import (
    AT,
    Place,
    add_node,
    add_user,
    credential,
    later,
    new_node,
    new_task,
    opened,
    report,
    scene,
)


async def test_a_node_reads_back_as_it_was_registered(place: Place) -> None:
    node = new_node(
        "n1",
        region="eu-west ü",
        node_type=NodeType.OPEN_INTERNET,
        capabilities=Capabilities(bandwidth_mbps=50.5, cpu_cores=1, memory_gb=1.5, gpu_available=True),
        observability_port=9090,
        report_interval_ms=30_000,
    )
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        made = await store.write(lambda tx: tx.nodes.register(node, AT))
        found = await store.read(lambda tx: tx.nodes.get("n1"))
    assert found == made
    assert found is not None
    assert (found.region, found.node_type, found.capabilities) == (
        node.region,
        node.node_type,
        node.capabilities,
    )
    assert (found.observability_port, found.report_interval_ms) == (9090, 30_000)
    assert (found.registered_at, found.last_seen, found.last_heartbeat) == (AT, AT, None)
    assert (found.status, found.health_score, found.report_seq) == (NodeStatus.ONLINE, 100.0, 0)


async def test_an_id_belongs_to_its_owner_for_good(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        assert await store.write(lambda tx: tx.nodes.delete("n1", "bob", later(1))) is False
        assert await store.write(lambda tx: tx.nodes.delete("n1", "ann", later(1))) is True
        assert await store.read(lambda tx: tx.nodes.get("n1")) is None
        assert await store.write(lambda tx: tx.nodes.register(new_node("n1", "bob"), later(2))) is None
        back = await store.write(lambda tx: tx.nodes.register(new_node("n1", region="us"), later(3)))
    assert back is not None
    assert (back.owner_id, back.region, back.status) == ("ann", "us", NodeStatus.ONLINE)
    assert (back.deleted_at, back.registered_at) == (None, later(3))


async def test_registering_again_keeps_the_place_in_line_and_a_rejection(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        again = await store.write(lambda tx: tx.nodes.register(new_node("n1", region="us"), later(9)))
        assert again is not None
        assert (again.registered_at, again.region) == (AT, "us")
        assert await store.write(lambda tx: tx.nodes.reject("n1", "ann", later(10))) is True
        rejected = await store.write(lambda tx: tx.nodes.register(new_node("n1"), later(11)))
        assert rejected is not None
        assert rejected.status is NodeStatus.REJECTED
        await store.write(lambda tx: tx.nodes.delete("n1", "ann", later(12)))
        fresh = await store.write(lambda tx: tx.nodes.register(new_node("n1"), later(13)))
    assert fresh is not None
    assert fresh.status is NodeStatus.ONLINE


async def test_get_with_an_owner_sees_only_what_is_theirs(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        assert await store.read(lambda tx: tx.nodes.get("n1", owner_id="bob")) is None
        assert await store.read(lambda tx: tx.nodes.get("nobody", owner_id="bob")) is None
        assert await store.read(lambda tx: tx.nodes.get("b1", owner_id="bob")) is not None


async def test_pages_go_on_where_they_stopped(place: Place) -> None:
    def many(tx: FleetTransaction) -> None:
        add_user(tx, "ann")
        for n in range(7):
            add_node(tx, f"n{n}", at=later(n // 2))  # several share an instant

    async with opened(place) as store:
        await store.write(many)
        await store.write(lambda tx: tx.nodes.reject("n3", "ann", later(9)))
        await store.write(lambda tx: tx.nodes.delete("n4", "ann", later(9)))
        seen: list[str] = []
        query = NodeQuery(owner_id="ann", limit=2)
        while True:
            page = await store.read(lambda tx, query=query: tx.nodes.page(query))  # type: ignore[misc]
            if not page:
                break
            seen += [node.node_id for node in page]
            query = NodeQuery(owner_id="ann", limit=2, after=(page[-1].registered_at, page[-1].node_id))
        assert seen == ["n6", "n5", "n2", "n1", "n0"]
        all_of = await store.read(lambda tx: tx.nodes.page(NodeQuery(include_rejected=True)))
        assert [node.node_id for node in all_of] == ["n6", "n5", "n3", "n2", "n1", "n0"]
        rejected = await store.read(lambda tx: tx.nodes.page(NodeQuery(status=NodeStatus.REJECTED)))
        assert [node.node_id for node in rejected] == ["n3"]
        assert await store.read(lambda tx: tx.nodes.page(NodeQuery(owner_id="bob"))) == []


async def test_every_report_leaves_one_row_with_the_live_count(place: Place) -> None:
    def attach(tx: FleetTransaction) -> None:
        for task in ("t1", "t2"):
            tx.tasks.add(new_task(task))
            tx.assignments.attach(task, "n1", AT)

    async with opened(place) as store:
        await store.write(scene)
        await store.write_reports([report("n1", 1)])
        await store.write(attach)
        (two,) = await store.write_reports([report("n1", 2, health_score=55.5, cpu_usage=1.25)])
        await store.write(lambda tx: tx.tasks.delete("t1", AT))
        await store.write_reports([report("n1", 3), report("n2", 3)])
        rows = await store.read(lambda tx: tx.history.rows("n1", 10))
        node = await store.read(lambda tx: tx.nodes.get("n1"))
    reports = [row for row in rows if row.status == "online"]
    assert [row.active_tasks for row in reports] == [1, 2, 0]
    assert [row.recorded_at for row in reports] == [later(3), later(2), later(1)]
    assert [row.health_score for row in reports] == [55.5, 55.5, 100.0]
    assert reports[1].cpu_usage == 1.25
    assert [task.task_id for task in two.assigned] == ["t1", "t2"]
    assert two.health_score == 55.5
    assert node is not None
    assert (node.health_score, node.last_heartbeat, node.last_seen) == (55.5, later(3), later(3))


async def test_a_report_brings_a_node_back_whatever_it_was_but_rejected(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        for before in (NodeStatus.UNKNOWN, NodeStatus.OFFLINE):
            change = StatusChange(node_id="n1", before=NodeStatus.ONLINE, after=before, last_seen=AT)
            if before is NodeStatus.OFFLINE:
                change = StatusChange(
                    node_id="n1", before=NodeStatus.ONLINE, after=before, last_seen=later(5)
                )
            assert await store.write(lambda tx, c=change: tx.nodes.change_status([c])) == ["n1"]  # type: ignore[misc]
            (outcome,) = await store.write_reports([report("n1", 5)])
            assert (outcome.before, outcome.status) == (before, NodeStatus.ONLINE)
        await store.write(lambda tx: tx.nodes.reject("n1", "ann", later(6)))
        (outcome,) = await store.write_reports([report("n1", 7)])
        node = await store.read(lambda tx: tx.nodes.get("n1"))
    assert (outcome.before, outcome.status) == (NodeStatus.REJECTED, NodeStatus.REJECTED)
    assert node is not None
    assert node.last_seen == later(7)


async def test_nothing_is_written_for_a_node_that_is_not_the_owners(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.nodes.delete("n3", "ann", later(1)))
        outcomes = await store.write_reports(
            [report("n1", 2, "bob"), report("nowhere", 2), report("n3", 2), report("n2", 2)]
        )
        rows = [await store.read(lambda tx, n=n: tx.history.rows(n, 5)) for n in ("n1", "n3", "n2")]  # type: ignore[misc]
    assert [outcome.refused for outcome in outcomes] == [ReportRefusal.NO_NODE] * 3 + [None]
    assert [len(row) for row in rows] == [0, 0, 1]


async def test_a_numbered_report_is_there_once_in_any_order(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write_reports([report("n1", 1, seq=5, health_score=50, state=Connectivity.ONLINE)])
        late = [report("n1", 2, seq=n, health_score=n, sampled_at=later(-n)) for n in (3, 4, 5)]
        outcomes = await store.write_reports(late)
        again = await store.write_reports([report("n1", 3, seq=3, health_score=1)])
        rows = await store.read(lambda tx: tx.history.rows("n1", 10))
        node = await store.read(lambda tx: tx.nodes.get("n1"))
    assert [outcome.duplicate for outcome in outcomes] == [False, False, True]
    assert again[0].duplicate is True
    assert sorted(row.report_seq or 0 for row in rows) == [3, 4, 5]
    assert {row.report_seq: row.sampled_at for row in rows}[4] == later(-4)
    assert node is not None
    # what waited says nothing of how it stands now, but that it is there
    assert (node.report_seq, node.last_seen, node.state) == (5, later(3), Connectivity.ONLINE)


async def test_many_reports_of_one_node_in_one_batch(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        batch = [report("n1", 1, seq=n, health_score=n, metadata={"n": n}) for n in range(1, 40)]
        outcomes = await store.write_reports(batch)
        rows = await store.read(lambda tx: tx.history.rows("n1", 100))
        node = await store.read(lambda tx: tx.nodes.get("n1"))
    assert len(outcomes) == len(rows) == 39
    assert rows[0].metadata == {"n": 39}
    assert node is not None
    assert (node.report_seq, node.health_score) == (39, 39.0)


async def test_the_number_of_a_signed_request_is_taken_once(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.devices.add(credential("c1", "n1")))
        signed = [report("n1", 1, seq=n, credential_id="c1", request_seq=7) for n in (1, 2)]
        assert [o.refused for o in await store.write_reports(signed)] == [None, None]
        replay = await store.write_reports(signed)
        lower = await store.write_reports([report("n1", 2, seq=3, credential_id="c1", request_seq=6)])
        wrong = await store.write_reports([report("n2", 2, credential_id="c1", request_seq=8)])
        await store.write(lambda tx: tx.devices.revoke("n1", later(3)))
        revoked = await store.write_reports([report("n1", 4, credential_id="c1", request_seq=9)])
        rows = await store.read(lambda tx: tx.history.rows("n1", 10))
    assert [(o.refused, o.last_request_seq) for o in replay] == [(ReportRefusal.REPLAYED, 7)] * 2
    assert lower[0].refused is ReportRefusal.REPLAYED
    assert wrong[0].refused is ReportRefusal.REVOKED
    assert revoked[0].refused is ReportRefusal.REVOKED
    assert len(rows) == 2


async def test_streams_begin_anew_with_another_key(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.devices.add(credential("c1", "n1", public_key=b"a" * 32)))
        await store.write_reports([report("n1", 1, seq=1)])
        await store.write(lambda tx: tx.devices.add(credential("c2", "n1", public_key=b"a" * 32)))
        (same,) = await store.write_reports([report("n1", 2, seq=1)])
        await store.write(lambda tx: tx.devices.add(credential("c3", "n1", public_key=b"b" * 32)))
        (other,) = await store.write_reports([report("n1", 3, seq=1)])
        node = await store.read(lambda tx: tx.nodes.get("n1"))
        rows = await store.read(lambda tx: tx.history.rows("n1", 10))
    assert (same.duplicate, other.duplicate) == (True, False)
    assert node is not None
    assert (node.incarnation, node.report_seq, len(rows)) == (2, 1, 2)


async def test_a_key_that_comes_back_begins_anew_and_one_that_stays_does_not(place: Place) -> None:
    async def add(store: FleetStore, name: str, key: bytes, n: int) -> int:
        await store.write(lambda tx: tx.devices.add(credential(name, "n1", public_key=key * 32)))
        await store.write(lambda tx: tx.devices.revoke("n1", later(n), keep=name))
        node = await store.read(lambda tx: tx.nodes.get("n1"))
        assert node is not None
        return node.incarnation

    async with opened(place) as store:
        await store.write(scene)
        found = [await add(store, f"c{n}", key, n) for n, key in enumerate((b"a", b"a", b"b", b"a"))]
        await store.write(lambda tx: tx.devices.revoke("n1", later(9)))
        found.append(await add(store, "c9", b"a", 10))
    assert found == [1, 1, 2, 3, 3]


async def test_who_reported_meanwhile_is_left_alone_by_a_sweep(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        quiet = await store.read(lambda tx: tx.nodes.quiet(later(2), 10))
        assert [node.node_id for node in quiet] == ["n1", "n2"]
        assert [n.node_id for n in await store.read(lambda tx: tx.nodes.quiet(later(2), 1, "n1"))] == ["n2"]
        await store.write_reports([report("n1", 60)])
        changes = [
            StatusChange(
                node_id=node.node_id, before=node.status, after=NodeStatus.UNKNOWN, last_seen=node.last_seen
            )
            for node in quiet
        ]
        assert await store.write(lambda tx: tx.nodes.change_status(changes)) == ["n2"]
        assert await store.write(lambda tx: tx.nodes.change_status(changes)) == []


async def test_sums_of_the_registry(place: Place) -> None:
    async with opened(place) as store:
        empty = await store.read(lambda tx: tx.nodes.stats())
        await store.write(scene)
        await store.write(lambda tx: tx.nodes.reject("n3", "ann", later(1)))
        await store.write_reports([report("n1", 2, health_score=40)])
        stats = await store.read(lambda tx: tx.nodes.stats())
    assert (empty.total, empty.average_health, empty.capacity) == (0, 0.0, 0.0)
    assert (stats.total, stats.online, stats.healthy) == (3, 3, 2)
    assert stats.average_health == pytest.approx(80.0)
    assert stats.capacity == pytest.approx(3 * 16 * 64)


@pytest.mark.parametrize("text", ["with\0nul", "lone \ud800"])
async def test_text_that_neither_database_takes_is_the_callers_fault(place: Place, text: str) -> None:
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        with pytest.raises(ValueError, match=r"NUL|surrogate|encode"):
            await store.write(lambda tx: tx.nodes.register(new_node("n1", region=text), AT))
        assert await store.write(lambda tx: tx.nodes.register(new_node("n1"), AT)) is not None
        with pytest.raises(ValueError, match=r"NUL|surrogate|encode|UTF-8|JSON"):
            await store.write_reports([report("n1", metadata={"a": text})])
        assert await store.read(lambda tx: tx.history.rows("n1", 1)) == []


async def test_a_broken_check_is_the_callers_fault_and_writes_nothing(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        with pytest.raises(ValueError, match="health_score"):
            await store.write_reports([report("n2", 1), report("n1", 1, health_score=101)])
        with pytest.raises(ValueError, match=r".+"):
            await store.write_reports([report("n1", 1, seq=2**63)])
        assert await store.read(lambda tx: tx.history.rows("n2", 5)) == []
