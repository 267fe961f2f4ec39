"""The door of the TCP listener, asked with heads alone."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.api.gate import Gate
from ambientd.api.router import Access, Route, RouteTable
from ambientd.core.site import build_site
from ambientd.host.secrets import Secret
from ambientd.ports.http import Caller, Turned

KEY = "0f3a9c51d2e84b60a1c9d7e5f3b2a486"
HEAD = {"host": "127.0.0.1:7777"}
PEER = Caller("tcp", None, None, may_write=False, ip="127.0.0.1")


async def _nothing(*_: object) -> Any:
    raise AssertionError("the door calls nobody")


def _route(method: str, path: str, **more: Any) -> Route:
    return Route(method=method, path=path, handler=_nothing, summary="", **more)


TABLE = RouteTable(
    (
        _route("GET", "/livez", access=Access.OPEN),
        _route("GET", "/things/{id}"),
        _route("POST", "/kill", access=Access.WRITE, action="kill"),
        _route("POST", "/in", access=Access.WRITE, unauthorized="INGEST_NOT_AUTHORIZED"),
    )
)


class Door:
    def __init__(self, *more_keys: str) -> None:
        self.audited: list[dict[str, Any]] = []
        self.gate = Gate(
            table=TABLE,
            site=build_site("127.0.0.1", 7777),
            keys=[Secret(key).matches for key in (KEY, *more_keys)],
            proxies=[ipaddress.ip_network("127.0.0.1")],
            audited=lambda **facts: self.audited.append(facts),
        )

    def ask(self, method: str, path: str, headers: dict[str, str], key: str | None = KEY) -> Caller | Turned:
        given = HEAD | headers | ({} if key is None else {"x-secret-key": key})
        return self.gate.admit(method, path, given, PEER)


def status(answer: Caller | Turned) -> int:
    return answer.status if isinstance(answer, Turned) else 200


def test_with_the_key_a_caller_may_write_and_has_an_address() -> None:
    answer = Door().ask("POST", "/kill", {})
    assert answer == Caller("tcp", None, None, may_write=True, ip="127.0.0.1")


def test_open_routes_let_everybody_in_and_give_no_rights() -> None:
    door = Door()
    for method in ("GET", "HEAD"):
        answer = door.ask(method, "/livez", {}, key=None)
        assert isinstance(answer, Caller)
        assert not answer.may_write
    assert status(door.ask("POST", "/livez", {}, key=None)) == 401


@pytest.mark.parametrize("path", ["/things/1", "/kill", "/nowhere", "", "/livez/", "/LIVEZ"])
@pytest.mark.parametrize("method", ["GET", "POST", "BREW", "OPTIONS"])
def test_everything_else_is_401_without_the_key(method: str, path: str) -> None:
    assert status(Door().ask(method, path, {}, key=None)) == 401


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_no_other_key_opens(key: str) -> None:
    assert status(Door().ask("GET", "/things/1", {}, key=key)) == (200 if key == KEY else 401)


def test_any_of_several_keys_opens_and_an_empty_one_never_does() -> None:
    door = Door("a-token-of-the-dashboard")
    assert status(door.ask("GET", "/things/1", {}, key="a-token-of-the-dashboard")) == 200
    assert status(door.ask("GET", "/things/1", {}, key="")) == 401
    accepting = Gate(
        table=TABLE,
        site=build_site("127.0.0.1", 7777),
        keys=[lambda _: True],
        proxies=(),
        audited=lambda **_: None,
    )
    assert status(accepting.admit("GET", "/things/1", HEAD | {"x-secret-key": ""}, PEER)) == 401


def test_a_key_that_is_not_ascii_is_compared_as_its_bytes() -> None:
    door = Door("schlüssel-" + KEY)
    as_sent = ("schlüssel-" + KEY).encode().decode("latin-1")
    assert status(door.ask("GET", "/things/1", {}, key=as_sent)) == 200


def test_the_key_is_asked_before_the_host_and_the_host_before_anything_else() -> None:
    door = Door()
    assert status(door.ask("GET", "/things/1", {"host": "evil.test"}, key=None)) == 401
    assert status(door.ask("GET", "/things/1", {"host": "evil.test"})) == 403
    assert status(door.ask("GET", "/nowhere", {"host": "evil.test"})) == 403
    assert status(door.ask("GET", "/livez", {"host": "evil.test"}, key=None)) == 403


def test_the_refusal_of_ingest_has_the_contracts_code() -> None:
    answer = Door().ask("POST", "/in", {}, key=None)
    assert isinstance(answer, Turned)
    assert (answer.status, answer.code) == (401, "INGEST_NOT_AUTHORIZED")


def test_refused_control_actions_are_audited_with_the_clients_address_and_others_are_not() -> None:
    door = Door()
    door.ask("POST", "/kill", {"x-forwarded-for": "203.0.113.9"}, key="wrong")
    door.ask("POST", "/kill", {"host": "evil.test"})
    door.ask("GET", "/things/1", {}, key=None)
    door.ask("POST", "/kill", {})
    assert door.audited == [
        {"action": "kill", "actor": "ip:203.0.113.9", "pid": None, "refused": "NOT_AUTHORIZED"},
        {"action": "kill", "actor": "ip:127.0.0.1", "pid": None, "refused": "NOT_AUTHORIZED"},
    ]
