import json
from pathlib import Path

import msgspec
import pytest

from ambientd.wire import routes
from ambientd.wire.clock_messages import ClockView
from ambientd.wire.lease_messages import EgressAnswer, LeasesPage, LeaseView, RevocationAnswer
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

ITEM = {"body": "{}", "issuer": "ed25519:" + "a" * 64, "signature": "0" * 128}


def view(**more: object) -> LeaseView:
    facts: dict[str, object] = {
        "jti": "lease-1",
        "session_id": "ses-1",
        "policy_id": "web",
        "issuer": "ed25519:" + "a" * 64,
        "state": "active",
        "activated_at": "2026-11-20T12:00:00.000Z",
        "nbf": "2026-11-20T12:00:00.000Z",
        "exp": "2026-11-20T13:00:00.000Z",
        "protocols": ["https"],
        "max_duration_ms": 3_600_000,
        "max_mbps": 8,
        "elapsed_ms": 60_000,
        "bytes": 1_048_576,
        "denied": 3,
        "allowance": 62_914_560,
        "left_ms": 3_540_000,
    }
    return LeaseView(**(facts | more))  # type: ignore[arg-type]


def reply(answer: msgspec.Struct) -> Reply:
    return Reply(body=msgspec.json.encode(answer))


@pytest.fixture
def item(tmp_path: Path) -> str:
    path = tmp_path / "lease.json"
    path.write_text(json.dumps(ITEM))
    return str(path)


def test_the_list_says_what_is_left_and_used(ctl: Ctl, daemon: FakeDaemon) -> None:
    ended = view(jti="old", state="ended", end_reason="expired", left_ms=None, allowance=None)
    daemon.script[routes.LEASES] = reply(LeasesPage([view(), ended]))
    found = ctl("lease", "list")
    assert found.code == 0
    assert [line.split() for line in found.out.splitlines()] == [
        ["LEASE", "SESSION", "STATE", "LEFT", "BYTES", "POLICY"],
        ["lease-1", "ses-1", "active", "59m00s", "1.0", "MiB", "of", "60.0", "MiB", "web"],
        ["old", "ses-1", "ended:", "expired", "-", "1.0", "MiB", "web"],
    ]
    document = json.loads(ctl("lease", "list", "--json").out)
    assert document["schema"] == routes.SCHEMA_LEASES
    assert document["items"][0]["sessionId"] == "ses-1"


def test_an_item_is_sent_as_it_is_in_the_file(ctl: Ctl, daemon: FakeDaemon, item: str) -> None:
    daemon.script[routes.LEASES] = reply(view(audit_id=41))
    found = ctl("lease", "activate", item)
    assert found.out == "✓ Lease lease-1 is active, for 59m00s at most.\n  audit #41\n"
    assert json.loads(daemon.seen[-1].body) == ITEM
    document = json.loads(ctl("lease", "activate", item, "--json").out)
    assert (document["schema"], document["auditId"]) == (routes.SCHEMA_LEASE, 41)


def test_a_revocation_says_what_it_did(ctl: Ctl, daemon: FakeDaemon, item: str) -> None:
    daemon.script[routes.LEASE_REVOCATIONS] = reply(RevocationAnswer("lease-1", False, True, 7))
    assert ctl("lease", "revoke", item).out == "✓ Lease lease-1 is revoked: it has ended.\n  audit #7\n"
    document = json.loads(ctl("lease", "revoke", item, "--json").out)
    assert (document["ended"], document["known"], document["auditId"]) == (True, False, 7)


def test_a_file_that_is_no_item_is_not_sent(ctl: Ctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    for content in ("", "[]", '{"body":1,"issuer":"","signature":""}', "x" * 70_000):
        (tmp_path / "bad").write_text(content)
        found = ctl("lease", "activate", str(tmp_path / "bad"))
        assert (found.code, "no signed item" in found.err) == (1, True)
    assert ctl("lease", "activate", str(tmp_path / "none")).code == 1
    assert daemon.seen == []


def test_refusals_have_the_exit_codes_of_their_rows(ctl: Ctl, daemon: FakeDaemon, item: str) -> None:
    for code, expected in (
        ("LEASE_REFUSED", 1),
        ("LEASE_OVER", 6),
        ("LINKS_REFUSE", 6),
        ("CLOCK_IN_DOUBT", 6),
    ):
        daemon.script[routes.LEASES] = refused(code, "because")
        found = ctl("lease", "activate", item)
        assert (found.code, "because" in found.err) == (expected, True)


def test_a_check_for_a_session_asks_the_egress_route(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.EGRESS_CHECK] = reply(
        EgressAnswer(False, "duration", "it has lasted", "OnlineControlPlane", lease_id="lease-1")
    )
    found = ctl("policy", "check", "https://a.example", "--session", "ses-1")
    assert found.code == 6
    assert "it has lasted" in found.out
    assert json.loads(daemon.seen[-1].body) == {"destination": "https://a.example", "session_id": "ses-1"}
    assert ctl("policy", "check", "https://a.example", "--lease", "x", "--policy", "y").code == 2


def test_the_clock_says_whether_it_is_believed(ctl: Ctl, daemon: FakeDaemon) -> None:
    at = "2026-11-20T12:00:00.000Z"
    daemon.script[routes.CLOCK] = reply(ClockView(at, at, at, True, False, "it is 1 d behind"))
    found = ctl("clock")
    assert found.out.startswith("! in doubt: it is 1 d behind\n")
    assert "ambientctl clock accept" in found.out
    daemon.script[routes.CLOCK_ACCEPT] = reply(ClockView(at, at, at, True, False, audit_id=5))
    assert ctl("clock", "accept").out == f"✓ The wall clock is believed: {at}\n  audit #5\n"
    assert json.loads(ctl("clock", "accept", "--json").out)["auditId"] == 5
    daemon.script[routes.CLOCK_ACCEPT] = refused("CLOCK_IMPOSSIBLE", "set it first")
    assert ctl("clock", "accept").code == 6
