"""The database as an outsider sees it: any SQL client, the specification's names."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.store.migrate import picture
from ambientd.store.search import INDEX_NOTED
from ambientd.store.unit import SqliteTransaction
from tests.store.kit import AT, ingest, migrated

ROOT = Path(__file__).resolve().parents[2]
T = "2026-11-20T12:00:00.000Z"
LEDGER = [
    "session_id",
    "run_id",
    "agent_id",
    "agent_label",
    "model_id",
    "task_title",
    "task_text",
    "task_category",
    "status",
    "started_at",
    "ended_at",
    "runtime_ms",
    "artifact_count",
    "error_code",
    "error_message",
    "source_version",
    "ingested_at",
]
EVENTS = ["event_id", "session_id", "seq", "event_type", "event_ts", "payload_json"]
USAGE = [
    "session_id",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "runtime_ms",
    "cost_usd",
    "cost_confidence",
    "provider",
    "pricing_version",
    "computed_at",
    "cost_source",
    "token_source",
    "runtime_source",
    "token_confidence",
    "runtime_confidence",
    "cost_confidence_level",
]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The system's own SQLite on a database that we made and left."""
    path = tmp_path / "ambient.db"
    connection = migrated(path)
    ingest(SqliteTransaction(connection, AT), "s1")
    connection.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA foreign_keys = ON")
    yield other
    other.close()


def columns(db: sqlite3.Connection, table: str) -> dict[str, bool]:
    return {row[1]: bool(row[3]) for row in db.execute(f"PRAGMA table_info({table})")}


def insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"  # noqa: S608 - this test's names
    db.execute(sql, tuple(row.values()))


def session(**changes: Any) -> dict[str, Any]:
    row = {"session_id": "s9", "agent_id": "a", "agent_label": "A", "model_id": "m", "status": "queued"}
    return row | {"started_at": T, "ingested_at": T} | changes


def event(**changes: Any) -> dict[str, Any]:
    row = {"event_id": "e9", "session_id": "s1", "seq": 9, "event_type": "message"}
    return row | {"event_ts": T, "payload_json": "{}"} | changes


def usage(**changes: Any) -> dict[str, Any]:
    return {"session_id": "s2", "computed_at": T} | changes


def test_the_picture_of_the_schema_is_true(tmp_path: Path) -> None:
    connection = migrated(tmp_path / "ambient.db")
    shown = (ROOT / "migrations" / "node" / "schema.sql").read_text()
    assert shown.partition("\n\n")[2] == picture(connection), "write `picture` into schema.sql below its note"


def test_the_ledger_has_the_columns_of_the_specification(outside: sqlite3.Connection) -> None:
    found = columns(outside, "session_ledger")
    assert [name for name in LEDGER if name not in found] == []
    nullable = {"run_id", "task_title", "task_category", "ended_at", "error_code", "error_message"}
    assert not any(found[name] for name in nullable)
    assert all(found[name] for name in ("session_id", "agent_id", "status", "started_at", "ingested_at"))


def test_events_and_usage_have_the_columns_of_the_specification(outside: sqlite3.Connection) -> None:
    assert list(columns(outside, "session_events")) == EVENTS
    ours = ["cache_read_tokens", "cache_write_tokens"]
    assert sorted(columns(outside, "session_usage")) == sorted(USAGE + ours)


def test_what_the_repositories_write_is_read_under_those_names(outside: sqlite3.Connection) -> None:
    rows = outside.execute("SELECT * FROM session_events WHERE session_id = 's1' ORDER BY seq").fetchall()
    assert rows[0] == ("s1:1", "s1", 1, "message", T, '{"text":"line 0"}')
    assert rows[1][0] == "s1:2"
    found = outside.execute("SELECT total_tokens, cost_confidence FROM session_usage WHERE session_id = 's1'")
    assert found.fetchall() == [(7, "unknown")]


@pytest.mark.parametrize("status", ["success", "failed", "killed", "cancelled", "running", "queued"])
def test_the_ledger_takes_every_status_of_the_specification(outside: sqlite3.Connection, status: str) -> None:
    insert(outside, "session_ledger", session(status=status))
    assert outside.execute("SELECT count(*) FROM session_ledger").fetchone() == (2,)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "done"},
        {"status": None},
        {"started_at": "yesterday"},
        {"started_at": "2026-11-20T12:00:00Z"},
        {"runtime_ms": -1},
        {"runtime_ms": "long"},
        {"artifact_count": -1},
        {"session_id": "s1"},
        {"session_id": ""},
        {"agent_id": None},
    ],
)
def test_the_ledger_refuses(outside: sqlite3.Connection, change: dict[str, Any]) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert(outside, "session_ledger", session(**change))


@pytest.mark.parametrize("change", ["agent_id = 'b'", "session_id = 'b'", f"started_at = '{T[:-2]}1Z'"])
def test_a_sessions_identity_never_changes(outside: sqlite3.Connection, change: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="never change"):
        outside.execute(f"UPDATE session_ledger SET {change}")  # noqa: S608 - this test's words


def test_a_run_id_is_set_once(outside: sqlite3.Connection) -> None:
    outside.execute("UPDATE session_ledger SET run_id = 'r1'")
    with pytest.raises(sqlite3.IntegrityError, match="never change"):
        outside.execute("UPDATE session_ledger SET run_id = 'r2'")


def test_an_event_goes_in_and_out_by_the_view(outside: sqlite3.Connection) -> None:
    insert(outside, "session_events", event(event_ts="2026-11-20T12:00:01.250Z", payload_json='{"a":1}'))
    found = outside.execute("SELECT * FROM session_events WHERE seq = 9").fetchone()
    assert found == ("e9", "s1", 9, "message", "2026-11-20T12:00:01.250Z", '{"a":1}')
    outside.execute("UPDATE session_events SET event_type = 'error' WHERE event_id = 'e9'")
    assert outside.execute("SELECT event_type FROM session_events WHERE seq = 9").fetchone() == ("error",)
    outside.execute("DELETE FROM session_events WHERE event_id = 'e9'")
    assert outside.execute("SELECT count(*) FROM session_events").fetchone() == (2,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"session_id": "nobody"}, "FOREIGN KEY"),
        ({"session_id": None}, "FOREIGN KEY"),
        ({"event_type": "shout"}, "CHECK"),
        ({"event_type": None}, "NOT NULL"),
        ({"seq": 1}, "UNIQUE"),
        ({"seq": 0}, "CHECK"),
        ({"seq": None}, "NOT NULL"),
        ({"event_ts": "later"}, "CHECK"),
        ({"event_ts": None}, "CHECK"),
        ({"payload_json": "{"}, "CHECK"),
    ],
)
def test_the_events_refuse(outside: sqlite3.Connection, change: dict[str, Any], says: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=says):
        insert(outside, "session_events", event(**change))


def test_an_event_id_is_unique(outside: sqlite3.Connection) -> None:
    insert(outside, "session_events", event())
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        insert(outside, "session_events", event(seq=10))


def test_an_orphan_is_refused_in_the_rows_below_the_views_as_well(outside: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        outside.execute("INSERT INTO session_event_rows VALUES (77, 1, 'message', 0, '{}', NULL)")


def test_removing_a_session_removes_what_hangs_on_it(outside: sqlite3.Connection) -> None:
    outside.execute("DELETE FROM session_ledger WHERE session_id = 's1'")
    for table in ("session_events", "session_usage", "session_event_rows", "session_usage_rows"):
        found = outside.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - this test's names
        assert found.fetchone() == (0,), table


@pytest.mark.parametrize(
    "change",
    [
        {
            "cost_confidence": "exact",
            "pricing_version": "provider_native",
            "cost_source": "provider_reported",
        },
        {"cost_confidence": "estimated", "pricing_version": "v1", "cost_source": "estimated_from_pricing"},
        {"token_source": "derived", "runtime_source": "provider_reported", "token_confidence": "high"},
        {"prompt_tokens": 0, "completion_tokens": 1, "total_tokens": 1, "runtime_ms": 5, "cost_usd": 0.5},
    ],
)
def test_usage_goes_in_and_out_by_the_view(outside: sqlite3.Connection, change: dict[str, Any]) -> None:
    insert(outside, "session_ledger", session(session_id="s2"))
    insert(outside, "session_usage", usage(**change))
    found = outside.execute(
        f"SELECT {', '.join(change)} FROM session_usage WHERE session_id = 's2'"  # noqa: S608 - this test's names
    ).fetchone()
    assert found == tuple(change.values())
    outside.execute("UPDATE session_usage SET provider = 'p' WHERE session_id = 's2'")
    outside.execute("DELETE FROM session_usage WHERE session_id = 's2' AND provider = 'p'")
    assert outside.execute("SELECT count(*) FROM session_usage").fetchone() == (1,)


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": "nobody"},
        {"session_id": "s1"},
        {"cost_confidence": "sure", "pricing_version": "v1"},
        {"cost_confidence": "exact"},
        {"cost_confidence": "estimated"},
        {"cost_source": "estimated_from_pricing"},
        {"cost_source": "derived"},
        {"token_source": "unknown"},
        {"runtime_source": "unknown"},
        {"token_confidence": "exact"},
        {"runtime_confidence": "exact"},
        {"cost_confidence_level": "exact"},
        {"prompt_tokens": -1},
        {"completion_tokens": -1},
        {"total_tokens": -1},
        {"runtime_ms": -1},
        {"cost_usd": -0.01},
        {"cost_usd": 9e999},
        {"pricing_version": ""},
        {"computed_at": None},
    ],
)
def test_the_usage_refuses(outside: sqlite3.Connection, change: dict[str, Any]) -> None:
    insert(outside, "session_ledger", session(session_id="s2"))
    with pytest.raises(sqlite3.IntegrityError):
        insert(outside, "session_usage", usage(**change))


def test_the_indexes_of_the_specification_exist(outside: sqlite3.Connection) -> None:
    def indexed(table: str) -> set[tuple[str, ...]]:
        names = [row[1] for row in outside.execute(f"PRAGMA index_list({table})")]
        listed = [outside.execute(f"PRAGMA index_info('{name}')").fetchall() for name in names]
        return {tuple(row[2] for row in index if row[2]) for index in listed}

    wanted = {("agent_id", "started_at"), ("status", "started_at"), ("model_id", "started_at"), ("ended_at",)}
    assert wanted <= {index[: len(one)] for one in wanted for index in indexed("session_ledger")}
    assert {("session_key", "seq"), ("session_key", "at_ms")} <= indexed("session_event_rows")
    assert {("pricing_version",), ("computed_at",)} <= indexed("session_usage_rows")


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("agent_id = 'a'", "session_ledger_by_agent"),
        ("status = 'failed'", "session_ledger_by_status"),
        ("model_id = 'm'", "session_ledger_by_model"),
        ("task_category = 'c'", "session_ledger_by_category"),
        ("1", "session_ledger_newest"),
    ],
)
def test_each_filter_uses_its_index_for_the_order_too(
    outside: sqlite3.Connection, condition: str, index: str
) -> None:
    sql = (
        f"EXPLAIN QUERY PLAN SELECT * FROM session_ledger WHERE {condition}"  # noqa: S608 - this test's words
        " ORDER BY started_at DESC LIMIT 50"
    )
    plan = " ".join(row[3] for row in outside.execute(sql))
    assert index in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM session_events WHERE session_id = 's1' ORDER BY seq",
        "SELECT * FROM session_usage WHERE session_id = 's1'",
    ],
)
def test_the_views_are_searched_by_key(outside: sqlite3.Connection, sql: str) -> None:
    plan = " ".join(row[3] for row in outside.execute(f"EXPLAIN QUERY PLAN {sql}"))
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


def test_a_session_has_one_row_of_full_text_after_any_number_of_changes(outside: sqlite3.Connection) -> None:
    for text in ("alpha", "beta", "gamma"):
        outside.execute(
            "UPDATE session_ledger SET task_title = ?, artifact_count = artifact_count + 1", (text,)
        )
        if text != "beta":  # two changes before a commit indexes them are as good as one
            for statement in INDEX_NOTED:
                outside.execute(statement)
    matches = {
        text: outside.execute("SELECT count(*) FROM session_search WHERE session_search MATCH ?", (text,))
        for text in ("alpha", "beta", "gamma", "s1")
    }
    assert {text: found.fetchone()[0] for text, found in matches.items()} == {
        "alpha": 0,
        "beta": 0,
        "gamma": 1,
        "s1": 1,
    }
    assert outside.execute("SELECT count(*) FROM session_search_docsize").fetchone() == (1,)
    for index in ("session_search", "session_end_search"):
        outside.execute(f"INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)")  # noqa: S608 - constants
    insert(outside, "session_ledger", session())
    outside.execute("DELETE FROM session_ledger")
    for table in ("session_search_docsize", "session_search_pending", "session_counts", "session_day_counts"):
        assert outside.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608 - constants
    outside.execute("INSERT INTO session_search (session_search, rank) VALUES ('integrity-check', 1)")


def test_the_audit_chain_only_grows(outside: sqlite3.Connection) -> None:
    outside.execute(
        "INSERT INTO audit_records VALUES (1, 'k', ?, 'a', 's', '{}', ?, ?)", (T, "0" * 64, "1" * 64)
    )
    for sql in ("DELETE FROM audit_records", "UPDATE audit_records SET actor = 'b'"):
        with pytest.raises(sqlite3.IntegrityError, match="audit_records"):
            outside.execute(sql)


def test_the_file_is_in_wal_mode_and_bears_our_mark(tmp_path: Path) -> None:
    migrated(tmp_path / "ambient.db").close()
    other = sqlite3.connect(tmp_path / "ambient.db")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert other.execute("PRAGMA application_id").fetchone() == (0x416D6264,)
    other.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.integers(0, 253402300799999))
def test_every_millisecond_of_an_event_reads_back(outside: sqlite3.Connection, ms: int) -> None:
    text = rfc3339_ms(from_ms(ms))
    outside.execute("DELETE FROM session_events")
    insert(outside, "session_events", event(event_ts=text))
    assert outside.execute("SELECT event_ts FROM session_events").fetchone() == (text,)
    assert outside.execute("SELECT at_ms FROM session_event_rows").fetchone() == (ms,)
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def test_json_functions_read_the_payload(outside: sqlite3.Connection) -> None:
    row = outside.execute("SELECT payload_json ->> '$.text', payload_json FROM session_events").fetchone()
    assert row[0] == json.loads(row[1])["text"]


def test_both_libraries_see_the_same_rows(outside: sqlite3.Connection, tmp_path: Path) -> None:
    ours = apsw.Connection(str(tmp_path / "ambient.db"))
    sql = "SELECT * FROM session_events ORDER BY seq"
    assert ours.execute(sql).fetchall() == outside.execute(sql).fetchall()
    ours.close()


AGGREGATE = [
    "bucket_date", "agent_id", "model_id", "task_category", "runs_total", "runtime_ms_total",
    "prompt_tokens_total", "completion_tokens_total", "total_tokens_total", "cost_usd_total", "updated_at",
]  # fmt: skip
MATRIX = [
    "window_start", "window_end", "agent_id", "task_category", "model_id", "runs_total", "success_count",
    "failure_count", "killed_count", "cancelled_count", "success_rate", "median_runtime_ms",
    "median_cost_usd", "sample_warning", "updated_at",
]  # fmt: skip
RULES = [
    "rule_id", "enabled", "metric", "scope_type", "scope_ref", "warn_threshold", "critical_threshold",
    "window", "comparison", "dedup_cooldown_sec", "created_at", "updated_at",
]  # fmt: skip
STATE = [
    "rule_id", "status", "last_value", "last_evaluated_at", "last_transition_at", "last_notified_at",
    "active_fingerprint", "lifecycle_state", "suppressed_until",
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("daily_usage_agg", AGGREGATE),
        ("model_perf_agg", MATRIX),
        ("alert_rules", RULES),
        ("alert_state", STATE),
    ],
)
def test_the_tables_of_the_intelligence_have_the_columns_of_the_specification(
    outside: sqlite3.Connection, table: str, names: list[str]
) -> None:
    found = {row[1] for row in outside.execute(f"PRAGMA table_xinfo({table})")}
    assert set(names) <= found


def test_a_key_part_that_is_global_is_never_doubled(outside: sqlite3.Connection) -> None:
    row = {"bucket_date": "2026-11-20", "agent_id": "", "model_id": "", "task_category": "", "updated_at": T}
    insert(outside, "daily_usage_agg", row)
    with pytest.raises(sqlite3.IntegrityError):
        insert(outside, "daily_usage_agg", row)
    with pytest.raises(sqlite3.IntegrityError):
        insert(outside, "daily_usage_agg", row | {"agent_id": None})


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "bogus"},
        {"scope_type": "planet", "scope_ref": "{}"},
        {"scope_ref": "{}"},
        {"scope_type": "agent", "scope_ref": "no json"},
        {"window": "3h"},
        {"comparison": "eq"},
        {"critical_threshold": 0.5},
        {"enabled": 2},
    ],
)
def test_impossible_alert_rules_are_refused_by_the_schema(
    outside: sqlite3.Connection, change: dict[str, Any]
) -> None:
    rule: dict[str, Any] = {
        "rule_id": "r",
        "metric": "failure_rate",
        "scope_type": "global",
        "warn_threshold": 1.0,
        "critical_threshold": 2.0,
        "window": "24h",
        "comparison": "gte",
        "created_at": T,
        "updated_at": T,
    }
    insert(outside, "alert_rules", rule | {"rule_id": "good"})
    with pytest.raises(sqlite3.IntegrityError):
        insert(outside, "alert_rules", rule | change)


@pytest.mark.parametrize(
    "change",
    [
        {"rule_id": "nobody"},
        {"status": "loud"},
        {"lifecycle_state": "snoozed"},
        {"lifecycle_state": "resolved"},
        {"status": "ok"},
        {"suppressed_until": "tomorrow"},
        {"told": "resolved"},
    ],
)
def test_impossible_states_of_an_alert_are_refused_by_the_schema(
    outside: sqlite3.Connection, change: dict[str, Any]
) -> None:
    rule = {"rule_id": "r", "metric": "failure_rate", "scope_type": "global", "window": "24h"}
    limits = {"warn_threshold": 0.1, "critical_threshold": 0.2, "comparison": "gte"}
    insert(outside, "alert_rules", rule | limits | {"created_at": T, "updated_at": T})
    state = {"rule_id": "r", "status": "warning", "lifecycle_state": "suppressed", "suppressed_until": T}
    insert(outside, "alert_state", state)
    outside.execute("DELETE FROM alert_state")
    insert(outside, "alert_state", state | {"lifecycle_state": "active", "suppressed_until": None})
    outside.execute("DELETE FROM alert_state")
    with pytest.raises(sqlite3.IntegrityError):
        insert(outside, "alert_state", state | change)


def test_an_estimated_cost_without_its_price_table_is_refused_also_through_the_view(
    outside: sqlite3.Connection,
) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        outside.execute(
            "UPDATE session_usage SET cost_usd = 1.0, cost_confidence = 'estimated', pricing_version = NULL"
        )


def test_alerts_and_usage_have_the_indexes_of_the_specification(outside: sqlite3.Connection) -> None:
    def indexed(table: str) -> set[str]:
        sql = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
        return {row[0].partition("(")[2].partition(")")[0] for row in outside.execute(sql, (table,))}

    assert {"status, last_transition_at DESC", "lifecycle_state, suppressed_until"} <= indexed("alert_state")
    assert {"pricing_version", "computed_at DESC"} <= indexed("session_usage_rows")
