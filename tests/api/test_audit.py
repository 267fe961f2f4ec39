"""The audit's and the identity's routes: what they refuse, and who may do what."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from ambientd.api.audit import Audit, audit_routes
from ambientd.api.identity import identity_routes
from ambientd.api.router import build_application
from ambientd.core.target import Target, parse_target
from ambientd.flows.audit import Auditing
from ambientd.flows.identity import Identifying
from ambientd.ports.http import Caller, Request, Response
from tests.api.kit import OPERATOR, READER
from tests.fakes.audited import Audited
from tests.fakes.http_log import ListHttpLog
from tests.services.test_audit import Rig, rigged

AUDIT, IDENTITY = "/api/v1/node/audit", "/api/v1/node/identity"


class Api:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.audited = Audited()
        self.key_changes = 0
        auditing = Auditing(store=rig.store, clock=rig.clock, identity=rig.identity, file=rig.file)
        identifying = Identifying(store=rig.store, clock=rig.clock, identity=rig.identity)
        routes = (
            *audit_routes(Audit(auditing=auditing, watch=rig.service, audited=self.audited)),
            *identity_routes(identifying, self.audited, self._key_changed),
        )
        self._application = build_application(
            routes,
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="ambient-admin",
            audited=self.audited,
        )

    def _key_changed(self) -> None:
        self.key_changes += 1

    async def ask(self, method: str, target: str, caller: Caller = OPERATOR) -> Response:
        found = parse_target(target.encode())
        assert isinstance(found, Target)
        return await self._application(Request(method, found.path, found.query, {}, b"", caller, "req-1"))

    async def get(self, target: str) -> Any:
        answer = await self.ask("GET", target)
        assert answer.status == 200, answer
        return json.loads(answer.body)


@asynccontextmanager
async def served(folder: Path, records: int = 8) -> AsyncIterator[Api]:
    async with rigged(folder) as rig:
        await rig.start()
        await rig.grow(records)
        await rig.settle()
        yield Api(rig)


async def test_pages_follow_on_each_other(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with served(tmp_path) as api:
        seen, after = [], ""
        while True:
            page = await api.get(f"{AUDIT}?limit=3{after}")
            seen += [row["seq"] for row in page["rows"]]
            if "next" not in page:
                break
            after = f"&after={page['next']}"
        assert seen == [8, 7, 6, 5, 4, 3, 2, 1]
        assert page["head_seq"] == 8


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?since=yesterday", "since"),
        ("?until=2026-11-20", "until"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?after=x", "after"),
        ("?colour=red", "colour"),
        ("/verify?after=3", "hash"),
        ("/verify?after=3&hash=zz", "hash"),
        ("/verify?rows=0", "rows"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_the_name_of_the_field(
    query: str, field: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as api:
        answer = await api.ask("GET", AUDIT + query)
        assert answer.status == 400
        assert [one["field"] for one in json.loads(answer.body)["error"]["details"]] == [field]


async def test_a_verification_goes_on_where_it_was(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with served(tmp_path) as api:
        place, checked = "", 0
        for _ in range(10):
            found = await api.get(f"{AUDIT}/verify?rows=3{place}")
            checked += found["checked"]
            if found["ended"]:
                break
            place = f"&after={found['after']}&hash={found['hash']}"
        assert (checked, found["after"], "bad" in found) == (8, 8, False)


async def test_a_hash_that_somebody_made_up_does_not_break_the_chain(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as api:
        found = await api.get(f"{AUDIT}/verify?after=3&hash={'1' * 64}")
        assert found["bad"]["seq"] == 4
        assert api.rig.broken() is None
        assert api.rig.kinds() == []


async def test_who_may_only_read_may_verify_and_change_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with served(tmp_path) as api:
        assert (await api.ask("GET", f"{AUDIT}/verify", READER)).status == 200
        for path in (f"{AUDIT}/accept", f"{IDENTITY}/keep", f"{IDENTITY}/renew"):
            assert (await api.ask("POST", path, READER)).status == 403
        refused = [(line["action"], line["refused"]) for line in api.audited.lines]
        actions = ("audit.accept", "identity.keep", "identity.renew")
        assert refused == [(action, "NOT_AUTHORIZED") for action in actions]
        assert api.key_changes == 0


async def test_an_order_about_the_identity_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with served(tmp_path) as api:
        answer = json.loads((await api.ask("POST", f"{IDENTITY}/renew")).body)
        assert (answer["usable"], answer["changed"]) == (True, True)
        assert (await api.ask("POST", f"{IDENTITY}/keep")).status == 200
        told = [(line["action"], line["changed"]) for line in api.audited.lines]
        assert told == [("identity.renew", True), ("identity.keep", False)]
        assert api.key_changes == 1
        await api.rig.settle()
        assert api.rig.kinds() == ["identity.renew", "identity.renewed"]
