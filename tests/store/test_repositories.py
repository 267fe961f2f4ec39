"""The contract of the repositories, against a file and against memory."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.audit import first_bad
from ambientd.core.ingest import StoredSession
from ambientd.core.records import (
    AuditEntry,
    NewEvent,
    RunRecord,
    SessionChange,
    TaskOutcome,
    UsageRecord,
)
from ambientd.store.unit import SqliteTransaction
from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    MetricConfidence,
    MetricSource,
    SessionStatus,
)
from tests.store.kit import AT, in_memory, ingest, migrated, new_event, new_session

BAD_TEXT = ["\ud800", "a\0b"]


@pytest.fixture(params=["disk", "memory"])
def tx(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteTransaction]:
    connection = in_memory() if request.param == "memory" else migrated(tmp_path / "ambient.db")
    connection.execute("BEGIN IMMEDIATE")
    yield SqliteTransaction(connection, AT + timedelta(minutes=1))
    connection.execute("ROLLBACK")
    connection.close()


class TestSessions:
    def test_a_session_reads_back_as_it_was_added(self, tx: SqliteTransaction) -> None:
        at = AT + timedelta(microseconds=123_999)
        tx.ledger.add(
            new_session(
                "s1", started_at=at, task_title="Ti", task_text="Te\nxt", task_category="c", model_id="m"
            )
        )
        found = tx.ledger.get("s1")
        assert found is not None
        assert (found.session_id, found.agent_id, found.agent_label) == ("s1", "reviewer", "Code reviewer")
        assert (found.task_title, found.task_text, found.task_category) == ("Ti", "Te\nxt", "c")
        assert found.started_at == AT + timedelta(milliseconds=123)
        assert found.ingested_at == AT + timedelta(minutes=1)
        assert found.status is SessionStatus.QUEUED
        assert (found.ended_at, found.runtime_ms, found.artifact_count) == (None, None, 0)
        assert (found.total_tokens, found.cost_usd, found.cost_confidence) == (None, None, None)

    def test_an_id_is_taken_once(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        with pytest.raises(ValueError, match="s1"):
            tx.ledger.add(new_session("s1", agent_id="other"))

    @pytest.mark.parametrize("bad", BAD_TEXT)
    @pytest.mark.parametrize(
        "field",
        ["agent_id", "agent_label", "model_id", "task_title", "task_text", "task_category", "source_version"],
    )
    def test_text_that_cannot_be_stored_is_a_value_error(
        self, tx: SqliteTransaction, field: str, bad: str
    ) -> None:
        fields: dict[str, Any] = {field: bad}
        with pytest.raises(ValueError, match=field):
            tx.ledger.add(new_session("s1", **fields))

    @pytest.mark.parametrize("bad", BAD_TEXT)
    def test_an_id_that_cannot_be_stored_is_a_value_error_or_unknown(
        self, tx: SqliteTransaction, bad: str
    ) -> None:
        with pytest.raises(ValueError, match="session_id"):
            tx.ledger.add(new_session(bad))
        assert tx.ledger.get(bad) is None
        assert tx.ledger.find(bad, 5) == []
        assert tx.ledger.events(bad, 0, 5) == []
        assert not tx.ledger.change(bad, SessionChange(artifact_count=1))

    def test_a_naive_time_is_a_value_error(self, tx: SqliteTransaction) -> None:
        with pytest.raises(ValueError, match="naive"):
            tx.ledger.add(new_session("s1", started_at=datetime(2026, 1, 1)))  # noqa: DTZ001

    def test_a_change_moves_a_session_forward_until_it_has_ended(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        running = SessionChange(status=SessionStatus.RUNNING, running_since=AT)
        ended = SessionChange(
            status=SessionStatus.FAILED,
            ended_at=AT + timedelta(seconds=9),
            runtime_ms=9000,
            artifact_count=2,
            error_code="x",
            error_message="y",
        )
        assert tx.ledger.change("s1", running)
        assert tx.ledger.change("s1", ended)
        assert not tx.ledger.change("s1", SessionChange(status=SessionStatus.SUCCESS, error_code="z"))
        found = tx.ledger.get("s1")
        assert found is not None
        assert (found.status, found.running_since, found.ended_at) == (
            SessionStatus.FAILED,
            AT,
            ended.ended_at,
        )
        assert (found.runtime_ms, found.artifact_count) == (9000, 2)
        assert (found.error_code, found.error_message) == ("x", "y")

    def test_a_running_session_is_not_queued_again(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1", status=SessionStatus.RUNNING))
        with pytest.raises(ValueError, match="never queued again"):
            tx.ledger.change("s1", SessionChange(status=SessionStatus.QUEUED))

    @pytest.mark.parametrize("bad", [-1, 2**63, 10**100])
    def test_a_number_that_cannot_be_stored_is_a_value_error(self, tx: SqliteTransaction, bad: int) -> None:
        tx.ledger.add(new_session("s1"))
        with pytest.raises(ValueError, match="runtime_ms"):
            tx.ledger.change("s1", SessionChange(runtime_ms=bad))

    def test_active_sessions_are_listed_oldest_first(self, tx: SqliteTransaction) -> None:
        for second, status in ((3, "running"), (1, "queued"), (2, "success")):
            tx.ledger.add(new_session(f"s{second}", second=second, status=SessionStatus(status)))
        assert [row.session_id for row in tx.ledger.active()] == ["s1", "s3"]

    def test_the_last_ended_session_of_each_agent_is_found(self, tx: SqliteTransaction) -> None:
        assert tx.ledger.last_of_agents() == {}
        for agent in ("a", "b", "c"):
            for second in range(3):
                tx.ledger.add(new_session(f"{agent}{second}", second=second, agent_id=agent))
        for session_id in ("a0", "a1", "b2"):
            tx.ledger.change(session_id, SessionChange(status=SessionStatus.SUCCESS, ended_at=AT))
        assert {agent: row.session_id for agent, row in tx.ledger.last_of_agents().items()} == {
            "a": "a1",
            "b": "b2",
        }

    def test_what_ended_lately_is_listed_newest_end_first(self, tx: SqliteTransaction) -> None:
        for n in range(5):
            tx.ledger.add(new_session(f"s{n}", second=-n))
            ended = AT + timedelta(seconds=n)
            tx.ledger.change(f"s{n}", SessionChange(status=SessionStatus.SUCCESS, ended_at=ended))
        found = tx.ledger.ended_since(AT + timedelta(seconds=2), 2)
        assert [row.session_id for row in found] == ["s4", "s3"]
        assert len(tx.ledger.ended_since(AT + timedelta(seconds=2), 10)) == 3
        assert len(tx.ledger.ended_since(AT + timedelta(seconds=2, microseconds=1), 10)) == 2

    def test_a_fragment_finds_by_whole_id_beginning_and_end(self, tx: SqliteTransaction) -> None:
        ids = ["ses_AAAA1111", "ses_AAAA2222", "ses_BBBB2222", "other%_\\"]
        for second, session_id in enumerate(ids):
            tx.ledger.add(new_session(session_id, second=second))

        def found(fragment: str, limit: int = 10) -> list[str]:
            return [row.session_id for row in tx.ledger.find(fragment, limit)]

        assert found("ses_AAAA1111") == ["ses_AAAA1111"]
        assert found("ses_AAAA") == ["ses_AAAA2222", "ses_AAAA1111"]
        assert found("2222") == ["ses_BBBB2222", "ses_AAAA2222"]
        assert found("A2222") == ["ses_AAAA2222"]
        assert found("22") == ["ses_BBBB2222", "ses_AAAA2222"]
        assert found("ses_", 2) == ["ses_BBBB2222", "ses_AAAA2222"]
        assert found("%") == []
        assert found("%_\\") == ["other%_\\"]
        assert found("") == []
        assert found("ses_AAAA1111x") == []


class TestEvents:
    def test_events_get_consecutive_numbers_per_session(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        tx.ledger.add(new_session("s2"))
        assert tx.ledger.append("s1", [new_event("a"), new_event("b")]) == 2
        assert tx.ledger.append("s2", [new_event("c")]) == 1
        assert tx.ledger.append("s1", [new_event("d")]) == 3
        assert tx.ledger.append("s1", []) == 3
        found = tx.ledger.events("s1", 1, 10)
        assert [(row.seq, row.event_id, row.payload) for row in found] == [
            (2, "s1:2", {"text": "b"}),
            (3, "s1:3", {"text": "d"}),
        ]
        assert [row.seq for row in tx.ledger.events("s1", 0, 2)] == [1, 2]

    def test_events_of_one_type_are_found_in_order(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        tx.ledger.append("s1", [new_event(str(n), event_type=list(EventType)[n % 3]) for n in range(9)])
        found = tx.ledger.events_of_type("s1", EventType.MESSAGE, 2)
        assert [row.event_type for row in found] == [EventType.MESSAGE] * 2
        assert found[0].seq < found[1].seq

    def test_an_unknown_session_takes_no_events(self, tx: SqliteTransaction) -> None:
        with pytest.raises(LookupError, match="nobody"):
            tx.ledger.append("nobody", [new_event()])

    def test_an_own_event_id_is_kept_and_unique(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        mine = NewEvent(event_type=EventType.ERROR, at=AT, payload={}, event_id="mine")
        tx.ledger.append("s1", [mine])
        assert tx.ledger.events("s1", 0, 1)[0].event_id == "mine"
        with pytest.raises(ValueError, match="event_id"):
            tx.ledger.append("s1", [mine])

    @pytest.mark.parametrize(
        "payload",
        [
            {"a": float("nan")},
            {"a": float("inf")},
            {"a": 2**63},
            {"a": [{"b": -(2**63) - 1}]},
            {"a": "\ud800"},
            {"\ud800": 1},
            {1: 1},
            {"a": object()},
        ],
    )
    def test_a_payload_that_cannot_be_stored_is_a_value_error(
        self, tx: SqliteTransaction, payload: dict[Any, Any]
    ) -> None:
        tx.ledger.add(new_session("s1"))
        with pytest.raises(ValueError, match="payload"):
            tx.ledger.append("s1", [NewEvent(event_type=EventType.METRIC, at=AT, payload=payload)])

    def test_a_payload_nested_without_end_is_a_value_error(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        deep: dict[str, Any] = {}
        for _ in range(100_000):
            deep = {"a": deep}
        with pytest.raises(ValueError, match="levels"):
            tx.ledger.append("s1", [NewEvent(event_type=EventType.METRIC, at=AT, payload=deep)])

    def test_a_nul_in_a_payload_reads_back(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        tx.ledger.append("s1", [new_event("a\0b")])
        assert tx.ledger.events("s1", 0, 1)[0].payload == {"text": "a\0b"}


class TestUsage:
    def test_usage_reads_back_and_is_replaced(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        whole = UsageRecord(
            session_id="s1",
            prompt_tokens=1,
            completion_tokens=2,
            total_tokens=3,
            runtime_ms=4,
            cost_usd=0.5,
            cost_confidence=CostConfidence.ESTIMATED,
            cost_source=CostSource.ESTIMATED_FROM_PRICING,
            cost_confidence_level=MetricConfidence.MEDIUM,
            token_source=MetricSource.PROVIDER_REPORTED,
            token_confidence=MetricConfidence.HIGH,
            runtime_source=MetricSource.DERIVED,
            runtime_confidence=MetricConfidence.LOW,
            provider="p",
            pricing_version="v1",
            computed_at=AT,
        )
        tx.usage.put(UsageRecord(session_id="s1", computed_at=AT))
        tx.usage.put(whole)
        assert tx.usage.get("s1") == whole
        found = tx.ledger.get("s1")
        assert found is not None
        assert (found.total_tokens, found.cost_usd, found.cost_confidence) == (
            3,
            0.5,
            CostConfidence.ESTIMATED,
        )

    def test_unknown_usage_is_none_and_never_zero(self, tx: SqliteTransaction) -> None:
        tx.ledger.add(new_session("s1"))
        assert tx.usage.get("s1") is None
        tx.usage.put(UsageRecord(session_id="s1", computed_at=AT))
        assert tx.usage.get("s1") == UsageRecord(session_id="s1", computed_at=AT)

    @pytest.mark.parametrize(
        "change",
        [
            {"cost_confidence": CostConfidence.ESTIMATED, "cost_usd": 1.0},
            {"cost_source": CostSource.ESTIMATED_FROM_PRICING},
            {"cost_usd": float("nan")},
            {"cost_usd": float("inf")},
            {"cost_usd": -1.0},
            {"prompt_tokens": -1},
            {"total_tokens": 2**63},
            {"provider": "\ud800"},
        ],
    )
    def test_usage_that_may_not_be_stored_is_a_value_error(
        self, tx: SqliteTransaction, change: dict[str, Any]
    ) -> None:
        tx.ledger.add(new_session("s1"))
        with pytest.raises(ValueError):  # noqa: PT011 - several reasons
            tx.usage.put(UsageRecord(session_id="s1", computed_at=AT, **change))
        assert tx.usage.get("s1") is None

    def test_an_unknown_session_has_no_usage(self, tx: SqliteTransaction) -> None:
        assert tx.usage.get("nobody") is None
        with pytest.raises(LookupError):
            tx.usage.put(UsageRecord(session_id="nobody", computed_at=AT))


class TestRunsTasksAudit:
    def test_a_run_is_added_once_and_then_replaced(self, tx: SqliteTransaction) -> None:
        ingest(tx, "s1")
        first = RunRecord(session_id="s1", task_id="t1")
        later = RunRecord(session_id="s1", attempt=2, spool_offset=99, output_events=3, end_cause="killed")
        assert tx.runs.get("s1") is None
        tx.runs.add(first)
        with pytest.raises(ValueError, match="run of s1"):
            tx.runs.add(later)
        assert tx.runs.get("s1") == first
        tx.runs.put(later)
        assert tx.runs.get("s1") == later
        with pytest.raises(LookupError):
            tx.runs.add(RunRecord(session_id="nobody"))

    def test_the_outcome_of_a_task_is_kept_and_the_latest_is_known(self, tx: SqliteTransaction) -> None:
        assert tx.tasks.latest() is None
        outcomes = [
            TaskOutcome(task_id=f"t{n}", outcome="dispatched", session_id=None, file_name="f", at=AT)
            for n in range(3)
        ]
        for outcome in outcomes:
            tx.tasks.put(outcome)
        assert tx.tasks.latest() == outcomes[2]
        done = TaskOutcome(task_id="t0", outcome="committed", session_id="s", file_name="f", at=AT)
        tx.tasks.put(done)
        assert tx.tasks.get("t0") == done
        assert tx.tasks.latest() == done
        assert tx.tasks.get("t9") is None

    def test_counters_add_up(self, tx: SqliteTransaction) -> None:
        assert tx.tasks.counters() == {}
        tx.tasks.count("a")
        tx.tasks.count("a", 4)
        tx.tasks.count("b", 0)
        assert tx.tasks.counters() == {"a": 5, "b": 0}

    def test_the_audit_chain_holds_and_is_numbered_from_one(self, tx: SqliteTransaction) -> None:
        for n in range(1, 6):
            entry = AuditEntry(kind="k", at=AT, actor="uid:0", subject=f"s{n}", detail={"n": n, "t": "é"})
            assert tx.audit.append(entry) == n
        records = tx.audit.records(0, 100)
        assert [record.seq for record in records] == [1, 2, 3, 4, 5]
        assert first_bad(records) is None
        assert first_bad(tx.audit.records(2, 2), prev_hash=records[1].hash, seq=3) is None

    @pytest.mark.parametrize("detail", [{"a": 1.5}, {"é": 1}, {"a": "\ud800"}])
    def test_a_detail_without_canonical_bytes_is_a_value_error(
        self, tx: SqliteTransaction, detail: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - several reasons
            tx.audit.append(AuditEntry(kind="k", at=AT, actor="a", subject="s", detail=detail))

    def test_the_applied_migrations_are_listed(self, tx: SqliteTransaction) -> None:
        applied = tx.migrations.applied()
        assert applied[0] == (1, "0001_init", "2026-11-20T12:00:00.000Z")
        assert [row[0] for row in applied] == list(range(1, len(applied) + 1))


def _gateway_run(session_id: str, minute: int, **facts: Any) -> StoredSession:
    base: dict[str, Any] = dict.fromkeys(StoredSession.__struct_fields__)
    base |= {"session_id": session_id, "agent_id": "tony", "agent_label": "Tony", "model_id": "m"}
    base |= {
        "status": SessionStatus.RUNNING,
        "started_at": AT + timedelta(minutes=minute),
        "artifact_count": 0,
    }
    return StoredSession(**(base | {"source": "gw", "gateway_session_id": "s1"} | facts))


class TestRunsOfAGateway:
    def test_runs_of_one_session_are_found_newest_first(self, tx: SqliteTransaction) -> None:
        for number, name in enumerate(("s1", "s1~b", "s1~c")):
            tx.ingest.add(_gateway_run(name, number))
        tx.ingest.add(_gateway_run("s2", 9, gateway_session_id="s2"))
        assert [row.session_id for row in tx.ingest.of_gateway_session("s1", 2)] == ["s1~c", "s1~b"]
        assert tx.ingest.of_gateway_session("nobody", 9) == []
        found = tx.ledger.get("s1~b")
        assert found is not None
        assert found.gateway_session_id == "s1"

    def test_open_ones_of_a_source_are_found_oldest_first(self, tx: SqliteTransaction) -> None:
        tx.ingest.add(_gateway_run("b", 2))
        tx.ingest.add(_gateway_run("a", 1))
        tx.ingest.add(_gateway_run("other", 0, source="x"))
        tx.ingest.add(_gateway_run("ended", 0, status=SessionStatus.SUCCESS, ended_at=AT))
        assert [row.session_id for row in tx.ingest.open_of("gw", 9)] == ["a", "b"]

    def test_which_session_it_is_never_changes(self, tx: SqliteTransaction) -> None:
        tx.ingest.add(_gateway_run("s1", 0))
        with pytest.raises(ValueError, match="not settable"):
            tx.ingest.change("s1", {"gateway_session_id": "s2"})


class TestSettings:
    def test_a_value_reads_back_and_is_replaced(self, tx: SqliteTransaction) -> None:
        assert tx.settings.get("a") is None
        tx.settings.put("a", "1")
        tx.settings.put("a", "2")
        assert tx.settings.get("a") == "2"

    def test_values_are_found_by_the_beginning_of_their_names(self, tx: SqliteTransaction) -> None:
        for name in ("model.local.a", "model.local.ü", "model", "modem.local.a"):
            tx.settings.put(name, name)
        assert tx.settings.beginning("model.") == {"local.a": "model.local.a", "local.ü": "model.local.ü"}

    def test_what_cannot_be_stored_is_refused(self, tx: SqliteTransaction) -> None:
        with pytest.raises(ValueError, match="NUL"):
            tx.settings.put("a", "b\0")
