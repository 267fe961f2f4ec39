"""Peers over HTTP: who sees them, who may trust, what is left of each order."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from ambientd.api.peers import peer_routes
from ambientd.api.router import build_application
from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.target import Target, parse_target
from ambientd.flows.peers import Trust
from ambientd.ports.http import Request
from ambientd.services.peers.desk import PeerDesk
from tests.api.kit import OPERATOR, READER
from tests.fakes.http_log import ListHttpLog
from tests.services.peerrig import PeerRig, item, lan_of, until

PEERS = "/api/v1/node/peers"
NEW = show_key(public_of(b"n" * 32))


class Api:
    """Asks the routes of the first node of a rig."""

    def __init__(self, rig: PeerRig) -> None:
        self.node = rig.all[0]
        self.audited: list[dict[str, Any]] = []
        service = self.node.service
        trusting = Trust(store=self.node.store, clock=self.node.clock, peers=service)
        desk, told = PeerDesk(service, discovery=lambda: "off"), self.audited
        self._application = build_application(
            peer_routes(desk, trusting, lambda **facts: told.append(facts)),
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="ambient-admin",
            audited=lambda **facts: told.append(facts),
        )

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


@asynccontextmanager
async def api_of(folder: Path) -> AsyncIterator[tuple[Api, PeerRig]]:
    async with lan_of(folder, "a", "b") as rig:
        rig.start()
        await until(rig.is_meshed)
        yield Api(rig), rig


async def test_everybody_sees_the_peers(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with api_of(tmp_path) as (api, rig):
        status, document = await api.ask("GET", PEERS, caller=READER)
        assert status == 200
        assert document["key"] == show_key(rig["a"].key)
        assert document["listening"] == "a:7946"
        (one,) = document["peers"]
        assert one["key"] == show_key(rig["b"].key)
        assert (one["state"], one["trusted"], one["name"]) == ("linked", "configuration", "b")
        assert one["agrees"] is True


async def test_trust_is_a_control_action_with_its_record(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with api_of(tmp_path) as (api, rig):
        status, _ = await api.ask("POST", PEERS + "/trust", {"key": NEW}, caller=READER)
        assert status == 403
        status, answer = await api.ask("POST", PEERS + "/trust", {"key": NEW, "name": "new"})
        assert (status, answer["changed"], answer["name"]) == (200, True, "new")
        assert api.audited[-1] == {"action": "peers.trust", "actor": "uid:1000", "pid": 7, "key": NEW}
        assert await rig["a"].audit("control.peers.trust") == [{"name": "new", "changed": True}]
        status, answer = await api.ask("POST", PEERS + "/trust", {"key": NEW})
        assert (status, answer["changed"], answer["name"]) == (200, False, "new")
        assert NEW in {one["key"] for one in (await api.ask("GET", PEERS))[1]["peers"]}
        status, answer = await api.ask("DELETE", PEERS + "/trust/new")
        assert (status, answer["key"]) == (200, NEW)
        assert NEW not in {one["key"] for one in (await api.ask("GET", PEERS))[1]["peers"]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/trust", {"key": "ed25519:00"}, 400, "VALIDATION_ERROR"),
        ("POST", "/trust", {"key": 7}, 400, "VALIDATION_ERROR"),
        ("POST", "/trust", {"key": NEW, "trusted": True}, 400, "VALIDATION_ERROR"),
        ("DELETE", "/trust/nobody", None, 404, "NOT_FOUND"),
    ],
)
async def test_bad_orders_are_refused_and_change_nothing(
    tmp_path: Path,
    autojump_clock: MockClock,
    method: str,
    path: str,
    body: Any,
    status: int,
    code: str,
) -> None:
    async with api_of(tmp_path) as (api, rig):
        before = rig["a"].service.book
        found, answer = await api.ask(method, PEERS + path, body)
        assert (found, answer["error"]["code"]) == (status, code)
        assert rig["a"].service.book is before
        assert api.audited[-1]["refused"] == code


async def test_what_the_configuration_trusts_is_taken_back_there(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with api_of(tmp_path) as (api, rig):
        status, answer = await api.ask("DELETE", f"{PEERS}/trust/{show_key(rig['b'].key)}")
        assert (status, answer["error"]["code"]) == (409, "PEER_CONFIGURED")
        assert rig.is_meshed()


async def test_a_round_says_what_moved(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with api_of(tmp_path) as (api, rig):
        rig["b"].items.held |= {item(1).item_id: item(1)}
        rig["b"].service.holdings.refresh()
        status, dry = await api.ask("POST", "/api/v1/node/sync", {"dry_run": True})
        assert (status, dry["added"], dry["dry_run"]) == (200, 1, True)
        assert not rig["a"].items.held
        status, real = await api.ask("POST", "/api/v1/node/sync", {"peers": True})
        assert (status, real["added"], real["kept"], real["refused"]) == (200, 1, 0, 0)
        assert rig["a"].items.held
        (one,) = real["peers"]
        assert (one["name"], one["added"], one["error"]) == ("b", 1, None)
        assert api.audited[-1] == {
            "action": "sync",
            "actor": "uid:1000",
            "pid": 7,
            "added": 1,
            "dry_run": False,
        }
        assert await rig["a"].audit("control.sync") == [{"dry_run": True}, {"dry_run": False}]
        status, answer = await api.ask("POST", "/api/v1/node/sync", {"control_plane": True})
        assert (status, answer["error"]["code"]) == (409, "NO_CONTROL_PLANE")
        status, _ = await api.ask("POST", "/api/v1/node/sync", {}, caller=READER)
        assert status == 403
