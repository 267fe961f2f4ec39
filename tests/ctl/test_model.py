import json

import msgspec

from ambientd.wire import messages as m
from ambientd.wire import routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused


def kept(*applied: str, sessions: int = 0) -> Reply:
    answer = m.ModelAnswer(True, "tony", "mock/mock-slow", list(applied), sessions, 41)
    return Reply(body=msgspec.json.encode(answer))


def test_it_says_where_the_model_holds(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.MODEL] = kept("spawns", "sessions", sessions=2)
    found = ctl("model", "tony", "mock-slow")
    assert found.code == 0
    assert found.out == (
        "✓ tony uses mock/mock-slow: sessions that start from now on, 2 sessions at the gateway.\n"
        "  audit #41\n"
    )
    assert json.loads(daemon.seen[-1].body) == {"agentId": "tony", "model": "mock-slow"}


def test_json_has_the_schema_and_what_was_applied(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.MODEL] = kept("spawns", "agent")
    document = json.loads(ctl("model", "tony", "mock-slow", "--json").out)
    assert document.pop("generatedAt")
    assert document == {
        "schema": routes.SCHEMA_MODEL,
        "agentId": "tony",
        "model": "mock/mock-slow",
        "applied": ["spawns", "agent"],
        "sessions": 0,
        "auditId": 41,
    }


def test_refusals_have_the_exit_codes_of_their_rows(ctl: Ctl, daemon: FakeDaemon) -> None:
    for code, expected in (("NOT_FOUND", 5), ("VALIDATION_ERROR", 1), ("GATEWAY_UNAVAILABLE", 3)):
        daemon.script[routes.MODEL] = refused(code, "because")
        found = ctl("model", "tony", "mock-slow")
        assert (found.code, found.out) == (expected, "")
        assert "because" in found.err
