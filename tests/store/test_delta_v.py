"""The account of Δv over a real database: nothing is lost, history is bounded, sessions take theirs along."""

from datetime import datetime, timedelta

import apsw
import pytest

from ambientd.core.delta_v import Formula, Parameters, Sample, Total, integrate
from ambientd.core.delta_v_account import LARGEST, Account, Basis, SessionSum, Slice, Span
from ambientd.core.records import RunRecord, SessionChange
from ambientd.core.timefmt import to_ms
from ambientd.store.delta_v import KEEP, REMOVED_MAX
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import MetricConfidence, SessionStatus
from tests.store.kit import AT, in_memory, new_session

AT_MS = to_ms(AT)
TOTAL = integrate(Formula(Parameters()), Total(), [Sample(100, 0.5, 1.2, 10, 1)] * 7)


@pytest.fixture
def connection() -> apsw.Connection:
    return in_memory()


@pytest.fixture
def tx(connection: apsw.Connection) -> SqliteTransaction:
    return SqliteTransaction(connection, AT)


def account(**changes: object) -> Account:
    facts: dict[str, object] = {"since": AT, "basis": Basis(), "total": TOTAL, "seconds": 7.0, "gap_sec": 1.0}
    return Account(**(facts | changes))  # type: ignore[arg-type]


def piece(minute: int = 0, **changes: object) -> Slice:
    facts: dict[str, object] = {
        "start_ms": AT_MS + minute * 60_000,
        "seconds": 60.0,
        "value": 2.0,
        "joules": 600.0,
        "load_sec": 30.0,
        "velocity_sec": 60.0,
        "inertia_sec": 240.0,
        "samples": 1,
        "source": "rapl:package",
        "confidence": MetricConfidence.MEDIUM,
    }
    return Slice(**(facts | changes))  # type: ignore[arg-type]


def span(
    since: datetime = AT, *, hours: float = 24, step: int = 60, generation: int = 1, limit: int = 500
) -> Span:
    until = to_ms(since + timedelta(hours=hours))
    return Span(
        since_ms=to_ms(since), until_ms=until, width_ms=step * 1000, generation=generation, limit=limit
    )


def test_an_account_comes_back_as_it_was(tx: SqliteTransaction) -> None:
    assert tx.delta_v.account() is None
    kept = account(
        reason="the parameters were changed",
        generation=3,
        basis=Basis(parameters=Parameters(alpha=1 / 3, isp=1e300)),
        total=Total(units=2**2223 + 1, samples=5, not_finite=1, overflowed=2, clamped=3, corrected=4),
    )
    tx.delta_v.put(kept, (), (), AT)
    assert tx.delta_v.account() == kept
    tx.delta_v.put(account(), (), (), AT)
    assert tx.delta_v.account() == account()


def test_mapping_and_unit_stand_beside_the_value(tx: SqliteTransaction, connection: apsw.Connection) -> None:
    tx.delta_v.put(account(), [piece()], (), AT)
    row = connection.execute("SELECT mapping, unit, value FROM delta_v_account").fetchone()
    assert row == ("ambient.node/1", "J/GiB", TOTAL.value)
    assert connection.execute("SELECT source, confidence FROM delta_v_history").fetchall() == [
        ("rapl:package", "medium"),
        ("rapl:package", "medium"),
    ]


def test_an_account_of_another_version_is_none(tx: SqliteTransaction, connection: apsw.Connection) -> None:
    tx.delta_v.put(account(), (), (), AT)
    connection.execute("UPDATE delta_v_account SET basis_json = '[]'")
    assert tx.delta_v.account() is None


def test_slices_of_a_minute_are_added_up_and_the_weakest_confidence_stays(tx: SqliteTransaction) -> None:
    low = piece(confidence=MetricConfidence.LOW, source="model:cpu-time", refused=2, gap_sec=3.0)
    tx.delta_v.put(account(), [low, piece(), piece(1)], (), AT)
    first, second = tx.delta_v.slices(span())
    assert (first.start_ms, first.seconds, first.value, first.samples) == (AT_MS, 120.0, 4.0, 2)
    assert (first.gap_sec, first.refused, first.confidence) == (3.0, 2, MetricConfidence.LOW)
    assert (first.mean("joules"), first.mean("load_sec"), first.mean("inertia_sec")) == (10.0, 0.5, 4.0)
    assert second == piece(1)


def test_history_is_cut_into_pieces_of_a_width(tx: SqliteTransaction) -> None:
    tx.delta_v.put(account(), [piece(minute) for minute in range(125)], (), AT)
    assert [one.value for one in tx.delta_v.slices(span(step=300))] == [10.0] * 25
    assert [one.value for one in tx.delta_v.slices(span(step=3600))] == [120.0, 120.0, 10.0]
    assert [one.value for one in tx.delta_v.slices(span(step=86_400))] == [250.0]
    assert [one.start_ms for one in tx.delta_v.slices(span(limit=2))] == [AT_MS, AT_MS + 60_000]
    late = tx.delta_v.slices(span(AT + timedelta(minutes=123, seconds=30)))
    assert [one.start_ms for one in late] == [AT_MS + minute * 60_000 for minute in (123, 124)]
    assert len(tx.delta_v.slices(span(hours=1))) == 61


def test_generations_are_apart(tx: SqliteTransaction) -> None:
    tx.delta_v.put(account(), [piece()], (), AT)
    tx.delta_v.put(account(generation=2), [piece(value=9.0)], (), AT)
    assert [one.value for one in tx.delta_v.slices(span())] == [2.0]
    assert [one.value for one in tx.delta_v.slices(span(generation=2))] == [9.0]


def test_a_sum_too_large_for_a_number_stays_a_number(tx: SqliteTransaction) -> None:
    tx.delta_v.put(account(), [piece(value=LARGEST), piece(value=LARGEST)], (), AT)
    assert tx.delta_v.slices(span())[0].value == LARGEST


def test_old_history_goes_a_little_at_a_time(tx: SqliteTransaction, connection: apsw.Connection) -> None:
    many = REMOVED_MAX + 200
    tx.delta_v.put(account(), [piece(minute) for minute in range(many)], (), AT)
    later = AT + KEEP[60] + timedelta(days=1)
    count = "SELECT count(*) FROM delta_v_history WHERE width_sec = 60"
    tx.delta_v.put(account(), (), (), later)
    assert connection.execute(count).get == 200
    tx.delta_v.put(account(), (), (), later)
    assert connection.execute(count).get == 0
    assert len(tx.delta_v.slices(span(step=3600))) == -(-many // 60)
    tx.delta_v.put(account(), (), (), AT + KEEP[3600] + timedelta(days=2))
    assert connection.execute("SELECT count(*) FROM delta_v_history").get == 0


def test_sums_of_sessions_go_with_their_sessions(tx: SqliteTransaction, connection: apsw.Connection) -> None:
    for name in ("a", "b"):
        tx.ledger.add(new_session(name))
    sums = [
        SessionSum(
            session_id=name,
            since=AT,
            generation=1,
            total=integrate(Formula(Parameters()), Total(), [Sample(100, 0.5, 1.2, 10, 1)] * number),
            seconds=60.0 * number,
            joules=5.0,
            source="cpu-time",
            confidence=MetricConfidence.MEDIUM,
        )
        for number, name in enumerate(("a", "b", "gone"), 1)
    ]
    tx.delta_v.put(account(), (), sums, AT)
    assert tx.delta_v.sums(["a", "gone", "x"]) == sums[:1]
    assert [one.session_id for one in tx.delta_v.largest(1, 10)] == ["b", "a"]
    assert [one.session_id for one in tx.delta_v.largest(1, 1)] == ["b"]
    assert tx.delta_v.largest(2, 10) == []
    connection.execute("DELETE FROM session_ledger WHERE session_id = 'b'")
    assert [one.session_id for one in tx.delta_v.largest(1, 10)] == ["a"]


def add(tx: SqliteTransaction, name: str, *, began: int, ended: int | None = None, run: bool = True) -> None:
    """A session that ran from one minute to another."""
    tx.ledger.add(new_session(name, status=SessionStatus.RUNNING, second=began * 60))
    tx.ledger.change(name, SessionChange(running_since=AT + timedelta(minutes=began)))
    if run:
        tx.runs.add(RunRecord(session_id=name))
    if ended is not None:
        at = AT + timedelta(minutes=ended)
        tx.ledger.change(name, SessionChange(status=SessionStatus.SUCCESS, ended_at=at, runtime_ms=1))


def test_who_was_there_and_for_how_long(tx: SqliteTransaction, connection: apsw.Connection) -> None:
    add(tx, "runs", began=-5)
    add(tx, "began", began=1)
    add(tx, "ended", began=-9, ended=1)
    add(tx, "long ago", began=-9, ended=-1)
    add(tx, "elsewhere", began=-9, run=False)
    add(tx, "gateway", began=-9, run=False)
    connection.execute("UPDATE session_ledger SET gateway_session_id = 'g' WHERE session_id = 'gateway'")
    now = AT + timedelta(minutes=2)

    def there(*, gateway: bool) -> dict[str, tuple[float, bool]]:
        found = tx.delta_v.present(AT, now, 100, gateway=gateway)
        return {one.session_id: (one.seconds, one.own) for one in found}

    own = {"runs": (120.0, True), "began": (60.0, True), "ended": (60.0, True)}
    assert there(gateway=False) == own
    assert there(gateway=True) == own | {"gateway": (120.0, False)}
    assert len(tx.delta_v.present(AT, now, 2, gateway=True)) == 2


def test_completions_of_a_time(tx: SqliteTransaction) -> None:
    for number, ended in enumerate((0, 1, 60, 61)):
        add(tx, str(number), began=-1, ended=ended, run=False)
    add(tx, "runs", began=0)
    assert tx.delta_v.completed(AT, AT + timedelta(hours=1)) == 2


def test_questions_of_every_sample_use_an_index(connection: apsw.Connection) -> None:
    from ambientd.store import delta_v

    for sql, bindings in ((delta_v._COMPLETED, ("a", "b")), (delta_v._PRESENT, (True, "a", 5))):
        steps = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, bindings)]
        assert [step for step in steps if step.startswith("SCAN") and "ledger" in step] == [], steps
