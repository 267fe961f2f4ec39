import json
from typing import Any

import msgspec
import pytest

from ambientd.wire import messages as m
from ambientd.wire import routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

PLAN = "6f1c2a0b9d3e"
DAY = 86_400
WOULD = (
    "Would delete 1 245 195 rows and files, free about 231.0 MiB; the ledger has 402.0 MiB. Nothing changed."
)
MIB = 1024 * 1024


def answer(**more: Any) -> Reply:
    """What the daemon says of a plan or of a run."""
    rows = [
        m.RetentionRow("session_events", 90, 90 * DAY, "2026-08-22T12:00:00.000Z", 1_204_118, 212 * MIB),
        m.RetentionRow("session_ledger", 90, 90 * DAY, "2026-08-22T12:00:00.000Z", 41_077, 19 * MIB),
        m.RetentionRow("daily_usage_agg", 365, 365 * DAY, "2025-11-20T12:00:00.000Z", 0, 0),
    ]
    facts: dict[str, Any] = {
        "schema": routes.SCHEMA_RETENTION,
        "dry_run": False,
        "plan_id": PLAN,
        "started_at": "2026-11-20T12:00:00.000Z",
        "used_bytes": 402 * MIB,
        "tables": rows,
    }
    return Reply(200, msgspec.json.encode(m.RetentionAnswer(**(facts | more))))


def sent(daemon: FakeDaemon) -> list[Any]:
    return [json.loads(seen.body) for seen in daemon.seen if seen.body]


def test_a_dry_run_draws_what_would_go_and_names_the_plan(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.RETENTION] = answer(dry_run=True)
    found = ctl("retention", "run", "--dry-run")
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines() == [
        "TABLE            KEEP  OLDER THAN       ROWS      FREES",
        "session_events    90d  2026-08-22  1 204 118  212.0 MiB",
        "session_ledger    90d  2026-08-22     41 077   19.0 MiB",
        "daily_usage_agg  365d  2025-11-20          0          -",
        WOULD,
        f"Plan {PLAN}.  Run this plan: ambientctl retention run --plan {PLAN}",
    ]
    assert sent(daemon) == [{"dryRun": True}]


def test_json_is_the_document(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.RETENTION] = answer(dry_run=True)
    document = json.loads(ctl("retention", "run", "--dry-run", "--json").out)
    assert document["schema"] == "ambient.retention/1"
    assert (document["dryRun"], document["planId"]) == (True, PLAN)
    assert set(document["tables"][0]) == {"name", "keepDays", "keepSec", "before", "rows", "bytes"}


def test_a_named_plan_is_sent_and_told_of_when_it_has_ended(ctl: Ctl, daemon: FakeDaemon) -> None:
    running, ended = answer(running=True), answer(ended_at="2026-11-20T12:05:00.000Z", freed_bytes=100 * MIB)
    daemon.script[routes.RETENTION] = [running, running, ended]
    found = ctl("retention", "run", "--plan", PLAN)
    assert found.code == 0
    assert "Deleted 1 245 195 rows and files" in found.out
    assert "its file is 100.0 MiB smaller" in found.out
    assert sent(daemon) == [{"dryRun": False, "planId": PLAN}]
    assert len(daemon.seen) == 3


def test_a_run_that_stopped_early_is_a_failure(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.RETENTION] = answer(error="StoreFullError: the disk is full")
    found = ctl("retention", "run")
    assert found.code == 1
    assert "stopped early: StoreFullError: the disk is full" in found.err


@pytest.mark.parametrize("code", ["PLAN_UNKNOWN", "RETENTION_RUNS"])
def test_a_refusal_in_this_state_is_exit_6(ctl: Ctl, daemon: FakeDaemon, code: str) -> None:
    daemon.script[routes.RETENTION] = refused(code, "not now")
    found = ctl("retention", "run", "--plan", PLAN)
    assert (found.code, found.out) == (6, "")
    assert "not now" in found.err


def test_a_plan_is_made_or_run_not_both(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("retention", "run", "--dry-run", "--plan", PLAN).code == 2
    assert daemon.seen == []
