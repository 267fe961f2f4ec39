"""Retention of a real node: a plan, that plan, and what is left, looked at with SQL."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.harness import REPOSITORY, Node

MakeNode = Callable[..., Node]
OLD, KEPT = 40, 30
TABLES = ("session_ledger", "session_events", "session_usage", "session_search_docsize")


def stamp(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def lines() -> list[str]:
    """Sessions of 91 days, of 89 days, and one of 200 days that still runs; all with text and an event."""
    found = []
    ages = [("old", 91.0, "success")] * OLD + [("kept", 89.0, "failed")] * KEPT + [("runs", 200.0, "running")]
    for number, (word, days, state) in enumerate(ages):
        session = {
            "id": f"{word}-{number:03}",
            "agent_id": "peter",
            "model_id": "m",
            "state": state,
            "started_at": stamp(days),
            "task_title": f"{word}word " + "x" * 400,
        }
        if state != "running":
            session["ended_at"] = session["started_at"]
        event = {"event_type": "message", "event_ts": session["started_at"], "payload": {"t": "y" * 60_000}}
        payload = {"session": session, "events": [event], "usage": {"total_tokens": 2, "cost_usd": 0.25}}
        found.append(json.dumps({"envelope_version": "v1", "source": "test", "payload": payload}))
    return found


def sql(node: Node, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{node.state}/ambient.db?mode=ro", uri=True)) as link:
        return link.execute(query).fetchall()


def counts(node: Node) -> list[int]:
    return [sql(node, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES]  # noqa: S608 - constants


def test_a_plan_is_shown_run_and_audited_and_what_is_young_or_running_stays(new_node: MakeNode) -> None:
    node = new_node()
    taken = node.ctl("ledger", "ingest", "-", input="\n".join(lines()))
    assert taken.returncode == 0, taken
    node.wait_for(lambda: counts(node)[3] == OLD + KEPT + 1)
    usage = node.get("/api/v3/analytics/usage").json
    pages = sql(node, "PRAGMA page_count")[0][0]

    shown = node.ctl("retention", "run", "--dry-run", "--json")
    plan = json.loads(shown.stdout)
    rows = {item["name"]: item["rows"] for item in plan["tables"]}
    assert (rows["session_ledger"], rows["session_events"], rows["session_usage"]) == (OLD, OLD, OLD)
    assert counts(node) == [OLD + KEPT + 1] * 4

    ran = node.ctl("retention", "run", "--plan", plan["planId"], "--json", timeout=60)
    assert ran.returncode == 0, ran
    assert {item["name"]: item["rows"] for item in json.loads(ran.stdout)["tables"]} == rows
    assert counts(node) == [KEPT + 1] * 4
    assert sql(node, "SELECT count(*) FROM session_ledger WHERE status = 'running'") == [(1,)]
    assert sql(node, "PRAGMA page_count")[0][0] < pages
    assert node.get("/api/v3/ledger?q=oldword").json["total"] == 0
    assert node.get("/api/v3/ledger?q=keptword").json["total"] == KEPT

    # the sums of the purged day are what they were, and the answers say why nothing leads there any more
    after = node.get("/api/v3/analytics/usage").json
    assert after["totals"] == usage["totals"]
    assert [point["runs"] for point in after["series"] if point["runs"]] == [OLD, KEPT]
    assert after["purgedBefore"]
    gone = node.get("/api/v3/ledger/old-000")
    assert gone.status == 404
    assert "purged" in gone.json["error"]["message"]
    kinds = [kind for (kind,) in sql(node, "SELECT kind FROM audit_records ORDER BY seq")]
    assert [kind for kind in kinds if kind.startswith("retention")]
    assert node.ctl("retention", "run", "--json").returncode == 0
    assert counts(node) == [KEPT + 1] * 4


def test_two_at_once_do_not_collide(new_node: MakeNode) -> None:
    node = new_node()
    assert node.ctl("ledger", "ingest", "-", input="\n".join(lines())).returncode == 0
    command = [sys.executable, "-c", "from ambientctl.main import main; main()", "retention", "run"]
    both = [
        subprocess.Popen(command, env=node.environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    codes = sorted(process.wait(60) for process in both)
    assert codes in ([0, 0], [0, 6])  # one after the other, or one refused while the other runs
    assert counts(node) == [KEPT + 1] * 4
    assert sql(node, "PRAGMA integrity_check") == [("ok",)]
