import json
import os
import signal
import subprocess

import pytest

from ambientd.wire import routes
from tests.ctl.conftest import Ctl, Outcome, command, outside, read_terminal
from tests.fakes.daemon_http import FakeDaemon, Reply, refused, serving

FIRST = "ses_" + "0" * 26


def _order(daemon: FakeDaemon) -> dict[str, str]:
    found = json.loads(daemon.seen[-1].body)
    assert isinstance(found, dict)
    return found


def test_the_id_alone_is_printed_where_no_terminal_is(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("spawn", "tony", "do it") == (0, FIRST + "\n", "")
    assert _order(daemon) == {"agentId": "tony", "prompt": "do it"}


def test_json_is_a_document(ctl: Ctl) -> None:
    document = json.loads(ctl("spawn", "tony", "do it", "--json").out)
    assert document.pop("generatedAt").endswith("Z")
    assert document == {"schema": routes.SCHEMA_SPAWN, "sessionId": FIRST, "status": "queued", "auditId": 7}


def test_every_word_reaches_the_daemon(ctl: Ctl, daemon: FakeDaemon) -> None:
    ctl("spawn", "tony", "do it", "--model", "m", "--title", "t", "--category", "c")
    assert _order(daemon) == {
        "agentId": "tony",
        "prompt": "do it",
        "model": "m",
        "title": "t",
        "category": "c",
    }


@pytest.mark.parametrize("argv", [["spawn", "tony"], ["spawn", "tony", "-"]])
def test_the_prompt_may_come_on_standard_input(ctl: Ctl, daemon: FakeDaemon, argv: list[str]) -> None:
    assert ctl(*argv, stdin="zwei\nZeilen ü\n".encode()).code == 0
    assert _order(daemon)["prompt"] == "zwei\nZeilen ü\n"


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "The prompt is empty. Say what to do: ambientctl spawn tony"),
        (b" \n", "The prompt is empty."),
        (b"ab\xff", "The prompt is not UTF-8 (byte 3)."),
        (b"x" * (routes.PROMPT_MAX_BYTES + 1), "The prompt is longer than 512 KiB."),
    ],
)
def test_bad_prompts_are_usage_errors(ctl: Ctl, daemon: FakeDaemon, stdin: bytes, words: str) -> None:
    found = ctl("spawn", "tony", stdin=stdin)
    assert (found.code, found.out, daemon.seen) == (2, "", [])
    assert words in found.err


def test_the_largest_prompt_goes_through(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("spawn", "tony", stdin=b"x" * routes.PROMPT_MAX_BYTES).code == 0
    assert len(_order(daemon)["prompt"]) == routes.PROMPT_MAX_BYTES


def test_an_unknown_agent_is_not_found(ctl: Ctl) -> None:
    assert ctl("spawn", "nobody", "x") == (5, "", "Error: no agent is called 'nobody'\n")


def test_who_may_not_write_is_not_permitted(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.SPAWN] = refused("NOT_AUTHORIZED", "this user may only read")
    assert ctl("spawn", "tony", "x").code == 4


def _on_a_terminal(daemon: FakeDaemon, *argv: str) -> Outcome:
    controller, terminal = os.openpty()
    with subprocess.Popen(
        command(*argv),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=outside(daemon.socket_path, TERM="xterm"),
        start_new_session=True,
    ) as child:
        os.close(terminal)
        code = child.wait(20)
    shown = read_terminal(controller).decode()
    os.close(controller)
    return Outcome(code, shown.replace("\r\n", "\n"), "")


def test_a_person_learns_what_to_do_next(daemon: FakeDaemon) -> None:
    found = _on_a_terminal(daemon, "spawn", "tony", "do it")
    assert found.out == (
        f"✓ Session {FIRST} is queued.\n"
        "  watch it   ambientctl sessions events 00000000 -f\n"
        "  end it     ambientctl kill 00000000\n"
    )


def test_a_person_without_a_prompt_is_taught(daemon: FakeDaemon) -> None:
    found = _on_a_terminal(daemon, "spawn", "tony")
    assert found.code == 2
    assert "A session needs a prompt. Say what to do: ambientctl spawn tony" in found.out


def _follow(daemon: FakeDaemon, *argv: str) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        command("spawn", "tony", "do it", "--follow", *argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=outside(daemon.socket_path),
    )
    with daemon.changed:
        assert daemon.changed.wait_for(lambda: bool(daemon.sessions), 20)
    return child


def _end(child: "subprocess.Popen[bytes]") -> Outcome:
    out, err = child.communicate(timeout=30)
    return Outcome(child.returncode, out.decode(), err.decode())


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("failed", 1), ("killed", 1), ("cancelled", 1)])
def test_follow_shows_the_agents_output_and_exits_as_it_went(
    daemon: FakeDaemon, status: str, code: int
) -> None:
    child = _follow(daemon)
    daemon.say(FIRST, "message", {"stream": "out", "text": "hello \x1b[31mred"})
    daemon.say(FIRST, "message", {"stream": "out", "text": "a long", "partial": True})
    daemon.say(FIRST, "message", {"stream": "out", "text": " line"})
    daemon.say(FIRST, "message", {"stream": "err", "text": "careful\ttab"})
    daemon.say(FIRST, "message", {"type": "message", "text": "two\nlines"})
    daemon.end(FIRST, status)
    found = _end(child)
    assert found.code == code
    assert found.out == "hello \\x1b[31mred\na long line\ntwo\nlines\n"
    assert found.err == f"session {FIRST}\ncareful\ttab\nsession {status}\n"


def test_follow_in_json_is_the_document_and_then_an_event_a_line(daemon: FakeDaemon) -> None:
    child = _follow(daemon, "--json")
    daemon.say(FIRST, "message", {"stream": "out", "text": "\x1b"})
    daemon.end(FIRST, "success")
    lines = [json.loads(line) for line in _end(child).out.splitlines()]
    assert lines[0]["schema"] == routes.SCHEMA_SPAWN
    assert [line["seq"] for line in lines[1:]] == [1, 2]
    assert lines[1]["payload"]["text"] == "\x1b"


def test_ctrl_c_stops_following_and_not_the_session(daemon: FakeDaemon) -> None:
    child = _follow(daemon)
    daemon.say(FIRST, "message", {"stream": "out", "text": "begun"})
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    child.send_signal(signal.SIGINT)
    found = _end(child)
    assert found.code == 130
    assert "The session goes on." in found.err
    assert "ambientctl kill 00000000" in found.err
    assert daemon.sessions[FIRST].status == "queued"


def test_following_outlives_a_restart_of_the_daemon() -> None:
    with serving() as daemon:
        child = _follow(daemon)
        daemon.say(FIRST, "message", {"stream": "out", "text": "before"})
        assert child.stdout is not None
        assert child.stdout.readline() == b"before\n"
        sessions, events = daemon.sessions, daemon.events
        path = daemon.socket_path
        daemon.stop()
        assert child.stderr is not None
        assert child.stderr.readline() == f"session {FIRST}\n".encode()
        assert b"The daemon is away; the session goes on" in child.stderr.readline()
        with FakeDaemon(path) as again:
            again.sessions, again.events = sessions, events
            again.say(FIRST, "message", {"stream": "out", "text": "after"})
            again.end(FIRST, "success")
            found = _end(child)
        assert (found.code, found.out) == (0, "after\n")


def test_a_server_that_does_not_hold_the_poll_is_not_overrun(ctl: Ctl, daemon: FakeDaemon) -> None:
    empty = Reply(200, b'{"sessionId":"%s","status":"running","ended":false,"events":[]}' % FIRST.encode())
    last = Reply(200, b'{"sessionId":"%s","status":"success","ended":true,"events":[]}' % FIRST.encode())
    daemon.script[f"{routes.LEDGER}/{FIRST}/events"] = [empty, empty, empty, last]
    assert ctl("spawn", "tony", "x", "--follow").code == 0
    assert len(daemon.seen) == 5


def test_events_that_come_again_end_following(ctl: Ctl, daemon: FakeDaemon) -> None:
    again = b'{"sessionId":"%s","status":"running","ended":false,"events":[{"seq":1}]}' % FIRST.encode()
    daemon.script[f"{routes.LEDGER}/{FIRST}/events"] = Reply(200, again)
    found = ctl("spawn", "tony", "x", "--follow")
    assert found.code == 1
    assert "the same events come again" in found.err
