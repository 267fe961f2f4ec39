"""The routes of leases, egress and clock: who may call them, what bad bodies are told, what is audited."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambientd.api.clock import clock_routes
from ambientd.api.leases import LeaseRoutes, lease_routes
from ambientd.api.router import build_application
from ambientd.core.ed25519 import show_key
from ambientd.core.signeditem import SignedItem
from ambientd.core.target import Target, parse_target
from ambientd.ports.http import Caller, Request
from tests.fakes.http_log import ListHttpLog
from tests.flows.leaserig import ALLOWED, LEASES, LeaseRig, leased

OPERATOR = Caller(transport="unix", uid=1000, pid=7, may_write=True)
READER = Caller(transport="unix", uid=1001, pid=8, may_write=False)
ROOT = "/api/v1/node"


class Api:
    """Asks the routes over a rig."""

    def __init__(self, rig: LeaseRig) -> None:
        self.rig = rig
        self.audited: list[dict[str, Any]] = []

        def audited(**facts: Any) -> None:
            self.audited.append(facts)

        given = LeaseRoutes(leases=rig.leases, egress=rig.egress, time=rig.time.look, audited=audited)
        self._application = build_application(
            (*lease_routes(given), *clock_routes(rig.time, rig.store, audited)),
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="ambient-admin",
            audited=audited,
        )

    async def ask(
        self, method: str, path: str, body: Any = None, *, caller: Caller = OPERATOR
    ) -> tuple[int, Any]:
        target = parse_target(path.encode())
        assert isinstance(target, Target)
        answer = await self._application(
            Request(
                method=method,
                path=target.path,
                query=target.query,
                headers={"content-type": "application/json"},
                body=b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode(),
                caller=caller,
                request_id="req-1",
            )
        )
        return answer.status, json.loads(answer.body)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Api]:
    async with leased(path / "a.db") as rig:
        yield Api(rig)


def form(item: SignedItem) -> dict[str, str]:
    return {"body": item.body.decode(), "issuer": show_key(item.issuer), "signature": item.signature.hex()}


async def test_the_whole_life_of_a_lease(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, found = await api.ask("POST", f"{ROOT}/leases", form(LEASES.lease()))
        assert (status, found["jti"], found["state"], found["left_ms"]) == (
            200,
            "lease-1",
            "active",
            3_600_000,
        )
        assert found["audit_id"] > 0
        meter = {"destination": ALLOWED, "bytes": 10}
        _, answer = await api.ask("POST", f"{ROOT}/leases/lease-1/meter", meter)
        assert (answer["allowed"], answer["bytes"], answer["allowance"]) == (True, 10, 1_000_000)
        _, page = await api.ask("GET", f"{ROOT}/leases?state=active&limit=1")
        assert [row["bytes"] for row in page["rows"]] == [10]
        status, ended = await api.ask("DELETE", f"{ROOT}/leases/lease")
        assert (status, ended["state"], ended["end_reason"]) == (200, "ended", "operator")
        status, error = await api.ask("POST", f"{ROOT}/leases", form(LEASES.lease()))
        assert (status, error["error"]["code"]) == (409, "LEASE_OVER")
        status, revoked = await api.ask("POST", f"{ROOT}/leases/revocations", form(LEASES.revocation("b")))
        assert (status, revoked["ended"]) == (200, False)
        assert [(one["action"], one.get("refused")) for one in api.audited] == [
            ("lease.activate", None),
            ("lease.end", None),
            ("lease.activate", "LEASE_OVER"),
            ("lease.revoke", None),
        ]


async def test_readers_look_and_change_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        item = form(LEASES.lease())
        for method, path, body in (
            ("POST", "/leases", item),
            ("DELETE", "/leases/x", None),
            ("POST", "/leases/revocations", item),
            ("POST", "/leases/x/meter", {"destination": ALLOWED, "bytes": 1}),
            ("POST", "/egress/check", {"destination": ALLOWED}),
            ("POST", "/clock/accept", {}),
        ):
            status, error = await api.ask(method, ROOT + path, body, caller=READER)
            assert (status, error["error"]["code"]) == (403, "NOT_AUTHORIZED")
        assert (await api.ask("GET", f"{ROOT}/leases", caller=READER))[0] == 200
        assert (await api.ask("GET", f"{ROOT}/clock", caller=READER))[1]["confirmed"] is True


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/leases", {}, ["body", "issuer", "signature"]),
        ("/leases", {"body": 1, "issuer": "x", "signature": "y"}, ["body", "issuer", "signature"]),
        ("/leases", {**form(LEASES.lease()), "more": 1}, ["more"]),
        ("/leases", {**form(LEASES.lease()), "issuer": "ed25519:" + "0" * 64}, ["issuer"]),
        ("/leases/a/meter", {"destination": "", "bytes": -1}, ["destination", "bytes"]),
        ("/leases/a/meter", {"destination": ALLOWED, "bytes": 2**41}, ["bytes"]),
        ("/egress/check", {"destination": "x" * 5000, "lease_id": ""}, ["destination", "lease_id"]),
        ("/clock/accept", {"force": True}, ["force"]),
    ],
)
async def test_bad_bodies_are_told_whole(
    tmp_path: Path, path: str, body: dict[str, Any], fields: list[str]
) -> None:
    async with served(tmp_path) as api:
        status, error = await api.ask("POST", ROOT + path, body)
        assert (status, error["error"]["code"]) == (400, "VALIDATION_ERROR")
        assert sorted(one["field"] for one in error["error"]["details"]) == sorted(fields)


@pytest.mark.parametrize(
    "body", [b"", b"[" * 5000, b'{"destination":"\\ud800"}', b"\xff", b"1", b'{"a":1e400}']
)
async def test_bytes_that_are_no_request_are_refused(tmp_path: Path, body: bytes) -> None:
    async with served(tmp_path) as api:
        for path in ("/leases", "/leases/revocations", "/leases/a/meter", "/egress/check", "/clock/accept"):
            assert (await api.ask("POST", ROOT + path, body))[0] == 400


async def test_another_body_under_the_signature_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        item = msgspec.structs.replace(LEASES.lease(), body=b"\xc3\xa9")
        status, error = await api.ask("POST", f"{ROOT}/leases", form(item))
        assert (status, error["error"]["details"][0]["issue"]) == (403, "bad_signature")


async def test_a_clock_that_was_accepted_is_audited(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.rig.source.wall_ms -= 7_200_000
        _, before = await api.ask("GET", f"{ROOT}/clock")
        assert before["doubt"] == "the wall clock is 2 h behind what this node has seen"
        status, after = await api.ask("POST", f"{ROOT}/clock/accept", {})
        assert (status, "doubt" in after) == (200, False)
        api.rig.source.wall_ms = 0
        status, error = await api.ask("POST", f"{ROOT}/clock/accept", {})
        assert (status, error["error"]["code"]) == (409, "CLOCK_IMPOSSIBLE")
        assert [(one["action"], one.get("refused")) for one in api.audited] == [
            ("clock.accept", None),
            ("clock.accept", "CLOCK_IMPOSSIBLE"),
        ]
