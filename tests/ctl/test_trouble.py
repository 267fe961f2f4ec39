import errno
import json
import os
import pwd
import socket
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ambientctl import trouble
from ambientctl.status import Options
from ambientctl.transport import Answer, AwayError
from ambientd.wire import exits, routes
from ambientd.wire.errors import ERRORS
from tests.ctl.conftest import Ctl, Outcome
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

READING = [["status"], ["status", "--json"], ["sessions"], ["agents", "--json"], ["migrate", "status"]]
BROKEN = [
    b"",
    b"\x00\xff\x00 garbage",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n{}",
    b"HTTP/1.1 2000 OK\r\n\r\n{}",
    b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n",
    b"x" * 200_000,
]
STRANGE = [
    b"",
    b"[]",
    b"null",
    b'"text"',
    b"{",
    b'{"rows":[1,null,"x",{}],"total":"many","agents":{"a":1},"migrations":[[]]}',
    b'{"rows":[{"sessionId":5,"status":[],"startedAt":"yesterday","runtimeMs":"x","taskTitle":{}}]}',
    b'{"agents":[{"id":null,"since":"99999-01-01","running":true}],"nextCursor":7}',
    b"[" * 5000,
]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="actl-") as name:
        yield Path(name)


def _is_polite(found: Outcome) -> bool:
    return found.out == "" and found.err != "" and "Traceback" not in found.err


@pytest.mark.parametrize("argv", READING)
def test_a_daemon_that_is_not_there_is_one_screen(ctl: Ctl, folder: Path, argv: list[str]) -> None:
    path = f"{folder}/d.sock"
    assert ctl(*argv, "--socket", path) == (
        3,
        "",
        (
            "○ ambientd is not running.\n"
            f"  socket   {path}: no such file\n"
            "  try      ambientd run\n"
            "           ambientd dev     (a throw-away node with sample agents)\n"
        ),
    )


def test_it_tells_when_and_why_the_daemon_stopped(ctl: Ctl, folder: Path) -> None:
    stopped = {"at": "2026-11-19T15:20:11.000Z", "exit": 1, "reason": "disk \x1b[31mfull"}
    (folder / "stopped.json").write_text(json.dumps(stopped))
    found = ctl("status", "--socket", f"{folder}/d.sock")
    assert (
        "  last     stopped 2026-11-19 15:20:11, exit 1: disk \\x1b[31mfull (from the state file)\n"
        in found.err
    )


def test_a_stop_of_today_is_told_by_the_clock(ctl: Ctl, folder: Path) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    (folder / "stopped.json").write_text(json.dumps({"at": at.isoformat(), "exit": 0}))
    found = ctl("status", "--socket", f"{folder}/d.sock")
    assert f"  last     stopped {at:%H:%M:%S}, exit 0 (from the state file)\n" in found.err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"at": 5, "exit": 1}', '{"at": "soon"}', "null"])
def test_a_damaged_state_file_is_no_hindrance(ctl: Ctl, folder: Path, content: str) -> None:
    (folder / "stopped.json").write_text(content)
    found = ctl("status", "--socket", f"{folder}/d.sock")
    assert found.code == 3
    assert "last" not in found.err


def test_a_state_file_that_is_a_pipe_does_not_hold_the_command_up(ctl: Ctl, folder: Path) -> None:
    os.mkfifo(folder / "stopped.json")
    assert ctl("status", "--socket", f"{folder}/d.sock").code == 3


def test_a_socket_that_nobody_listens_on_is_called_so(ctl: Ctl, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{folder}/d.sock")
    found = ctl("agents", "--socket", f"{folder}/d.sock")
    assert found.code == 3
    assert f"{folder}/d.sock: connection refused, nobody listens\n" in found.err


def test_the_systems_socket_leads_to_systemd_where_there_is_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "_has_unit", lambda: True)
    error = AwayError([("/run/ambient/ambientd.sock", errno.ENOENT), ("/x/d.sock", errno.ENOENT)])
    assert trouble.explain(error, Options()).lines[-1] == "  try      systemctl start ambientd"


def test_no_permission_names_the_group_and_one_command(folder: Path) -> None:
    path = folder / "d.sock"
    path.touch()
    path.chmod(0o660)
    failure = trouble.explain(AwayError([("/none", errno.ENOENT), (str(path), errno.EACCES)]), Options())
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert failure.exit == exits.NOT_PERMITTED
    assert failure.lines[0] == f"Error: you may not open {path} (permission denied)."
    assert f" {user}    (then log in again)" in failure.lines[-1] or "newgrp" in failure.lines[-1]


def test_a_socket_of_one_user_leads_to_that_user(folder: Path) -> None:
    path = folder / "d.sock"
    path.touch()
    path.chmod(0o600)
    failure = trouble.explain(AwayError([(str(path), errno.EACCES)]), Options())
    assert "sudo -u " in failure.lines[-1]


def test_a_path_that_cannot_be_a_socket_is_explained(ctl: Ctl) -> None:
    for argv in (["status"], ["sessions"]):
        found = ctl(*argv, "--socket", "/tmp/" + "x" * 200)
        assert found.code == 3
        assert "205 bytes, the most is 107" in found.err
    assert ctl("status", "--socket", "/tmp").code == 3


@pytest.mark.parametrize("raw", BROKEN)
@pytest.mark.parametrize("argv", [["status"], ["sessions", "--json"]])
def test_what_is_no_http_is_an_error_and_never_a_traceback(
    ctl: Ctl, daemon: FakeDaemon, argv: list[str], raw: bytes
) -> None:
    reply = Reply(raw=raw)
    daemon.script |= {routes.STATUS: reply, routes.LEDGER: reply}
    found = ctl(*argv)
    assert found.code == exits.UNREACHABLE
    assert _is_polite(found)


@pytest.mark.parametrize("body", STRANGE)
@pytest.mark.parametrize(
    "argv",
    [
        *[[verb, "-o", form] for verb in ("sessions", "agents") for form in ("table", "wide", "json", "tsv")],
        ["migrate", "status"],
        ["sessions", "show", "x"],
        ["sessions", "events", "x"],
        ["sessions", "events", "x", "-f"],
        ["spawn", "a", "b"],
        ["kill", "x", "--yes", "--timeout", "0.3"],
        ["status", "-o", "tsv"],
    ],
)
def test_documents_of_another_shape_never_make_a_traceback(
    ctl: Ctl, daemon: FakeDaemon, argv: list[str], body: bytes
) -> None:
    paths = (routes.LEDGER, routes.STATUS, routes.SPAWN, routes.KILL, routes.MIGRATIONS)
    daemon.script |= dict.fromkeys(
        (*paths, routes.LEDGER + "/x", routes.LEDGER + "/x/events"), Reply(200, body)
    )
    found = ctl(*argv)
    assert found.code in (0, 1)
    assert "Traceback" not in found.err


@pytest.mark.parametrize("argv", READING)
def test_a_slow_daemon_ends_the_wait(ctl: Ctl, daemon: FakeDaemon, argv: list[str]) -> None:
    reply = Reply(delay=20)
    daemon.script |= dict.fromkeys((routes.STATUS, routes.LEDGER, routes.MIGRATIONS), reply)
    found = ctl(*argv, "--timeout", "0.2")
    assert found.code == exits.UNREACHABLE
    assert found.err.startswith("Error: the daemon did not answer within 0.2s.\n")


def test_an_order_without_an_answer_may_have_taken_effect(ctl: Ctl, daemon: FakeDaemon) -> None:
    for reply in (
        Reply(delay=20),
        Reply(raw=b""),
        Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    ):
        daemon.script[routes.SPAWN] = reply
        found = ctl("spawn", "tony", "do it", "--timeout", "0.3")
        assert found.code == exits.NOT_CONFIRMED
        assert "may have taken effect" in found.err


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_code_has_its_exit_code(ctl: Ctl, daemon: FakeDaemon, code: str) -> None:
    daemon.script |= dict.fromkeys((routes.LEDGER, routes.STATUS), refused(code, "It is \x1b[1mso."))
    for argv in (["sessions"], ["status"], ["agents", "--json"]):
        found = ctl(*argv)
        assert found.code == ERRORS[code].exit
        assert found.out == ""
        assert found.err.startswith("Error: It is \\x1b[1mso.\n")


def test_a_refusal_lists_its_details() -> None:
    details = [{"field": "prompt", "message": "a session needs a prompt"}, {"field": "x"}, 5]
    body = {"error": {"code": "VALIDATION_ERROR", "message": "No.", "details": details}}
    failure = trouble.refusal(Answer(400, {}, json.dumps(body).encode()))
    assert failure.lines == ("Error: No.", "  prompt  a session needs a prompt", "  x")


def test_who_may_not_write_learns_the_group() -> None:
    body = {"error": {"code": "NOT_AUTHORIZED", "message": "You may read only.", "details": []}}
    failure = trouble.refusal(Answer(403, {}, json.dumps(body).encode()))
    assert failure.exit == exits.NOT_PERMITTED
    assert "usermod -aG ambient-admin" in failure.lines[-1]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 5}'])
def test_a_refusal_without_an_envelope_is_still_a_sentence(body: bytes) -> None:
    failure = trouble.refusal(Answer(502, {}, body))
    assert failure.exit == exits.FAILED
    assert "status 502" in failure.lines[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["sessions", "show", ""],
        ["sessions", "events", ""],
        ["alerts", "show", ""],
        ["alerts", "ack", ""],
        ["alerts", "mute", ""],
        ["alerts", "rules", "remove", "", "--yes"],
    ],
)
def test_an_empty_id_names_nothing_and_asks_nobody(ctl: Ctl, daemon: FakeDaemon, argv: list[str]) -> None:
    found = ctl(*argv)
    assert (found.code, found.out) == (5, "")
    assert "the ID is empty" in found.err
    assert daemon.seen == []
