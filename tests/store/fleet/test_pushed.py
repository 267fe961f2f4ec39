"""What nodes push and what comes down, on both databases."""

from typing import Any

import pytest

from ambientd.core.audit import GENESIS, AuditRecord, first_bad, record_hash
from ambientd.core.fleet.pushed import (
    FleetItem,
    LedgerQueryOfNode,
    NodeDeltaV,
    NodeSession,
    NodeSessionEvent,
    NodeUsage,
)
from ambientd.core.records import AuditEntry, UsageRecord
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.enums import CostConfidence, CostSource, EventType, MetricSource, SessionStatus
from ambientd.wire.fleet_enums import ItemKind, Stream
from tests.store.fleet.kit import AT, Place, credential, later, opened, scene


def item(n: int, **fields: Any) -> FleetItem:
    facts: dict[str, Any] = {"kind": ItemKind.POLICY, "subject": f"p{n}", "created_at": AT}
    signed = SignedItem(b'{"n":%d}' % n, bytes([n]) * 32, bytes([n]) * 64)
    return FleetItem(item=signed, **(facts | fields))


def session(session_id: str, stream_seq: int = 1, **fields: Any) -> NodeSession:
    facts: dict[str, Any] = {
        "agent_id": "a",
        "agent_label": "A",
        "model_id": "m",
        "status": SessionStatus.RUNNING,
        "started_at": AT,
    }
    return NodeSession(session_id=session_id, stream_seq=stream_seq, **(facts | fields))


def event(session_id: str, seq: int, **payload: Any) -> NodeSessionEvent:
    return NodeSessionEvent(
        session_id=session_id, seq=seq, event_type=EventType.MESSAGE, at=later(seq), payload=payload
    )


def chain(count: int, *, after: tuple[int, str] = (0, GENESIS)) -> list[AuditRecord]:
    found, (seq, prev) = [], after
    for n in range(seq + 1, seq + 1 + count):
        facts: dict[str, Any] = {
            "seq": n,
            "kind": "k",
            "at": rfc3339_ms(later(n)),
            "actor": "a",
            "subject": "s",
            "detail": {"zeta": n, "alpha": ["ü", 1]},
        }
        digest = record_hash(prev_hash=prev, **facts)
        found.append(AuditRecord(prev_hash=prev, hash=digest, **facts))
        prev = digest
    return found


async def test_items_come_down_in_the_order_of_their_revisions_to_those_they_are_meant_for(
    place: Place,
) -> None:
    async with opened(place) as store:
        await store.write(scene)
        made = [
            item(1),
            item(2, owner_id="ann"),
            item(3, owner_id="bob"),
            item(4, owner_id="ann", node_id="n2", kind=ItemKind.LEASE),
            item(5, kind=ItemKind.ROSTER, expires_at=later(5)),
        ]
        revisions = [await store.write(lambda tx, i=i: tx.items.add(i)) for i in made]  # type: ignore[misc]
        assert revisions == [1, 2, 3, 4, 5]
        assert await store.write(lambda tx: tx.items.add(made[1])) == 2, "the same item again"
        assert await store.read(lambda tx: tx.items.revision()) == 5
        mine = await store.read(lambda tx: tx.items.since(0, owner_id="ann", node_id="n1"))
        assert [found.revision for found in mine] == [1, 2, 5]
        assert mine[0].item == made[0].item
        rest = await store.read(lambda tx: tx.items.since(2, owner_id="ann", node_id="n2", limit=1))
        assert [found.revision for found in rest] == [4]
        leases = (ItemKind.LEASE,)
        some = await store.read(lambda tx: tx.items.since(0, owner_id="ann", node_id="n2", kinds=leases))
        assert [found.revision for found in some] == [4]
        assert await store.read(lambda tx: tx.items.since(0, owner_id="ann", node_id="n2", kinds=())) == []
        again = item(6, subject="p1")
        await store.write(lambda tx: tx.items.add(again))
        latest = await store.read(lambda tx: tx.items.latest(ItemKind.POLICY, "p1"))
        assert latest is not None
        assert latest.revision == 6
        assert await store.write(lambda tx: tx.items.remove_expired(later(6), 10)) == 1
        assert await store.read(lambda tx: tx.items.revision()) == 6


async def test_a_stream_only_goes_forward_and_begins_anew_with_another_key(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        assert await store.read(lambda tx: tx.streams.acked("n1", Stream.AUDIT)) == 0
        for seq, expected in ((5, 5), (3, 5), (9, 9)):
            found = await store.write(
                lambda tx, seq=seq: tx.streams.advance("n1", Stream.AUDIT, seq, later(seq))  # type: ignore[misc]
            )
            assert found == expected
        await store.write(lambda tx: tx.streams.advance("n1", Stream.LEDGER, 1, AT))
        places = await store.read(lambda tx: tx.streams.all_of("n1"))
        assert [(p.stream, p.acked_seq, p.updated_at) for p in places] == [
            (Stream.AUDIT, 9, later(9)),
            (Stream.LEDGER, 1, AT),
        ]
        for n, key in enumerate((b"a" * 32, b"b" * 32)):
            device = credential(f"c{n}", "n1", public_key=key)
            await store.write(lambda tx, d=device: tx.devices.add(d))  # type: ignore[misc]
        assert await store.read(lambda tx: tx.streams.acked("n1", Stream.AUDIT)) == 0
        assert await store.write(lambda tx: tx.streams.advance("n1", Stream.AUDIT, 2, AT)) == 2


async def test_the_ledger_of_a_node_is_the_same_however_often_it_is_pushed(place: Place) -> None:
    usage = UsageRecord(
        session_id="s1",
        total_tokens=7,
        cost_usd=0.25,
        cost_confidence=CostConfidence.EXACT,
        cost_source=CostSource.PROVIDER_REPORTED,
        token_source=MetricSource.PROVIDER_REPORTED,
        computed_at=AT,
    )
    running = session("s1", 1)
    ended = session(
        "s1",
        4,
        status=SessionStatus.SUCCESS,
        ended_at=later(9),
        runtime_ms=9000,
        task_id="t1",
        task_title="T",
    )
    events = [event("s1", n, text=f'line {n} "x" \\n', n=n) for n in range(1, 6)]

    async with opened(place) as store:
        await store.write(scene)
        for _ in range(2):
            await store.write(lambda tx: tx.ledger.put_sessions("n1", [ended, running]))
            await store.write(lambda tx: tx.ledger.put_sessions("n1", [running]))
            await store.write(lambda tx: tx.ledger.put_events("n1", events))
            await store.write(lambda tx: tx.ledger.put_events("n1", events[:2]))
            await store.write(lambda tx: tx.ledger.put_usage("n1", [NodeUsage(stream_seq=5, usage=usage)]))
        assert await store.read(lambda tx: tx.ledger.session("n1", "s1")) == ended
        assert await store.read(lambda tx: tx.ledger.session("n2", "s1")) is None
        assert await store.read(lambda tx: tx.ledger.events("n1", "s1")) == events
        assert await store.read(lambda tx: tx.ledger.events("n1", "s1", 3, 1)) == [events[3]]
        assert await store.read(lambda tx: tx.ledger.usage("n1", "s1")) == usage
        totals = await store.read(lambda tx: tx.ledger.totals("n1", AT, later(1)))
        assert (totals.sessions, totals.total_tokens, totals.cost_usd, totals.runtime_ms) == (
            1,
            7,
            0.25,
            9000,
        )
        assert (await store.read(lambda tx: tx.ledger.totals("n1", later(1), later(2)))).sessions == 0
        with pytest.raises(ValueError, match=r"(?i)foreign key"):
            await store.write(lambda tx: tx.ledger.put_events("n1", [event("nobody", 1)]))


async def test_pages_of_a_nodes_ledger(place: Place) -> None:
    async with opened(place) as store:
        await store.write(scene)
        many = [session(f"s{n}", started_at=later(n // 2), task_id=f"t{n % 2}") for n in range(5)]
        await store.write(lambda tx: tx.ledger.put_sessions("n1", many))
        first = await store.read(lambda tx: tx.ledger.page(LedgerQueryOfNode(node_id="n1", limit=3)))
        place_of = (first[-1].started_at, first[-1].session_id)
        rest = await store.read(
            lambda tx: tx.ledger.page(LedgerQueryOfNode(node_id="n1", limit=3, after=place_of))
        )
        assert [s.session_id for s in first + rest] == ["s4", "s3", "s2", "s1", "s0"]
        of_task = LedgerQueryOfNode(node_id="n1", task_id="t1", status=SessionStatus.RUNNING)
        assert [s.session_id for s in await store.read(lambda tx: tx.ledger.page(of_task))] == ["s3", "s1"]


async def test_windows_of_delta_v_are_replaced_by_what_was_said_last(place: Place) -> None:
    windows = [
        NodeDeltaV(window_start=later(60 * n), window_end=later(60 * n + 60), value=n * 1.5, samples=n)
        for n in range(3)
    ]
    over = NodeDeltaV(
        window_start=AT,
        window_end=later(60),
        value=None,
        samples=1,
        refused=2,
        source="rapl",
        confidence="low",
    )
    async with opened(place) as store:
        await store.write(scene)
        await store.write(lambda tx: tx.ledger.put_delta_v("n1", windows))
        await store.write(lambda tx: tx.ledger.put_delta_v("n1", [over]))
        assert await store.read(lambda tx: tx.ledger.delta_v("n1", AT, 2)) == [over, windows[1]]
        assert await store.read(lambda tx: tx.ledger.delta_v("n1", later(61), 9)) == [windows[2]]


async def test_a_nodes_chain_is_kept_word_for_word_and_goes_on_only_at_its_head(place: Place) -> None:
    records = chain(5)
    async with opened(place) as store:
        await store.write(scene)
        assert (await store.read(lambda tx: tx.node_audit.head("n1"))).hash == GENESIS
        await store.write(lambda tx: tx.node_audit.add("n1", records[:3], AT))
        head = await store.read(lambda tx: tx.node_audit.head("n1"))
        assert (head.seq, head.hash) == (3, records[2].hash)
        for wrong in (records[4:], records[2:], [records[4], records[3]]):
            with pytest.raises(ValueError, match="number 4"):
                await store.write(lambda tx, wrong=wrong: tx.node_audit.add("n1", wrong, AT))  # type: ignore[misc]
        await store.write(lambda tx: tx.node_audit.add("n1", records[3:], AT))
        found = await store.read(lambda tx: tx.node_audit.records("n1", 0, 10))
        assert found == records
        assert first_bad(found) is None
        assert await store.read(lambda tx: tx.node_audit.records("n1", 4, 10)) == records[4:]
        for n, key in enumerate((b"a" * 32, b"b" * 32)):
            device = credential(f"c{n}", "n1", public_key=key)
            await store.write(lambda tx, d=device: tx.devices.add(d))  # type: ignore[misc]
        assert (await store.read(lambda tx: tx.node_audit.head("n1"))).seq == 0, "another key, another chain"


async def test_the_control_planes_own_chain_holds_and_never_changes(place: Place) -> None:
    async with opened(place) as store:
        for n in range(4):
            entry = AuditEntry(
                kind="node.deleted", at=later(n), actor="ann", subject=f"n{n}", detail={"n": n}
            )
            assert await store.write(lambda tx, e=entry: tx.audit.append(e)) == n + 1  # type: ignore[misc]
        bad = AuditEntry(kind="k", at=AT, actor="a", subject="s", detail={"x": 1.5})
        with pytest.raises(ValueError, match="float"):
            await store.write(lambda tx: tx.audit.append(bad))
        records = await store.read(lambda tx: tx.audit.records(0, 10))
        assert first_bad(records) is None
        assert [record.subject for record in records] == ["n0", "n1", "n2", "n3"]
    for sql in ("DELETE FROM control_audit", "UPDATE control_audit SET actor = 'bob'"):
        with pytest.raises(Exception, match="control_audit"):
            place.rows(sql)
