import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ambientctl import cli, status
from ambientctl.main import main
from ambientd.wire import routes
from tests.ctl.conftest import ROOT, Ctl, command, outside, read_terminal, run_outside
from tests.fakes.daemon_http import HEALTH_HEADER, FakeDaemon, Reply, refused

# What the hot verbs may load beyond a bare interpreter: themselves and two C modules.
HOT_MODULES = {
    "ambientctl",
    "ambientctl.main",
    "ambientctl.status",
    "ambientctl.term",
    "ambientctl.transport",
    "ambientd",
    "ambientd.wire",
    "ambientd.wire.exits",
    "ambientd.wire.places",
    "_socket",
    "errno",
}
HOT_ARGUMENTS = [
    ["status"],
    ["status", "--json"],
    ["-o", "jsonl", "status"],
    ["status", "--check"],
    ["status", "--short", "--color", "always"],
    ["status", "-o", "wide", "--timeout=5s"],
    ["version"],
    ["--version"],
]


def test_status_prints_what_the_daemon_rendered(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.screen = "● edge-07\n  pulse ✓\n"
    assert ctl("status") == (0, daemon.screen, "")


def test_the_daemon_is_told_how_the_reader_sees(
    ctl: Ctl, daemon: FakeDaemon, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("COLUMNS", "57")
    environment.setenv("FORCE_COLOR", "1")
    ctl("status", "--short")
    assert daemon.seen[-1].query == {"width": "57", "color": "1", "ascii": "0", "short": "1"}
    environment.setenv("LC_ALL", "de_DE.ISO-8859-1")
    environment.delenv("COLUMNS")
    ctl("status", "--color", "never")
    assert daemon.seen[-1].query == {"width": "80", "color": "0", "ascii": "1", "short": "0"}


@pytest.mark.parametrize(
    ("changes", "wish", "colored"),
    [
        ({}, "auto", False),
        ({"FORCE_COLOR": "1"}, "auto", True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, "auto", False),
        ({"NO_COLOR": "1"}, "always", True),
        ({"FORCE_COLOR": "0"}, "auto", False),
        ({"NO_COLOR": ""}, "auto", False),
    ],
)
def test_colours_follow_the_option_then_the_environment(
    ctl: Ctl, environment: pytest.MonkeyPatch, changes: dict[str, str], wish: str, colored: bool
) -> None:
    for name, value in changes.items():
        environment.setenv(name, value)
    assert ("\x1b[" in ctl("status", "--color", wish).out) is colored


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({"LC_ALL": "", "LANG": "C.UTF-8"}, False),
        ({"LC_ALL": "", "LANG": "C"}, True),
        ({"LC_ALL": ""}, True),
        ({"LC_ALL": "C"}, True),
        ({"LC_ALL": "", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LC_ALL": "", "LANG": "en_US.ISO-8859-1"}, True),
    ],
)
def test_glyphs_are_plain_where_the_locale_is_not_utf_8(
    daemon: FakeDaemon, changes: dict[str, str], plain: bool
) -> None:
    found = run_outside(daemon.socket_path, "status", changes=changes)
    assert found.code == 0
    assert found.out.startswith("*" if plain else "●")
    assert found.out.isascii() is plain


def test_text_that_is_not_ascii_never_breaks_an_ascii_locale(daemon: FakeDaemon) -> None:
    daemon.screen = "naïve\n"
    assert run_outside(daemon.socket_path, "status", changes={"LC_ALL": "C"}) == (0, "na?ve\n", "")


def test_json_is_the_daemons_document_and_nothing_else(ctl: Ctl) -> None:
    found = ctl("status", "--json")
    document = json.loads(found.out)
    assert (found.code, found.err) == (0, "")
    assert document["schema"] == routes.SCHEMA_STATUS
    assert found.out.count("\n") == 1


def test_tsv_has_dotted_keys(ctl: Ctl) -> None:
    lines = ctl("status", "-o", "tsv").out.splitlines()
    assert lines[0] == "key\tvalue"
    assert "node.name\tedge-07" in lines


@pytest.mark.parametrize(("health", "code"), [("ok", 0), ("degraded", 10), ("failing", 11), ("odd", 1)])
def test_check_turns_health_into_the_exit_code_and_changes_no_output(
    ctl: Ctl, daemon: FakeDaemon, health: str, code: int
) -> None:
    daemon.health = health
    plain, checked = ctl("status"), ctl("status", "--check")
    assert (plain.code, checked.code) == (0, code)
    assert plain.out == checked.out


def test_check_says_failing_when_the_node_is_not_ready(ctl: Ctl, daemon: FakeDaemon) -> None:
    reply = refused("NOT_READY", "migration 2 failed: no such table")
    daemon.script[routes.STATUS] = reply
    assert ctl("status") == (74, "", "Error: migration 2 failed: no such table\n")
    daemon.script[routes.STATUS] = reply._replace(headers=((HEALTH_HEADER, "failing"),))
    assert ctl("status", "--check").code == 11


@pytest.mark.parametrize("argv", HOT_ARGUMENTS)
def test_the_short_way_and_click_print_the_same(
    ctl: Ctl, daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes], argv: list[str]
) -> None:
    daemon.health = "degraded"
    assert status.recognise(argv) is not None
    hot = ctl(*argv)
    code = cli.run(argv)
    cold = capfdbinary.readouterr()
    if "version" in argv[-1]:
        assert hot.out == "ambientctl " + hot.out.split()[1] + "\n"
    assert (code, cold.out.decode(), cold.err.decode()) == hot
    asked = [(seen.method, seen.path, seen.query, seen.headers) for seen in daemon.seen]
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]


@pytest.mark.parametrize("argv", HOT_ARGUMENTS)
def test_hot_verbs_load_nothing_but_themselves(daemon: FakeDaemon, argv: list[str]) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from ambientctl.main import main\n"
        f"main({argv!r})\n"
        "print('|'.join(sorted(set(sys.modules) - before)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        timeout=60,
        env=outside(daemon.socket_path),
    )
    loaded = set(done.stderr.decode().strip().split("|"))
    assert "ambientctl.main" in loaded
    assert loaded <= HOT_MODULES


@pytest.mark.parametrize(
    "argv",
    [
        ["status", "--help"],
        ["status", "--watch"],
        ["status", "-o", "tsv"],
        ["status", "-o"],
        ["status", "-o=json"],
        ["status", "--timeout", "nan"],
        ["status", "--timeout", "0"],
        ["status", "--timeout", "-1"],
        ["status", "--color", "maybe"],
        ["status", "status"],
        ["version", "--check"],
        ["sessions"],
        ["--json"],
        [],
    ],
)
def test_everything_else_is_left_to_click(argv: list[str]) -> None:
    assert status.recognise(argv) is None


def test_global_options_are_understood_before_and_after_the_verb(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("--json", "status").out == ctl("status", "--json").out
    assert ctl("--json", "agents").out[:30] == ctl("agents", "--json").out[:30]
    assert ctl("--socket", "/nowhere", "agents").code == 3
    assert ctl("agents", "--socket=/nowhere").code == 3


def test_version_needs_no_daemon(environment: pytest.MonkeyPatch) -> None:
    found = run_outside("/nowhere", "version", "--json")
    assert json.loads(found.out)["schema"] == routes.SCHEMA_VERSION
    assert json.loads(found.out)["generatedAt"].endswith("Z")
    assert run_outside("/nowhere", "sessions", "--version").out.startswith("ambientctl ")


def test_watch_repeats_plain_blocks_where_no_terminal_is_and_ends_on_ctrl_c(daemon: FakeDaemon) -> None:
    daemon.screen = "one\n"
    with subprocess.Popen(
        command("status", "--watch", "0.2"), stdout=subprocess.PIPE, env=outside(daemon.socket_path)
    ) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(4)] == [b"one\n", b"\n", b"one\n", b"\n"]
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130


def test_watch_gives_the_terminal_back_as_it_was(daemon: FakeDaemon) -> None:
    daemon.screen = "the screen\n" * 60
    controller, terminal = os.openpty()
    with subprocess.Popen(
        command("status", "--watch", "0.2"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=outside(daemon.socket_path, TERM="xterm"),
        start_new_session=True,
    ) as child:
        os.close(terminal)
        shown = b""
        while shown.count(b"\x1b[H") < 2:
            shown += read_terminal(controller, once=True)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 143
        shown += read_terminal(controller)
    os.close(controller)
    assert shown.startswith(b"\x1b[?1049h")
    assert shown.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"more lines)" in shown


def test_watch_fails_at_once_when_nobody_is_there(ctl: Ctl) -> None:
    assert ctl("status", "--watch", "--socket", "/nowhere").code == 3


def test_watch_wants_a_time(ctl: Ctl) -> None:
    found = ctl("status", "--watch", "soon")
    assert found.code == 2
    assert "'soon' is no time" in found.err


def test_a_reader_who_leaves_is_no_error(daemon: FakeDaemon) -> None:
    daemon.screen = "x" * 200_000 + "\n"
    with subprocess.Popen(
        command("status"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=outside(daemon.socket_path)
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(20) == 0


def test_a_full_disk_behind_the_output_is_an_error(daemon: FakeDaemon) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("status"),
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            env=outside(daemon.socket_path),
        )
    assert done.returncode == 1
    assert done.stderr == b"Error: the output could not be written: No space left on device\n"


def test_no_standard_output_at_all_is_survived(daemon: FakeDaemon) -> None:
    for verb in ("status", "agents"):
        shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command(verb)]
        done = subprocess.run(
            shell, check=False, capture_output=True, timeout=60, env=outside(daemon.socket_path)
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_main_returns_the_code_when_it_is_given_arguments(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert main(["status", "--socket", daemon.socket_path]) == 0


def test_chunked_answers_are_understood(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.STATUS] = Reply(200, b"a screen\n" * 9000, chunked=True)
    assert ctl("status").out == "a screen\n" * 9000
