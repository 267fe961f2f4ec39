import json
import os
import signal
import subprocess

import msgspec
import pytest

from ambientd.wire import routes
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import AgentSession
from tests.ctl.conftest import Ctl, Outcome, command, outside, read_terminal
from tests.fakes.daemon_http import FakeDaemon, Reply, refused, status_document, summary

SESSION = "ses_01AAAAAAAAAAAAAAAAa1b2c3d4"


@pytest.fixture
def running(daemon: FakeDaemon) -> FakeDaemon:
    """One running session."""
    daemon.sessions[SESSION] = summary(SESSION, total_tokens=48_123, task_title="Refactor \x1b[2J it")
    return daemon


def test_without_a_terminal_nobody_is_asked(ctl: Ctl, running: FakeDaemon) -> None:
    found = ctl("kill", "a1b2c3d4")
    assert (found.code, found.out, running.seen) == (2, "", [])
    assert "say --yes" in found.err


def test_it_waits_for_the_proof(ctl: Ctl, running: FakeDaemon) -> None:
    found = ctl("kill", "a1b2c3d4", "--yes")
    assert found.code == 0
    assert found.out.startswith("✓ Signal sent. Waiting for it to end … killed after ")
    assert found.out.endswith("s\n  audit #5521\n")
    assert running.sessions[SESSION].status == "killed"


def test_json_says_what_was_proven(ctl: Ctl, running: FakeDaemon) -> None:
    found = ctl("kill", "a1b2c3d4", "--yes", "--json")
    document = json.loads(found.out)
    assert document["waitedMs"] >= 0
    assert {key: document[key] for key in ("schema", "sessionId", "signal", "ended", "auditId")} == {
        "schema": routes.SCHEMA_KILL,
        "sessionId": SESSION,
        "signal": "sent",
        "ended": True,
        "auditId": 5521,
    }
    assert found.err == ""


def test_no_proof_in_time_is_exit_7(ctl: Ctl, running: FakeDaemon) -> None:
    running.dies_when_told = False
    found = ctl("kill", "a1b2c3d4", "--yes", "--timeout", "1")
    assert found.code == 7
    assert "not yet after 1." in found.out
    assert found.err == "Error: signal sent, not confirmed. See: ambientctl sessions show a1b2c3d4\n"
    document = json.loads(ctl("kill", "a1b2c3d4", "--yes", "--timeout", "0.1", "--json").out)
    assert (document["ended"], "status" in document) == (False, False)


def test_no_wait_sends_and_goes(ctl: Ctl, running: FakeDaemon) -> None:
    running.dies_when_told = False
    assert ctl("kill", "a1b2c3d4", "--yes", "--no-wait") == (0, "✓ Signal sent.\n  audit #5521\n", "")
    assert json.loads(ctl("kill", SESSION, "--yes", "--no-wait", "--json").out)["ended"] is False


def test_a_queued_session_is_cancelled_at_once(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.sessions[SESSION] = summary(SESSION, status=SessionStatus.QUEUED)
    found = ctl("kill", "a1b2c3d4", "--yes")
    assert (found.code, found.out) == (0, "✓ Cancelled before it started.\n  audit #5521\n")


def test_what_ended_before_is_refused(ctl: Ctl, running: FakeDaemon) -> None:
    ctl("kill", "a1b2c3d4", "--yes")
    found = ctl("kill", "a1b2c3d4", "--yes")
    assert found == (6, "", f"Error: session {SESSION} has already ended: killed\n")


def test_an_ambiguous_id_lists_the_candidates(ctl: Ctl, running: FakeDaemon) -> None:
    running.sessions["ses_01AAAB"] = summary("ses_01AAAB")
    found = ctl("kill", "ses_01AAA", "--yes")
    assert found.code == 5
    assert f"  {SESSION}  tony  running\n" in found.err
    assert all(row.status == "running" for row in running.sessions.values())


def test_an_unknown_id_is_not_found(ctl: Ctl) -> None:
    assert ctl("kill", "zzz", "--yes").code == 5


def test_a_runner_that_does_not_answer_is_unreachable(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.KILL] = refused("RUNNER_UNAVAILABLE", "the order is recorded; the runner is silent")
    assert ctl("kill", "x", "--yes").code == 3


def test_a_daemon_that_goes_away_meanwhile_leaves_it_unconfirmed(ctl: Ctl, running: FakeDaemon) -> None:
    running.dies_when_told = False
    running.script[f"{routes.LEDGER}/{SESSION}/events"] = Reply(raw=b"")
    assert ctl("kill", "a1b2c3d4", "--yes", "--timeout", "0.6").code == 7


def _answer_on_a_terminal(daemon: FakeDaemon, typed: bytes) -> Outcome:
    controller, terminal = os.openpty()
    with subprocess.Popen(
        command("kill", "a1b2c3d4"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=outside(daemon.socket_path, TERM="xterm", COLUMNS="80"),
        start_new_session=True,
    ) as child:
        os.close(terminal)
        shown = b""
        while b"[y/N]" not in shown and child.poll() is None:
            shown += read_terminal(controller, once=True)
        os.write(controller, typed)
        code = child.wait(30)
    shown += read_terminal(controller)
    os.close(controller)
    return Outcome(code, shown.decode().replace("\r\n", "\n"), "")


def test_a_person_sees_the_whole_id_and_is_asked(running: FakeDaemon) -> None:
    found = _answer_on_a_terminal(running, b"y\n")
    assert found.code == 0
    lines = found.out.split("\n")
    assert lines[0] == f"Session  {SESSION}"
    assert lines[1].startswith("Agent    tony (opus-5), running ")
    assert lines[1].endswith(", 48.1k tokens")
    assert lines[2] == "Task     Refactor \\x1b[2J it"
    assert lines[3] == "Terminate this session? [y/N] y"
    assert lines[4].startswith("✓ Signal sent. Waiting for it to end … killed after ")
    assert lines[5] == "  audit #5521"


@pytest.mark.parametrize("typed", [b"\n", b"n\n", b"yess\n", b"\x04"])
def test_anything_but_yes_means_no(running: FakeDaemon, typed: bytes) -> None:
    found = _answer_on_a_terminal(running, typed)
    assert found.code == 1
    assert "Nothing was done." in found.out
    assert running.sessions[SESSION].status == "running"


def test_a_person_is_not_asked_about_what_has_ended(running: FakeDaemon) -> None:
    running.end(SESSION, "success")
    found = _answer_on_a_terminal(running, b"")
    assert found.code == 6
    assert f"Error: session {SESSION} has already ended: success at 2026-11-20 15:40" in found.out


def test_ctrl_c_while_waiting_says_that_the_signal_was_sent(running: FakeDaemon) -> None:
    running.dies_when_told = False
    with subprocess.Popen(
        command("kill", "a1b2c3d4", "--yes"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=outside(running.socket_path),
    ) as child:
        while not any(seen.path.endswith("/events") for seen in running.seen):
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert b"the signal was sent" in err


def test_a_session_that_only_the_gateway_knows_is_shown_from_the_status(daemon: FakeDaemon) -> None:
    document = status_document()
    document.agents[0].sessions = [
        AgentSession("gw-11-a1b2c3d4", "running", "mock/slow", "2026-11-20T15:28:11.000Z", "Say hello"),
        AgentSession("gw-22", "running"),
    ]
    daemon.script[routes.STATUS] = Reply(body=msgspec.json.encode(document))
    found = _answer_on_a_terminal(daemon, b"n\n")
    assert found.code == 1
    lines = found.out.split("\n")
    assert lines[0] == "Session  gw-11-a1b2c3d4"
    assert lines[1].startswith("Agent    tony (mock/slow), running ")
    assert lines[2] == "Task     Say hello"
