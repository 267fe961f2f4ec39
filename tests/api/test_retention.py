"""Retention over HTTP, and what the ledger says of sessions that are gone."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import trio

from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.node import upkeep_routes
from ambientd.api.router import build_application
from ambientd.core.records import NewSession, SessionChange
from ambientd.core.target import Target, parse_target
from ambientd.ports.http import Application, Request
from ambientd.ports.store import Transaction
from ambientd.services.news import NewsBoard
from ambientd.services.upkeep import UpkeepService
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import MigrationsView
from tests.api.kit import OPERATOR, READER
from tests.fakes.audited import Audited
from tests.fakes.clock import EPOCH
from tests.fakes.http_log import ListHttpLog
from tests.flows.test_upkeep import Kept, kept
from tests.services.test_upkeep import ListLog

PATH = "/api/v1/node/retention"


class Api:
    """Asks the routes of retention and of the ledger."""

    def __init__(self, box: Kept, application: Application, audited: Audited) -> None:
        self.box = box
        self.audited = audited
        self._application = application

    async def ask(self, method: str, target: str, document: Any = None, **more: Any) -> tuple[int, Any]:
        found = parse_target(target.encode())
        assert isinstance(found, Target), found
        body = b"" if document is None else json.dumps(document).encode()
        request = Request(
            method=method,
            path=found.path,
            query=found.query,
            headers={"content-type": "application/json"} if body else {},
            body=body,
            caller=more.get("caller", OPERATOR),
            request_id="req-1",
        )
        answer = await self._application(request)
        return answer.status, json.loads(answer.body)

    async def session(self, name: str, days: float) -> None:
        """A session with a title that ended so many days ago."""
        at = EPOCH - timedelta(days=days)

        def work(tx: Transaction) -> None:
            tx.ledger.add(NewSession(session_id=name, agent_id="a", agent_label="a", started_at=at))
            tx.ledger.change(name, SessionChange(status=SessionStatus.SUCCESS, ended_at=at))

        await self.box.store.write(work)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Api]:
    async with kept(folder) as box, trio.open_nursery() as nursery:
        service = UpkeepService(upkeep=box.upkeep, log=ListLog())
        nursery.start_soon(service.run)
        ledger = Ledger(store=box.store, news=NewsBoard(), clock=box.clock, monotonic=trio.current_time)

        async def migrations() -> MigrationsView:
            raise AssertionError("nobody asks for it here")

        audited = Audited()
        application = build_application(
            (*upkeep_routes(service, migrations, audited), *ledger_routes(ledger)),
            readiness=lambda: box.store.facts().reason,
            log=ListHttpLog(),
            admin_group="ambient-admin",
            audited=audited,
        )
        yield Api(box, application, audited)
        nursery.cancel_scope.cancel()


async def test_a_dry_run_shows_a_plan_and_the_plan_runs_once_it_is_named(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        await api.session("ses_old", 91)
        await api.session("ses_new", 1)
        assert (await api.ask("GET", PATH))[0] == 404
        status, plan = await api.ask("POST", PATH, {"dryRun": True})
        assert (status, plan["schema"], plan["dryRun"]) == (200, "ambient.retention/1", True)
        row = next(row for row in plan["tables"] if row["name"] == "session_ledger")
        assert row == {
            "name": "session_ledger",
            "keepDays": 90,
            "keepSec": 90 * 86_400,
            "before": "2026-08-22T12:00:00.000Z",
            "rows": 1,
            "bytes": row["bytes"],
        }
        assert (await api.ask("GET", "/api/v3/ledger"))[1]["total"] == 2
        status, done = await api.ask("POST", PATH, {"dryRun": False, "planId": plan["planId"]})
        assert (status, done["planId"], done["dryRun"]) == (200, plan["planId"], False)
        assert [row["rows"] for row in done["tables"]] == [row["rows"] for row in plan["tables"]]
        assert (await api.ask("GET", PATH)) == (200, done)


async def test_every_order_leaves_an_audit_line(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        _, plan = await api.ask("POST", PATH, {"dryRun": True})
        await api.ask("POST", PATH, {"dryRun": False, "planId": plan["planId"]})
        await api.ask("POST", PATH, {"dryRun": False, "planId": "6f1c2a6f1c2a"})
        await api.ask("POST", PATH, {"dryRun": True}, caller=READER)
        who = {"action": "retention", "actor": f"uid:{OPERATOR.uid}", "pid": OPERATOR.pid}
        assert api.audited.lines == [
            {**who, "plan": plan["planId"], "dry_run": True},
            {**who, "plan": plan["planId"], "dry_run": False},
            {**who, "refused": "PLAN_UNKNOWN"},
            {**who, "actor": f"uid:{READER.uid}", "pid": READER.pid, "refused": "NOT_AUTHORIZED"},
        ]


async def test_a_plan_nobody_made_is_refused_with_409(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, answer = await api.ask("POST", PATH, {"dryRun": False, "planId": "6f1c2a6f1c2a"})
        assert (status, answer["error"]["code"]) == (409, "PLAN_UNKNOWN")


async def test_who_may_only_read_may_not_even_plan(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        for document in ({"dryRun": True}, {"dryRun": False}):
            assert (await api.ask("POST", PATH, document, caller=READER))[0] == 403


async def test_after_a_purge_the_list_and_the_detail_say_so(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        await api.session("ses_old", 91)
        assert "purgedBefore" not in (await api.ask("GET", "/api/v3/ledger"))[1]
        _, never = await api.ask("GET", "/api/v3/ledger/ses_never")
        assert "purged" not in never["error"]["message"]
        await api.ask("POST", PATH, {"dryRun": False})
        _, listed = await api.ask("GET", "/api/v3/ledger?agent=a")
        assert listed == {"total": 0, "rows": [], "purgedBefore": "2026-08-22T12:00:00.000Z"}
        status, gone = await api.ask("GET", "/api/v3/ledger/ses_old")
        assert (status, gone["error"]["code"]) == (404, "NOT_FOUND")
        assert "purged: sessions that ended before 2026-08-22T12:00:00.000Z" in gone["error"]["message"]
