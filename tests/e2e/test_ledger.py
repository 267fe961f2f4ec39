"""The ledger of a real node from end to end: handed in, added up, alerted on, read, killed, read again."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ambientd.wire.routes import STATUS_STREAM
from tests.api.kit import fits
from tests.e2e.harness import Node
from tests.e2e.sessionkit import row, spawn, wait_status
from tests.store.kit import of_version

MakeNode = Callable[..., Node]
SHAPES = json.loads((Path(__file__).parents[1] / "data" / "v3_shapes.json").read_text())
MALFORMED = Path(__file__).parents[1] / "data" / "ingest" / "malformed.jsonl"
INGEST = "/api/v3/ingest/session"
READS = {
    "ledger": "GET /api/v3/ledger",
    "usage": "GET /api/v3/analytics/usage",
    "performance": "GET /api/v3/analytics/performance",
    "rules": "GET /api/v3/alerts/rules",
    "active": "GET /api/v3/alerts/active",
}
TOLD_SEC = 30.0


def stamp(ago: float) -> str:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def envelope(number: int, state: str = "success", **usage: Any) -> dict[str, Any]:
    session = {
        "id": f"whole-{number:04}",
        "agent_id": "peter",
        "model_id": f"m/{number % 2}",
        "task_title": f"task {number}",
        "state": state,
        "started_at": stamp(60 + number),
        "ended_at": stamp(30),
    }
    figures = {"prompt_tokens": 10, "completion_tokens": 5, "runtime_ms": 900, "cost_usd": 0.5} | usage
    artifact = {"seq": 2, "event_type": "artifact", "event_ts": stamp(31), "payload": {"name": "a.txt"}}
    message = {"seq": 1, "event_type": "message", "event_ts": stamp(40), "payload": {"text": "hi"}}
    payload = {"session": session, "events": [artifact, message], "usage": figures}
    return {"envelope_version": "v1", "source": "test", "payload": payload}


def take(node: Node, document: dict[str, Any], *, replay: bool = False) -> None:
    answer = node.post(INGEST, document)
    assert answer.status == 200, answer
    assert answer.json["idempotent_replay"] is replay


def answers(node: Node) -> dict[str, Any]:
    """All that can be read, without the moments at which it was computed or looked at."""
    found = {}
    for name, route in READS.items():
        answer = node.get(route.removeprefix("GET "))
        assert answer.status == 200, answer
        found[name] = timeless(answer.json)
    return found


def timeless(value: Any) -> Any:
    passing = {"computedAt", "lastEvaluatedAt", "deduped", "lifecycle", "suppressedUntil"}
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in passing}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def rows(node: Node, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{node.state}/ambient.db?mode=ro", uri=True)) as link:
        return link.execute(query).fetchall()


def test_one_session_is_seen_everywhere_told_once_and_still_there_after_a_kill(new_node: MakeNode) -> None:
    node = new_node()
    rule = {"metric": "daily_cost_usd", "scopeType": "agent", "scopeRef": {"agentId": "peter"}}
    limits = {"warnThreshold": 1, "criticalThreshold": 50, "window": "24h", "comparison": "gte"}
    assert node.post("/api/v3/alerts/rules", rule | limits).status == 201
    assert node.get("/api/v3/alerts/active").json["rows"] == []
    documents = [envelope(number, "failed" if number == 3 else "success") for number in range(6)]
    for document in documents:
        take(node, document)
    (alert,) = node.wait_for(lambda: node.get("/api/v3/alerts/active").json["rows"], TOLD_SEC)
    assert alert["status"] == "warning"
    node.wait_for(lambda: node.get("/api/v3/alerts/active").json["rows"][0]["value"] == 3.0, TOLD_SEC)

    # every answer has the recorded shape, and they agree
    for route in READS.values():
        assert fits(node.get(route.removeprefix("GET ")).json, SHAPES[route]) == [], route
    detail = node.get("/api/v3/ledger/whole-0003").json
    assert fits(detail, SHAPES["GET /api/v3/ledger/{id}"]) == []
    assert [event["seq"] for event in detail["events"]] == [1, 2]
    assert detail["artifacts"] == [{"name": "a.txt", "bytes": 0}]
    before = answers(node)
    assert before["ledger"]["total"] == 6
    assert before["usage"]["totals"]["runs"] == 6
    assert before["usage"]["totals"]["tokens"] == 90
    assert before["usage"]["totals"]["costUsd"] == 3.0
    assert {row["modelId"]: row["failureCount"] for row in before["performance"]["rows"]} == {
        "m/0": 0,
        "m/1": 1,
    }

    # a replay is no new row, no transition, no notification
    told = rows(node, "SELECT last_transition_at, last_notified_at, told FROM alert_state")
    for document in documents:
        take(node, document, replay=True)
    assert answers(node) == before
    assert rows(node, "SELECT last_transition_at, last_notified_at, told FROM alert_state") == told
    assert len(node.log_events("alert.active")) == 1

    # and a kill forgets nothing
    node.kill9()
    node.start()
    assert answers(node) == before
    for document in documents:
        take(node, document, replay=True)
    changed = documents[0]["payload"]["session"] | {"agent_id": "tony"}
    documents[0]["payload"]["session"] = changed
    assert node.post(INGEST, documents[0]).status == 409
    assert answers(node) == before
    assert rows(node, "SELECT last_transition_at, last_notified_at, told FROM alert_state") == told


def test_a_refusal_bears_one_id_in_its_body_its_header_and_the_log(new_node: MakeNode) -> None:
    node = new_node({"log": {"level": "debug"}})
    refusals = [
        node.post(INGEST, body) for body in (b"{", envelope(1, "exploded"), {"envelope_version": "v9"})
    ]
    assert [answer.status for answer in refusals] == [400, 400, 422]
    ids = [answer.json["error"]["requestId"] for answer in refusals]
    assert len(set(ids)) == 3
    assert [answer.headers["x-request-id"] for answer in refusals] == ids
    logged = {event["request"]: event["code"] for event in node.log_events("http.refused")}
    assert {name: logged[name] for name in ids} == {
        answer.json["error"]["requestId"]: answer.json["error"]["code"] for answer in refusals
    }


def test_two_processes_of_other_seeds_and_locales_refuse_in_the_same_bytes(new_node: MakeNode) -> None:
    nodes = [
        new_node(environment={"PYTHONHASHSEED": seed, "LC_ALL": locale})
        for seed, locale in (("1", "C"), ("2", "C.UTF-8"))
    ]
    for line in MALFORMED.read_text().splitlines():
        case = json.loads(line)
        body: Any = case["raw"].encode() if "raw" in case else case["body"]
        seen = set()
        for node in nodes:
            answer = node.post(INGEST, body or b" ")
            error = answer.json["error"]
            seen.add((answer.status, json.dumps(error | {"requestId": ""})))
        assert len(seen) == 1, case["name"]


def test_a_write_lock_of_three_seconds_makes_an_ingest_late_and_nothing_else(new_node: MakeNode) -> None:
    node = new_node()
    with closing(sqlite3.connect(node.state / "ambient.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found: list[Any] = []
        ingest = threading.Thread(target=lambda: found.append(node.post(INGEST, envelope(1))))
        began = time.monotonic()
        ingest.start()
        try:
            ingest.join(3.0)
            assert found == []
        finally:
            other.execute("ROLLBACK")
        ingest.join(20)
    assert [answer.status for answer in found] == [200]
    assert time.monotonic() - began < 10
    assert rows(node, "SELECT status FROM session_ledger") == [("success",)]


def test_under_a_hundred_ingests_a_second_sessions_are_listed_at_once_and_added_up_with_them(
    new_node: MakeNode,
) -> None:
    node = new_node()
    began = time.monotonic()
    for number in range(200):
        time.sleep(max(0.0, began + number / 100 - time.monotonic()))
        take(node, envelope(number))
        if number % 40 == 39:  # what was acknowledged is there: no wait, no sweep
            assert node.get(f"/api/v3/ledger/whole-{number:04}").status == 200
            assert node.get("/api/v3/analytics/usage").json["totals"]["runs"] == number + 1
            matrix = node.get("/api/v3/analytics/performance").json["rows"]
            assert sum(row["runsTotal"] for row in matrix) == number + 1


# --- where the database is, and what becomes of one that cannot be brought up to date


def test_the_environment_says_where_the_database_is(new_node: MakeNode, tmp_path: Path) -> None:
    elsewhere = tmp_path / "data" / "ledger.sqlite"
    elsewhere.parent.mkdir()
    node = new_node(environment={"HELICARRIER_DB_PATH": str(elsewhere)})
    take(node, envelope(1))
    assert not (node.state / "ambient.db").exists()
    with closing(sqlite3.connect(f"file:{elsewhere}?mode=ro", uri=True)) as link:
        assert link.execute("SELECT count(*) FROM session_ledger").fetchone() == (1,)


def test_a_database_path_that_cannot_be_written_fails_closed(new_node: MakeNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    place = tmp_path / "file" / "ambient.db"
    node = new_node(environment={"HELICARRIER_DB_PATH": str(place)}, ready=False)
    node.wait_for(lambda: node.log_events("node.not_ready"), 30)
    refused = node.post(INGEST, envelope(1))
    assert (refused.status, refused.json["error"]["code"]) == (503, "NOT_READY")
    assert node.get("/livez").status == 200
    assert (tmp_path / "file").read_text() == "not a folder"


def test_two_daemons_never_share_a_database_and_each_migration_is_applied_once(
    new_node: MakeNode, tmp_path: Path
) -> None:
    """Each would take the other's sessions for lost: they look for the agents below their own state."""
    config = {"agents": {"stays": {"command": ["/bin/sleep", "1000"]}}}
    place = {"HELICARRIER_DB_PATH": str(tmp_path / "shared.db")}
    both = [new_node(config, environment=place, ready=False) for _ in range(2)]
    until = time.monotonic() + 30
    while not (any(node.is_ready() for node in both) and not all(node.is_alive() for node in both)):
        assert time.monotonic() < until
        time.sleep(0.05)
    first, second = sorted(both, key=lambda node: not node.is_alive())
    assert second.wait_ended() == 75
    assert f"shared.db is in use by process {first.pid}" in second.log
    assert second.ambientd("migrate").returncode == 75
    with closing(sqlite3.connect(f"file:{tmp_path}/shared.db?mode=ro", uri=True)) as link:
        versions = [row[0] for row in link.execute("SELECT version FROM schema_migrations ORDER BY version")]
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) >= 4
    session = spawn(first, "stays")
    wait_status(first, session, "running")
    second.start(ready=False)
    assert second.wait_ended() == 75
    assert row(first, session)["status"] == "running"
    first.kill9()  # whoever is next may have it
    second.start()
    assert second.get("/api/v3/ledger").json["total"] == 1


def every_route(node: Node) -> list[tuple[str, str]]:
    """Method and path of all routes of the API, as the node itself describes them."""
    paths = node.get("/openapi.json").json["paths"]
    found = [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in paths.items()
        for method in methods
        if path.startswith("/api/")
    ]
    assert len(found) > 20
    return found


def test_every_refusal_of_every_route_has_the_one_shape(new_node: MakeNode) -> None:
    node = new_node()
    seen = set()
    for method, path in every_route(node):
        for body, kind, query in (
            (b"{", "application/json", ""),
            (b'"\xff"', "application/json", ""),
            (b"[1]", "application/json", ""),
            (b'{"nope": 1}', "application/json", ""),
            (b"x=1", "application/x-www-form-urlencoded", ""),
            (None, None, "?nope=1&limit=abc&from=yesterday"),
            (None, None, ""),
        ):
            asked = "PUT" if body is None and method != "GET" else method
            if path == STATUS_STREAM and asked == "GET" and not query:
                continue  # never refused, and without an end
            headers = {} if kind is None else {"Content-Type": kind}
            answer = node.request(asked, path + query, body, headers=headers)
            if answer.status < 400:
                continue
            seen.add(answer.status)
            assert answer.status < 500, (method, path, body, answer)
            error = answer.json["error"]
            assert set(error) == {"code", "message", "details", "requestId"}, (method, path, answer)
            for detail in error["details"]:
                assert (
                    {"field", "issue", "message"} <= set(detail) <= {"field", "issue", "message", "expected"}
                )
            fields = [detail["field"] for detail in error["details"]]
            assert fields == sorted(fields), (method, path, answer)
    assert {400, 404, 405, 415} <= seen
    assert node.get("/api/v3/ledger").json["total"] == 0
    assert node.log_events("http.fault") == []


def test_a_migration_that_fails_closes_every_route_until_it_can_be_made(new_node: MakeNode) -> None:
    node = new_node()
    take(node, envelope(1))
    routes = every_route(node)
    node.stop()
    database = node.state / "ambient.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as link:
        done = link.execute("SELECT * FROM schema_migrations WHERE version >= 4 ORDER BY version").fetchall()
        # The column that the fourth would add is there already: it fails half-way.
        link.execute("DELETE FROM schema_migrations WHERE version >= 4")
        before = link.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    node.start(ready=False)
    node.wait_for(lambda: node.log_events("node.not_ready"), 30)
    for method, path in routes:
        answer = node.request(method, path, b"{}", headers={"Content-Type": "application/json"})
        assert (answer.status, answer.json["error"]["code"]) == (503, "NOT_READY"), (method, path)
        assert "0004_alert_reminders" in answer.json["error"]["message"]
    told = node.ctl("status")
    assert told.returncode != 0
    assert "0004_alert_reminders" in told.stdout + told.stderr
    assert node.is_alive()
    node.stop()
    with closing(sqlite3.connect(database, isolation_level=None)) as link:
        assert link.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
        marks = ", ".join("?" * len(done[0]))
        link.executemany(f"INSERT INTO schema_migrations VALUES ({marks})", done)  # noqa: S608 - marks
    node.start()
    assert node.get("/api/v3/ledger").json["total"] == 1


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_database_is_closed_while_it_is_brought_up_to_date_and_then_whole(
    new_node: MakeNode, version: int
) -> None:
    node = new_node()
    node.stop()
    database = node.state / "ambient.db"
    for path in node.state.glob("ambient.db*"):
        path.unlink()
    of_version(database, version)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        node.start(ready=False)
        node.wait_for(lambda: node.socket.exists() and node.get("/livez").status == 200, 30)
        assert node.get("/readyz").status == 503
        assert node.get("/api/v3/ledger").json["error"]["code"] == "NOT_READY"
        other.execute("ROLLBACK")
    node.wait_for(node.is_ready, 30)
    listed = node.get("/api/v3/ledger").json
    assert [row["sessionId"] for row in listed["rows"]] == ["old-2", "old-1"]
    assert node.get("/api/v3/ledger?q=gate").json["total"] == 1
    usage = node.get("/api/v3/analytics/usage").json["totals"]
    assert (usage["runs"], usage["tokens"], usage["costUsd"]) == (2, 10, 0.25)
    assert [event["seq"] for event in node.get("/api/v3/ledger/old-1").json["events"]] == [1, 2]
