"""Rounds of a node with the control plane's own application: what is told, what survives, what comes down."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.delta_v_account import Basis, Slice, open_account
from ambientd.core.records import SessionChange
from ambientd.core.timefmt import to_ms
from ambientd.ports.controlplane import ControlAnswer
from ambientd.wire.enums import SessionStatus
from ambientd.wire.outbox_enums import OutboxStream
from tests.pushkit import LOST, OK, UNHEARD, NodeRig, node_beside
from tests.store.kit import AT, ingest, new_event, new_session


def end(name: str, status: SessionStatus = SessionStatus.SUCCESS) -> Any:
    change = SessionChange(status=status, ended_at=AT, runtime_ms=5)
    return lambda tx: tx.ledger.change(name, change)


def answer(status: int, code: str = "", **headers: str) -> ControlAnswer:
    body = b'{"error":{"code":"%s","message":"no","details":[],"requestId":"r"}}' % code.encode()
    return ControlAnswer(status=status, headers=headers, body=body if code else b"")


def each(work: Callable[[int], None], count: int) -> None:
    for n in range(count):
        work(n)


async def in_step(rig: NodeRig) -> None:
    """Every record is on both sides once."""
    assert rig.there() == await rig.here()


async def test_everything_is_told_once(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.write(lambda tx: each(lambda n: ingest(tx, f"ses_{n}", events=n, second=n), 5))
        await rig.record(3)
        await rig.drain()
        await in_step(rig)
        assert rig.reports_there() == [1]
        depth = await rig.service.count()
        assert {one.stream.value: one.acknowledged for one in depth.streams} == {
            "reports": 1,
            "audit": 3,
            "ledger": 5,
            "delta_v": 0,
            "results": 0,
        }


async def test_sessions_from_before_the_join_are_told_too(tmp_path: Path) -> None:
    async with node_beside(tmp_path, joined=False) as rig:
        await rig.write(lambda tx: each(lambda n: ingest(tx, f"ses_{n:04}", second=n), 1200))
        assert await rig.store.read(lambda tx: tx.outbox.depth(0).waiting) == 0
        await rig.join()
        await rig.drain()
        await in_step(rig)


async def test_only_what_is_new_is_told_again(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.write(lambda tx: ingest(tx, "ses_a", events=3))
        await rig.drain()
        before = rig.wire.bytes
        await rig.write(lambda tx: tx.ledger.append("ses_a", [new_event("more")]))
        await rig.write(end("ses_a"))
        await rig.drain()
        await in_step(rig)
        assert rig.wire.bytes - before < 2_000
        depth = await rig.service.count()
        assert next(one for one in depth.streams if one.stream is OutboxStream.LEDGER).acknowledged == 2


@pytest.mark.parametrize("fault", [LOST, UNHEARD])
@pytest.mark.parametrize("place", range(8))
async def test_a_request_or_an_answer_that_is_lost_costs_nothing(
    tmp_path: Path, fault: str, place: int
) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.write(lambda tx: each(lambda n: ingest(tx, f"ses_{n}", events=2, second=n), 3))
        await rig.record(2)
        rig.wire.faults = [*[OK] * place, fault]
        await rig.sync()
        await rig.write(lambda tx: tx.ledger.append("ses_1", [new_event("meanwhile")]))
        rig.restart()
        await rig.drain()
        await in_step(rig)
        assert rig.reports_there() == list(range(1, len(rig.reports_there()) + 1))


@pytest.mark.parametrize(
    "bad",
    [
        answer(500, "INTERNAL_ERROR"),
        answer(502),
        answer(503, "NOT_READY", **{"retry-after": "5"}),
        answer(429, "TOO_MANY_REQUESTS", **{"retry-after": "30"}),
        answer(302, "", location="https://elsewhere.example.net/"),
        ControlAnswer(status=200, headers={}, body=b"{"),
        ControlAnswer(status=200, headers={}, body=b"<html>log in</html>"),
        ControlAnswer(status=204, headers={}, body=b""),
    ],
    ids=lambda bad: f"{bad.status}-{len(bad.body)}",
)
async def test_nothing_leaves_the_outbox_for_an_answer_that_proves_nothing(
    tmp_path: Path, bad: ControlAnswer
) -> None:
    """N6: the queue keeps its order, and is emptied only by a confirmed number."""
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await rig.write(lambda tx: ingest(tx, "ses_a"))
        await rig.record(2)
        await rig.sample()
        waiting = (await rig.service.count()).waiting
        rig.wire.always = bad
        for _ in range(3):
            result = await rig.sync()
            assert result.reason
        assert (await rig.service.count()).waiting >= waiting
        assert rig.reports_there() == [1]
        await rig.drain()
        await in_step(rig)
        numbers = rig.reports_there()
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("acked", [-1, 0, 2, 10**9])
async def test_a_wrong_last_number_loses_nothing(tmp_path: Path, acked: int) -> None:
    """N6: a number that was never given proves nothing; a lie is found out with the next batch."""
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await rig.write(lambda tx: each(lambda n: ingest(tx, f"ses_{n}", second=n), 3))
        body = b'{"acked_seq":%d,"taken":3,"duplicates":0,"left_out":[]}' % acked
        # report and reconciliation pass; the ledger's batch gets the wrong word
        rig.wire.faults = [OK, OK, ControlAnswer(status=200, headers={}, body=body)]
        result = await rig.sync()
        if acked != 2:
            assert result.reason
            left = await rig.store.read(lambda tx: tx.outbox.depth(0))
            assert {one.stream: one.waiting for one in left.streams}[OutboxStream.LEDGER] == 3
        await rig.drain()
        await in_step(rig)


async def test_a_refused_credential_stops_the_node_and_says_so(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await rig.owner.delete(f"/nodes/{rig.name}/credential")
        result = await rig.sync()
        assert "credential counts no longer" in result.reason
        assert rig.service.refused is not None
        asked = len(rig.wire.sent)
        await rig.service._turn()
        assert len(rig.wire.sent) == asked
        await rig.write(lambda tx: ingest(tx, "ses_a"))
        await rig.join()  # a new credential for the same key
        await rig.drain()
        assert rig.refusal() is None
        await in_step(rig)


async def test_numbers_that_somebody_has_used_are_skipped(tmp_path: Path) -> None:
    """A copy of this node's state, or an older one, has counted on."""
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await rig.write(lambda tx: tx.outbox.reserve_requests(0))
        rig.api.place.rows("UPDATE device_credentials SET last_seq = 500000")
        await rig.write(lambda tx: ingest(tx, "ses_a"))
        await rig.drain()
        await in_step(rig)
        assert rig.api.rows("SELECT last_seq FROM device_credentials")[0][0] > 500_000


async def test_a_control_plane_that_was_put_back_gets_what_it_has_lost(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.write(lambda tx: ingest(tx, "ses_a", events=2))
        await rig.record(2)
        await rig.drain()
        for table in ("node_usage", "node_session_events", "node_sessions", "node_audit", "node_streams"):
            rig.api.place.rows(f"DELETE FROM {table}")  # noqa: S608 - constants
        await rig.write(lambda tx: ingest(tx, "ses_b", second=1))
        await rig.record(1)
        rig.restart()
        await rig.drain()
        await in_step(rig)


async def test_a_node_that_has_lost_its_own_memory_goes_on_behind_the_last_number(tmp_path: Path) -> None:
    """Its database was set aside; the membership stayed."""
    async with node_beside(tmp_path) as rig:
        await rig.write(lambda tx: each(lambda n: ingest(tx, f"ses_{n}", second=n), 4))
        await rig.drain()
        await rig.sample()
        await rig.drain()

        def forget(tx: Any) -> None:
            tx._connection.execute("UPDATE outbox_streams SET last_seq = 0, acked_seq = 0")
            tx._connection.execute("UPDATE outbox_state SET request_seq = 0")
            tx._connection.execute("DELETE FROM outbox_reports")

        await rig.write(forget)
        rig.restart()
        await rig.write(lambda tx: ingest(tx, "ses_new", second=9))
        await rig.drain()
        await in_step(rig)
        numbers = rig.reports_there()
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= 3


async def test_another_chain_of_audit_records_is_said_and_holds_nothing_else_up(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.record(3)
        await rig.drain()
        rig.api.place.rows("UPDATE node_audit SET hash = '" + "f" * 64 + "' WHERE seq = 3")
        await rig.record(1)
        await rig.write(lambda tx: ingest(tx, "ses_a"))
        result = await rig.sync()
        assert result.reason is None
        assert "another audit chain" in rig.service.blocked[OutboxStream.AUDIT]
        assert [row[0] for row in rig.there()["sessions"]] == ["ses_a"]


# --- what is too much


async def test_one_record_that_is_never_taken_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()

        def work(tx: Any) -> None:
            for n in range(20):
                label = "x" * 2_000 if n == 7 else "ok"  # longer than a control plane takes
                tx.ledger.add(new_session(f"ses_{n:02}", second=n, agent_label=label))

        await rig.write(work)
        await rig.drain()
        assert len(rig.there()["sessions"]) == 19
        ledger = (await rig.service.count()).streams[list(OutboxStream).index(OutboxStream.LEDGER)]
        assert (ledger.acknowledged, ledger.refused, ledger.waiting) == (19, 1, 0)


async def test_a_session_with_more_events_than_fit_goes_in_parts(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await rig.write(lambda tx: ingest(tx, "ses_a", events=0))
        large = "x" * 60_000
        for _ in range(10):
            await rig.write(lambda tx: tx.ledger.append("ses_a", [new_event(large)] * 10))
        await rig.write(lambda tx: tx.ledger.append("ses_a", [new_event("small")] * 4_500))
        await rig.drain()
        await in_step(rig)


async def test_the_ring_of_reports_drops_and_counts(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        rig.outbox = 20_000
        for _ in range(400):
            rig.later(60)
            await rig.sample()
        depth = await rig.service.count()
        reports = depth.streams[0]
        assert reports.stream is OutboxStream.REPORTS
        assert reports.waiting + reports.dropped == 400
        assert depth.bytes <= 20_000
        assert rig.service.dropped == reports.dropped > 0
        assert rig.log.events().count("outbox.dropped") == 1
        first = await rig.store.read(lambda tx: [one.seq for one in tx.outbox.reports(1, 30)])
        assert first == list(range(2, 32))
        await rig.drain()
        assert len(rig.reports_there()) == 401 + 1 - reports.dropped
        assert (rig.service.dropped, rig.service.pushed_at) == (0, rig.clock.now())


async def test_old_reports_carry_the_time_at_which_they_were_true(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        for _ in range(600):
            rig.later(60)
            await rig.sample()
        await rig.drain()
        numbers = rig.reports_there()
        assert numbers == list(range(1, 603))
        rows = rig.api.rows(
            "SELECT sampled_at - recorded_at FROM node_heartbeat_history WHERE report_seq = 2"
        )
        assert rows[0][0] == -(599 * 60_000)
        status = await rig.owner.get(f"/nodes/{rig.name}")
        assert (status["status"], status["report_seq"]) == ("online", 602)


async def test_leaving_forgets_what_waits_and_joining_again_tells_everything(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.write(lambda tx: ingest(tx, "ses_a"))
        await rig.drain()
        membership = rig.file.current
        rig.file.current = None
        await rig.service._enter()
        await rig.write(lambda tx: ingest(tx, "ses_b", second=1))
        assert (await rig.service.count()).waiting == 0
        assert await rig.sync() is None
        rig.file.current = membership
        await rig.drain()
        await in_step(rig)


async def test_what_retention_removes_before_it_was_told_is_counted(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.drain()
        await rig.write(lambda tx: each(lambda n: ingest(tx, f"ses_{n}", second=n), 3))
        await rig.write(end("ses_1"))

        def remove(tx: Any) -> None:
            tx._connection.execute("DELETE FROM session_ledger WHERE session_id = 'ses_1'")

        await rig.write(remove)
        await rig.drain()
        ledger = (await rig.service.count()).streams[list(OutboxStream).index(OutboxStream.LEDGER)]
        assert (ledger.acknowledged, ledger.dropped) == (2, 1)
        assert [row[0] for row in rig.there()["sessions"]] == ["ses_0", "ses_2"]


async def test_acknowledged_audit_records_may_be_pruned_and_others_may_not(tmp_path: Path) -> None:
    async with node_beside(tmp_path) as rig:
        await rig.record(5)
        await rig.drain()
        await rig.record(2)
        assert await rig.store.read(lambda tx: tx.audit.state().acknowledged_seq) == 5
        with pytest.raises(ValueError, match="acknowledged"):
            await rig.write(lambda tx: tx.audit.prune(6, 100))
        assert await rig.write(lambda tx: tx.audit.prune(5, 100)) == 5
        await rig.drain()
        assert [row[0] for row in rig.there()["audit"]] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_sample_that_is_written_after_its_minute_is_told_as_well(tmp_path: Path) -> None:
    """One that is taken at a minute's end is committed in the next; what was told is not told again."""
    async with node_beside(tmp_path) as rig:
        account = open_account(None, Basis(), rig.clock.now())

        async def sample(value: float, minute: int = 0) -> None:
            at_ms = to_ms(AT) + 60_000 * minute
            piece = Slice(start_ms=at_ms, seconds=1.0, value=value, samples=1, source="battery")
            await rig.write(lambda tx: tx.delta_v.put(account, [piece], [], rig.clock.now()))

        await sample(1.0)
        rig.later(60)
        await sample(4.0, 1)
        await rig.sync()
        await sample(2.0)
        rig.later(120)
        await rig.sync()
        windows = "SELECT window_start, value, samples FROM node_delta_v"
        assert rig.api.rows(windows) == [(to_ms(AT), 3.0, 2), (to_ms(AT) + 60_000, 4.0, 1)]
