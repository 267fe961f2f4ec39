"""The alerts' routes from outside, over a real database and on virtual time."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ambientd.api.alerts import Alerts, alert_routes
from ambientd.api.ingest import ingest_routes
from ambientd.api.openapi import openapi_document
from ambientd.api.router import Route, build_application
from ambientd.core.contracts.rejections import Rejections
from ambientd.core.target import Target, parse_target
from ambientd.flows.ingest import IngestFlow
from ambientd.ports.http import Caller, Request, Response
from ambientd.ports.notifier import Undelivered
from ambientd.services.alerts import AlertsService
from ambientd.wire.routes import INGEST
from tests.api.kit import OPERATOR, READER, fits
from tests.fakes.alerts import AlertRig, ListNotifier, alerting
from tests.fakes.http_log import ListHttpLog
from tests.fakes.log import ListLog

Clock = trio.testing.MockClock
RULES = "/api/v3/alerts/rules"
ACTIVE = "/api/v3/alerts/active"
BODY: dict[str, Any] = {
    "metric": "failure_rate",
    "scopeType": "global",
    "warnThreshold": 0.25,
    "criticalThreshold": 0.5,
    "window": "1h",
    "comparison": "gte",
}
SHAPES = json.loads((Path(__file__).parents[1] / "data" / "v3_shapes.json").read_text())
RULE_SHAPE = SHAPES["GET /api/v3/alerts/rules"]["rows"][0]
ACTIVE_SHAPE = SHAPES["GET /api/v3/alerts/active"]


class Api:
    """Asks the routes."""

    def __init__(self, rig: AlertRig) -> None:
        self.rig = rig
        self.ops = ListNotifier()
        self.audited: list[dict[str, Any]] = []
        self.service = AlertsService(
            alerting=rig.alerting,
            notifiers={"ops": self.ops},
            bell=rig.bell,
            sweep_interval=300.0,
            log=ListLog(),
        )
        self.routes: tuple[Route, ...] = alert_routes(
            Alerts(
                alerting=rig.alerting,
                trials=self.service,
                audited=lambda **facts: self.audited.append(facts),
            )
        )
        ingest = IngestFlow(
            store=rig.store,
            clock=rig.clock,
            prices=lambda: None,
            rejections=Rejections(),
            changed=lambda _session_id: None,
            ended=self.service.ended,
        )
        self._application = build_application(
            (*self.routes, *ingest_routes(ingest)),
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="ambient-admin",
        )

    async def ask(
        self, method: str, target: str, body: Any = None, *, caller: Caller = OPERATOR
    ) -> tuple[int, Any]:
        found = parse_target(target.encode())
        assert isinstance(found, Target), found
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        answer: Response = await self._application(
            Request(
                method=method,
                path=found.path,
                query=found.query,
                headers={"content-type": "application/json"} if raw else {},
                body=raw,
                caller=caller,
                request_id="req-1",
            )
        )
        return answer.status, json.loads(answer.body)

    async def add(self, **fields: Any) -> str:
        status, answer = await self.ask("POST", RULES, BODY | fields)
        assert status == 201, answer
        return str(answer["ruleId"])


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Api]:
    async with alerting(tmp_path) as rig:
        yield Api(rig)


def details(answer: Any) -> list[str]:
    return [f"{item['field']}: {item['issue']}" for item in answer["error"]["details"]]


async def test_the_life_of_a_rule(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        status, rule = await api.ask("POST", RULES, BODY)
        assert (status, fits(rule, RULE_SHAPE)) == (201, [])
        assert (rule["dedupCooldownSec"], rule["enabled"]) == (300, True)
        one = f"{RULES}/{rule['ruleId']}"
        assert await api.ask("GET", one) == (200, rule)
        assert await api.ask("GET", RULES) == (200, {"rows": [rule]})
        status, changed = await api.ask("PATCH", one, {"warnThreshold": 0.3, "enabled": False})
        assert (status, changed["warnThreshold"], changed["enabled"]) == (200, 0.3, False)
        assert fits(changed, RULE_SHAPE) == []
        status, gone = await api.ask("DELETE", one)
        assert (status, gone["ruleId"]) == (200, rule["ruleId"])
        assert await api.ask("GET", RULES) == (200, {"rows": []})
        assert [facts["action"] for facts in api.audited] == [
            "alerts.rule.add",
            "alerts.rule.change",
            "alerts.rule.remove",
        ]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"metric": "nonsense"}, ["metric: enum"]),
        ({"window": "1 day", "comparison": "ge"}, ["comparison: enum", "window: enum"]),
        (
            {"warnThreshold": "hot", "criticalThreshold": None},
            ["criticalThreshold: type", "warnThreshold: type"],
        ),
        ({"scopeType": "team"}, ["scopeType: enum"]),
        ({"scopeRef": {"agent": "a"}}, ["scopeRef.agent: unknown"]),
        ({"dedupCooldownSec": 1.5}, ["dedupCooldownSec: type"]),
        ({"enabled": "yes"}, ["enabled: type"]),
        ({"renotifySec": 59, "dedupCooldownSec": 0}, ["renotifySec: range"]),
        ({"renotifySec": 200}, ["renotifySec: order"]),
        ({"renotifySec": "often"}, ["renotifySec: type"]),
        ({"color": "red"}, ["color: unknown"]),
        ({"criticalThreshold": 0.1}, ["criticalThreshold: order"]),
        ({"metric": "gateway_away_sec"}, ["metric: not_measured"]),
        (
            {"scopeType": "agent_model", "scopeRef": {"agentId": ""}, "holdSec": -1},
            ["holdSec: range", "scopeRef.agentId: bad_text", "scopeRef.modelId: required"],
        ),
    ],
)
async def test_every_problem_of_a_rule_is_named_and_nothing_is_kept(
    autojump_clock: Clock, tmp_path: Path, change: dict[str, Any], found: list[str]
) -> None:
    async with serving(tmp_path) as api:
        answers = [await api.ask("POST", RULES, BODY | change) for _ in range(3)]
        assert [status for status, _ in answers] == [400] * 3
        assert answers[0][1]["error"]["code"] == "VALIDATION_ERROR"
        assert sorted(details(answers[0][1])) == found
        assert answers[1:] == answers[:2]
        assert await api.ask("GET", RULES) == (200, {"rows": []})


@pytest.mark.parametrize("field", list(BODY))
async def test_an_incomplete_rule_is_refused(autojump_clock: Clock, tmp_path: Path, field: str) -> None:
    async with serving(tmp_path) as api:
        status, answer = await api.ask("POST", RULES, {k: v for k, v in BODY.items() if k != field})
        assert (status, details(answer)) == (400, [f"{field}: required"])


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"{", ["body: syntax"]),
        (b"[]", ["body: type"]),
        ({"warnThreshold": "hot"}, ["warnThreshold: type"]),
        ({"warnThreshold": None}, ["warnThreshold: type"]),
        ({"metric": "nonsense"}, ["metric: enum"]),
        ({"window": 5}, ["window: enum"]),
        ({"scopeType": "agent"}, ["scopeRef.agentId: required"]),
        ({"criticalThreshold": 0.1}, ["criticalThreshold: order"]),
        ({"criticalThreshold": 1e400}, None),
        ({"ruleId": "other"}, ["ruleId: unknown"]),
    ],
)
async def test_a_bad_patch_changes_nothing(
    autojump_clock: Clock, tmp_path: Path, body: Any, found: list[str] | None
) -> None:
    async with serving(tmp_path) as api:
        one = f"{RULES}/{await api.add()}"
        before = await api.ask("GET", one)
        if found is None:
            body, found = b'{"criticalThreshold": 1e400}', ["body: range"]
        status, answer = await api.ask("PATCH", one, body)
        assert (status, details(answer)) == (400, found)
        assert await api.ask("GET", one) == before


@pytest.mark.parametrize("body", [b'{"warnThreshold":', b" ", b"[]", b'"x"', b"\xff"])
async def test_what_is_no_document_is_refused_in_the_one_shape(
    autojump_clock: Clock, tmp_path: Path, body: bytes
) -> None:
    async with serving(tmp_path) as api:
        one = f"{RULES}/{await api.add()}"
        for method, path in (("POST", RULES), ("PATCH", one)):
            status, answer = await api.ask(method, path, body)
            assert (status, answer["error"]["code"]) == (400, "VALIDATION_ERROR"), (method, answer)
            assert set(answer["error"]) == {"code", "message", "details", "requestId"}


async def test_what_is_unknown_is_404(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        for method, path, body in (
            ("GET", f"{RULES}/nope", None),
            ("PATCH", f"{RULES}/nope", {"enabled": False}),
            ("DELETE", f"{RULES}/nope", None),
            ("POST", "/api/v3/alerts/nope/ack", {}),
            ("POST", "/api/v3/alerts/nope/mute", {"forSec": 60}),
            ("POST", "/api/v1/node/alerts/test-notifier", {"name": "nope"}),
        ):
            status, answer = await api.ask(method, path, body)
            assert (status, answer["error"]["code"]) == (404, "NOT_FOUND"), path


async def test_readers_may_look_and_not_touch(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        rule_id = await api.add()
        for path in (ACTIVE, RULES, f"{RULES}/{rule_id}"):
            assert (await api.ask("GET", path, caller=READER))[0] == 200
        for method, path, body in (
            ("POST", RULES, BODY),
            ("PATCH", f"{RULES}/{rule_id}", {"enabled": False}),
            ("DELETE", f"{RULES}/{rule_id}", None),
            ("POST", f"/api/v3/alerts/{rule_id}/ack", {}),
            ("POST", f"/api/v3/alerts/{rule_id}/mute", {"forSec": 60}),
            ("POST", "/api/v1/node/alerts/test-notifier", {"name": "ops"}),
        ):
            status, answer = await api.ask(method, path, body, caller=READER)
            assert (status, answer["error"]["code"]) == (403, "NOT_AUTHORIZED"), path


async def test_active_alerts_have_the_recorded_shape(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        assert await api.ask("GET", ACTIVE) == (200, {"rows": []})
        await api.add()
        await api.add(scopeType="agent", scopeRef={"agentId": "tony"}, warnThreshold=1, criticalThreshold=1)
        await api.rig.end("failed")
        await api.rig.end("success", agent="steve", count=2)
        await api.rig.sweep()
        status, page = await api.ask("GET", ACTIVE)
        assert (status, fits(page, ACTIVE_SHAPE)) == (200, [])
        worst, other = page["rows"]
        assert (worst["status"], worst["scope"], worst["value"]) == ("critical", {"agentId": "tony"}, 1.0)
        assert (other["status"], other["scope"]) == ("warning", {"type": "global"})
        assert worst["triggeredAt"] == "2026-11-20T12:00:00.000Z"
        assert worst["deduped"] is False
        await trio.sleep(60)
        await api.rig.sweep()
        assert [row["deduped"] for row in (await api.ask("GET", ACTIVE))[1]["rows"]] == [True, True]


async def test_resolved_is_shown_for_one_evaluation(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        await api.add()
        await api.rig.end("failed")
        await api.rig.sweep()
        await api.rig.end("success", count=9)
        await api.rig.sweep()
        (row,) = (await api.ask("GET", ACTIVE))[1]["rows"]
        assert (row["status"], row["lifecycle"], row["value"]) == ("resolved", "resolved", 0.1)
        await api.rig.sweep()
        assert (await api.ask("GET", ACTIVE))[1]["rows"] == []


async def test_ack_and_mute(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        rule_id = await api.add()
        status, answer = await api.ask("POST", f"/api/v3/alerts/{rule_id}/ack", {})
        assert (status, answer["error"]["code"]) == (409, "ALERT_NOT_ACTIVE")
        await api.rig.end("failed")
        await api.rig.sweep()
        status, rule = await api.ask("POST", f"/api/v3/alerts/{rule_id[:8]}/ack", {})
        assert (status, rule["state"]["acknowledgedBy"]) == (200, "uid:1000")
        status, rule = await api.ask("POST", f"/api/v3/alerts/{rule_id}/mute", {"forSec": 3600})
        assert (status, rule["state"]["mutedUntil"]) == (200, "2026-11-20T13:00:00.000Z")
        assert rule["state"]["lifecycle"] == "suppressed"
        (row,) = (await api.ask("GET", ACTIVE))[1]["rows"]
        assert row["suppressedUntil"] == row["mutedUntil"] == "2026-11-20T13:00:00.000Z"
        assert row["acknowledgedBy"] == "uid:1000"
        for body in ({}, {"forSec": -1}, {"until": "soon"}, {"forSec": 1, "until": "2026-11-20T13:00:00Z"}):
            assert (await api.ask("POST", f"/api/v3/alerts/{rule_id}/mute", body))[0] == 400


async def test_a_notifier_can_be_tried_out(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        path = "/api/v1/node/alerts/test-notifier"
        assert await api.ask("POST", path, {"name": "ops"}) == (
            200,
            {"ok": True, "name": "ops", "kind": "list", "tookMs": 0},
        )
        api.ops.failures = [Undelivered("answered 503")]
        status, answer = await api.ask("POST", path, {"name": "ops"})
        assert (status, answer["ok"], answer["error"]) == (200, False, "answered 503")


async def test_from_an_ingest_to_what_a_person_reads(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api, trio.open_nursery() as nursery:
        nursery.start_soon(api.service.run)
        await api.add(metric="daily_cost_usd", warnThreshold=1, criticalThreshold=5)
        at = "2026-11-20T12:00:00Z"
        session = {"id": "s-1", "agent_id": "tony", "state": "success", "started_at": at, "ended_at": at}
        payload = {"session": session, "usage": {"cost_usd": 7.5}}
        envelope = {"envelope_version": "v1", "source": "gateway", "payload": payload}
        for replay in (False, True):
            status, answer = await api.ask("POST", INGEST, envelope)
            assert (status, answer["idempotent_replay"]) == (200, replay)
            await trio.sleep(3)
            (row,) = (await api.ask("GET", ACTIVE))[1]["rows"]
            assert (row["status"], row["value"], row["deduped"]) == ("critical", 7.5, False)
        assert api.ops.reasons == ["active"]
        with closing(sqlite3.connect(f"file:{tmp_path}/ambient.db?mode=ro", uri=True)) as connection:
            runs = connection.execute("SELECT sum(runs_total) FROM daily_usage_agg").fetchone()
        assert runs[0] >= 1
        nursery.cancel_scope.cancel()


async def test_the_routes_are_in_the_openapi_document(autojump_clock: Clock, tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        document = openapi_document(api.routes, version="1")
        assert set(document["paths"][RULES]) == {"get", "post"}
        assert "201" in document["paths"][RULES]["post"]["responses"]
        rule = document["components"]["schemas"]["AlertRuleRequest"]
        assert set(rule["required"]) == set(BODY)
