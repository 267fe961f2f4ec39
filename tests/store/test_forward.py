"""Databases of every earlier schema version, brought up to date: nothing is lost, nothing is left over."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ambientd.store.migrate import default_folder, known_migrations, migrate, picture
from ambientd.store.recover import open_database
from tests.store.kit import StillClock, migrated, of_version

KNOWN = known_migrations(default_folder())
READS = (
    """SELECT session_id, agent_id, agent_label, model_id, task_title, status, started_at, ended_at,
        runtime_ms, artifact_count, ingested_at FROM session_ledger ORDER BY 1""",
    "SELECT event_id, session_id, seq, event_type, event_ts, payload_json FROM session_events ORDER BY 1",
    """SELECT session_id, prompt_tokens, completion_tokens, total_tokens, runtime_ms, cost_usd,
        cost_confidence, pricing_version, cost_source, token_source, computed_at
        FROM session_usage ORDER BY 1""",
    "SELECT rowid FROM session_search WHERE session_search MATCH 'gate'",
    "SELECT * FROM audit_records",
)


def look(path: Path) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as link:
        return [link.execute(query).fetchall() for query in READS]


@pytest.mark.parametrize("version", range(1, len(KNOWN)))
def test_a_database_of_an_earlier_version_keeps_every_row_and_gets_the_whole_schema(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "ambient.db"
    of_version(path, version)
    before = look(path)
    assert [len(rows) for rows in before] == [2, 2, 1, 1, 1]
    connection = open_database(path, clock=StillClock(), busy_timeout=1, newest=len(KNOWN))
    done = migrate(connection, KNOWN, StillClock())
    assert [step.version for step in done] == list(range(version + 1, len(KNOWN) + 1))
    assert look(path) == before
    fresh = migrated(tmp_path / "fresh.db")
    assert picture(connection) == picture(fresh)
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    for link in (connection, fresh):
        link.close()
