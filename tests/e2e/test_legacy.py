"""The earlier JSON store and new prices from outside: command, HTTP, files, SQL (R3.143 and following)."""

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node

pytestmark = pytest.mark.e2e

DATA = Path(__file__).resolve().parents[1] / "data" / "legacy"
PRICES = {
    "pricing": {
        "current": "2026-11",
        "versions": {
            "2026-11": {"models": {"provider/*": {"input": 10.0, "output": 20.0}}},
            "2026-12": {"models": {"provider/model-1": {"input": 1.0, "output": 2.0}}},
        },
    }
}
MANY = 4_000
TABLES = ("session_ledger", "session_event_rows", "session_usage_rows", "daily_usage_agg")


def sql(node: Node, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{node.state / 'ambient.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def counts(node: Node) -> dict[str, int]:
    return {table: sql(node, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}  # noqa: S608 - constants


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def totals(document: dict[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    names = ("read", "written", "skipped", "errors")
    return {item["name"]: tuple(item[name] for name in names) for item in document["items"]}


def test_the_store_is_imported_once_verified_and_left_as_it_was() -> None:
    with Node({"ledger": {"legacy_paths": [str(DATA / "store.json")]}}) as node:
        store = node.root / "v3-intelligence.json"
        shutil.copy(DATA / "store.json", store)
        before = sha(store)
        assert node.get("/api/v3/diagnostics/import-drift").json["drift"] is True
        assert node.ctl("ledger", "verify-import", str(store)).returncode == 1

        tried = node.ctl("ledger", "import", str(node.root), "--dry-run", "--json")
        assert tried.returncode == 0, tried.stderr
        assert counts(node)["session_ledger"] == 0
        report = node.root / "report.json"
        done = node.ctl("ledger", "import", str(node.root), "--report", str(report), "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        expected = {
            "session_ledger": (6, 6, 0, 0),
            "session_events": (7, 7, 0, 0),
            "session_usage": (5, 4, 1, 0),  # of the running session nothing was known
        }
        assert totals(document) == totals(json.loads(tried.stdout)) == expected
        assert totals(json.loads(report.read_text())) == expected
        assert document["files"][0]["sha256"] == before
        assert document["problems"] == []

        again = node.ctl("ledger", "import", str(store), "--json")
        assert again.returncode == 0
        assert {name: row[1] for name, row in totals(json.loads(again.stdout)).items()} == dict.fromkeys(
            expected, 0
        )
        assert counts(node)["session_ledger"] == 6

        good = node.ctl("ledger", "verify-import", str(store), "--json")
        assert good.returncode == 0, good.stdout
        found = json.loads(good.stdout)
        assert found["json"] == found["sqlite"]
        drift = node.get("/api/v3/diagnostics/import-drift").json
        assert drift["drift"] is False
        assert drift["compared"] == 6
        assert sha(store) == before
        assert sql(node, "SELECT sum(runs_total), sum(total_tokens_total) FROM daily_usage_agg") == [
            (5, 1600)
        ]


def test_broken_rows_are_listed_and_the_rest_is_imported() -> None:
    with Node() as node:
        report = node.root / "report.json"
        done = node.ctl("ledger", "import", str(DATA / "broken.json"), "--report", str(report))
        assert done.returncode == 1
        assert "ledger row 2 (legacy-2): session.status" in done.stderr
        assert "usage row 3: belongs to no session" in done.stderr
        document = json.loads(report.read_text())
        assert totals(document)["session_ledger"] == (9, 1, 0, 8)
        assert totals(document)["session_events"] == (3, 1, 0, 2)
        assert len(document["problems"]) == 10
        assert [row[0] for row in sql(node, "SELECT session_id FROM session_ledger")] == ["legacy-1"]


def test_rows_that_are_no_proper_json_cost_themselves_only() -> None:
    with Node() as node:
        odd = json.loads((DATA / "store.json").read_text())
        odd["ledger"][1]["taskText"] = "\ud800"
        odd["usage"][0]["costUsd"] = float("nan")
        odd["ledger"][3]["taskText"] = "x" * 1_500_000
        path = node.root / "odd.json"
        path.write_text(json.dumps(odd))
        done = node.ctl("ledger", "import", str(path), "--json", timeout=60)
        assert done.returncode == 1
        assert totals(json.loads(done.stdout))["session_ledger"] == (6, 3, 0, 3)
        assert {row[0] for row in sql(node, "SELECT session_id FROM session_ledger")} == {
            "legacy-3",
            "legacy-5",
            "legacy-6",
        }


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ledger": 5}', "nonsense"])
def test_a_file_that_is_no_store_is_refused_before_anything_is_sent(content: str) -> None:
    with Node() as node:
        path = node.root / "x.json"
        path.write_text(content)
        done = node.ctl("ledger", "import", str(DATA / "store.json"), str(path))
        assert done.returncode == 1
        assert "x.json" in done.stderr
        assert counts(node)["session_ledger"] == 0
        assert node.ctl("ledger", "import", str(node.root / "never")).returncode == 1


def large_store(path: Path) -> None:
    ledger, events, usage = [], [], []
    for number in range(MANY):
        name = f"old-{number}"
        at = f"2026-02-{1 + number % 28:02d}T10:{number % 60:02d}"
        facts = {"agentId": f"agent-{number % 7}", "agentLabel": "A", "modelId": "provider/model-1"}
        times = {"startedAt": f"{at}:00.000Z", "endedAt": f"{at}:30.000Z", "runtimeMs": 30_000}
        ledger.append({"sessionId": name, **facts, "status": "success", **times, "artifactCount": 0})
        cost = {"costUsd": 0.001, "costConfidence": "exact", "promptTokens": 5, "completionTokens": 5}
        usage.append({"sessionId": name, **cost, "totalTokens": 10, "runtimeMs": 30_000})
        for seq in (1, 2):
            body = {"eventType": "message", "eventTs": f"{at}:0{seq}.000Z", "payload": {"n": seq}}
            events.append({"eventId": f"{name}-{seq}", "sessionId": name, "seq": seq, **body})
    path.write_text(json.dumps({"ledger": ledger, "events": events, "usage": usage}))


def test_killed_in_mid_import_and_done_again_is_as_if_never_killed() -> None:
    with Node() as node:
        store = node.root / "large.json"
        large_store(store)
        before = sha(store)
        for _ in range(2):
            present = counts(node)["session_ledger"]
            command = [sys.executable, "-c", "from ambientctl.main import main; main()"]
            importer = subprocess.Popen(
                [*command, "ledger", "import", str(store)],
                env=node.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            node.wait_for(lambda present=present: counts(node)["session_ledger"] >= present + 400)  # type: ignore[misc]
            node.kill9()
            _, said = importer.communicate(timeout=60)
            assert importer.returncode in (3, 7), said
            kept = counts(node)["session_ledger"]
            assert 0 < kept < MANY
            assert counts(node)["session_event_rows"] == 2 * kept
            node.start()
        done = node.ctl("ledger", "import", str(store), "--json", timeout=120)
        assert done.returncode == 0, done.stderr
        read, written, skipped, _ = totals(json.loads(done.stdout))["session_ledger"]
        assert (read, written + skipped) == (MANY, MANY)
        assert skipped >= 800
        assert counts(node) == {
            "session_ledger": MANY,
            "session_event_rows": 2 * MANY,
            "session_usage_rows": MANY,
            "daily_usage_agg": 28,
        }
        sums = "sum(runs_total), round(sum(cost_usd_total), 6), sum(total_tokens_total)"
        assert sql(node, f"SELECT {sums} FROM daily_usage_agg") == [(MANY, MANY / 1000, 10 * MANY)]  # noqa: S608 - constants
        assert node.ctl("ledger", "verify-import", str(store), timeout=120).returncode == 0
        assert sha(store) == before


def test_without_a_daemon_nothing_is_imported() -> None:
    with Node() as node:
        node.stop()
        done = node.ctl("ledger", "import", str(DATA / "store.json"))
        assert done.returncode == 3


# --- prices


def test_new_prices_on_old_rows() -> None:
    with Node(PRICES) as node:
        assert node.ctl("ledger", "import", str(DATA / "store.json")).returncode == 0
        costs = (
            "SELECT session_id, round(cost_usd, 9), pricing_version FROM session_usage ORDER BY session_id"
        )
        imported = sql(node, costs)
        tried = json.loads(node.ctl("ledger", "recost", "--dry-run", "--json").stdout)
        assert (tried["version"], tried["changed"], tried["dryRun"]) == ("2026-11", 2, True)
        assert sql(node, costs) == imported

        done = node.ctl("ledger", "recost")
        assert done.returncode == 0, done.stderr
        assert "Changed 2 of 2 rows by table 2026-11" in done.stdout
        assert sql(node, costs) == [
            ("legacy-1", 0.0123, "provider_native"),
            ("legacy-2", 0.005, "2026-11"),
            ("legacy-4", 0.001, "2026-11"),
            ("legacy-5", None, None),
            ("legacy-6", 0.0, "provider_native"),
        ]
        again = json.loads(node.ctl("ledger", "recost", "--json").stdout)
        assert (again["changed"], again["unchanged"]) == (0, 2)
        other = json.loads(node.ctl("ledger", "recost", "--table", "2026-12", "--json").stdout)
        assert (other["changed"], other["costAfterUsd"]) == (2, 0.0006)
        missing = node.ctl("ledger", "recost", "--table", "2020")
        assert missing.returncode == 1
        assert "2026-11, 2026-12" in missing.stderr
        recorded = sql(node, "SELECT kind FROM audit_records WHERE kind LIKE 'ledger.%' ORDER BY seq")
        assert recorded == [("ledger.import",), ("ledger.recost",), ("ledger.recost",)]
        lines = node.log_events("[AUDIT]")
        told = [(line["action"], line.get("changed", line.get("written"))) for line in lines]
        recosts = [("recost", 2), ("recost", 2), ("recost", 0), ("recost", 2), ("recost", None)]
        assert told == [("ledger.import", 6), *recosts]


def test_an_agent_that_reports_tokens_but_no_cost_gets_an_estimate() -> None:
    line = json.dumps({"type": "usage", "prompt_tokens": 1000, "completion_tokens": 500})
    script = f"cat >/dev/null; echo '{line}'"
    agent = {"command": ["/bin/sh", "-c", script], "output": "jsonl", "model": "provider/model-1"}
    nameless = {"command": ["/bin/sh", "-c", script.replace("usage", 'usage", "model": "provider/x', 1)]}
    agents = {"known": agent, "named": {**nameless, "output": "jsonl"}, "text": {"command": ["/bin/true"]}}
    with Node({"agents": agents, **PRICES}) as node:
        for name in agents:
            assert node.ctl("spawn", name, "x").returncode == 0
        done = "SELECT count(*) FROM session_ledger WHERE status = 'success'"
        node.wait_for(lambda: sql(node, done)[0][0] == 3)
        query = (
            "SELECT agent_id, model_id, round(cost_usd, 6), cost_source, cost_confidence,"
            " cost_confidence_level, pricing_version"
            " FROM session_usage JOIN session_ledger USING (session_id) ORDER BY agent_id"
        )
        estimate = (0.02, "estimated_from_pricing", "estimated", "medium", "2026-11")
        assert sql(node, query) == [
            ("known", "provider/model-1", *estimate),
            ("named", "provider/x", *estimate),
            ("text", "unknown", None, "unknown", "unknown", "unknown", None),
        ]
