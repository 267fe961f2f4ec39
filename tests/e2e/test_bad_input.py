"""Wrong configurations, places that cannot be used, and signals at the wrong moment, from outside."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.harness import Node, processes_of
from tests.e2e.sessionkit import sh, spawn, wait_ended, wait_said

MakeNode = Callable[..., Node]
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
# Everything is imported before the rights are given up: the interpreter may lie where nobody may look.
AS_NOBODY = f"""
import os, sys
import ambientd.main.run
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
from ambientd.main import main
sys.exit(main(["run"]))
"""


@pytest.fixture
def idle(failed: Callable[[], bool]) -> Iterator[Callable[..., Node]]:
    """Makes nodes that are not started; ends what became of them."""
    made: list[Node] = []

    def make(config: object = None, **options: object) -> Node:
        node = Node(config, **options)  # type: ignore[arg-type]
        made.append(node)
        return node

    yield make
    for node in made:
        node.close(keep=failed())


def ends_with(node: Node, code: int) -> str:
    """Starts a node that cannot run; what it said."""
    node.start(ready=False)
    assert node.wait_ended() == code, node.log
    assert "Traceback" not in node.log
    return node.log


def as_nobody(node: Node) -> tuple[int, str]:
    """Starts it as a user without rights; exit code and what it said."""
    answer = subprocess.run(
        [sys.executable, "-c", AS_NOBODY],
        env=node.environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in answer.stderr, answer.stderr
    return answer.returncode, answer.stderr


# --- the configuration


def test_every_problem_of_a_configuration_is_named_at_once_and_the_exit_is_78(idle: MakeNode) -> None:
    node = idle(
        """
        [dispatcher]
        intervall = "5s"
        [sessions]
        max_concurrent = 0
        grace = "soon"
        [agents.one]
        command = "not a list"
        [nonsense]
        x = 1
        """
    )
    said = ends_with(node, 78)
    for word in ("dispatcher.intervall", "interval", "sessions.max_concurrent", "sessions.grace", "nonsense"):
        assert word in said, said
    assert "agents.one.command" in said
    assert not node.socket.exists()
    checked = node.ambientd("check-config")
    assert checked.returncode == 78
    assert "sessions.grace" in checked.stdout + checked.stderr


@pytest.mark.parametrize("text", ["interval = = 5\n", "x = '\x00'\n", "\ufeff["])
def test_what_is_no_toml_is_refused_with_the_place(idle: MakeNode, text: str) -> None:
    said = ends_with(idle(text), 78)
    assert "ambient.toml" in said


def test_a_configuration_that_cannot_be_read_is_78_and_named(idle: MakeNode) -> None:
    for spoil in ("missing", "folder", "not utf-8"):
        node = idle()
        if spoil != "not utf-8":
            node.config_file.unlink()
        if spoil == "folder":
            node.config_file.mkdir()
        if spoil == "not utf-8":
            node.config_file.write_bytes(b"[node]\nname = '\xff'\n")
        said = ends_with(node, 78)
        assert "ambient.toml" in said


# --- the state directory


def test_a_state_directory_of_somebody_else_is_refused(idle: MakeNode) -> None:
    node = idle()
    if IS_ROOT:
        node.state.mkdir()
        os.chown(node.state, NOBODY, NOBODY)
    else:
        node.environment["AMBIENT_STATE_DIR"] = "/usr"
    assert "belongs to user" in ends_with(node, 74)


def test_a_state_directory_that_may_not_be_read_or_made_is_refused(idle: MakeNode) -> None:
    node = idle()
    node.root.chmod(0o755)
    node.config_file.chmod(0o644)
    node.state.mkdir(mode=0o000)
    if IS_ROOT:
        os.chown(node.state, NOBODY, NOBODY)
    code, said = as_nobody(node)
    assert (code, "readable" in said) == (74, True), said
    node.environment["AMBIENT_STATE_DIR"] = "/proc/nowhere/state"
    code, said = as_nobody(node)
    assert (code, "cannot be made" in said) == (74, True), said


def test_a_state_directory_that_is_a_file_or_open_to_all_is_refused(idle: MakeNode) -> None:
    node = idle()
    node.state.write_text("mine")
    assert "not a directory" in ends_with(node, 74)
    assert node.state.read_text() == "mine"
    open_to_all = idle()
    open_to_all.state.mkdir()
    open_to_all.state.chmod(0o777)
    assert "every user" in ends_with(open_to_all, 74)


def test_without_a_home_the_state_has_to_be_named(idle: MakeNode) -> None:
    node = idle()
    del node.environment["HOME"]
    node.start()
    assert node.status()["health"] == "ok"
    node.stop()
    for name in ("AMBIENT_STATE_DIR", "AMBIENT_SOCKET"):
        del node.environment[name]
    node.root.chmod(0o755)
    node.config_file.chmod(0o644)
    code, said = as_nobody(node)
    assert (code, "/nonexistent" in said) == (74, True), said


# --- two of them


def test_a_second_daemon_on_the_same_state_exits_75_and_names_the_first(new_node: MakeNode) -> None:
    node = new_node()
    second = node.ambientd("run", "--socket", str(node.root / "other"))
    assert second.returncode == 75, second
    assert f"process {node.pid}" in second.stderr
    assert not (node.root / "other").exists()
    assert node.status()["health"] == "ok"


def test_of_two_that_race_for_a_fresh_state_one_wins_and_one_exits_75(idle: MakeNode) -> None:
    for _ in range(3):
        node, other = idle(), idle()
        other.environment |= {"AMBIENT_STATE_DIR": str(node.state)}
        node.start(ready=False)
        other.start(ready=False)
        deadline = time.monotonic() + 30
        while node.is_alive() and other.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        winner, loser = (node, other) if node.is_alive() else (other, node)
        assert loser.wait_ended() == 75, loser.log
        assert str(winner.pid) in loser.log
        winner.wait_for(winner.is_ready, 30)
        assert winner.stop().code == 0


def test_a_socket_that_a_live_daemon_holds_is_left_to_it(new_node: MakeNode, idle: MakeNode) -> None:
    node, other = new_node(), idle()
    other.environment["AMBIENT_SOCKET"] = str(node.socket)
    assert "another daemon answers" in ends_with(other, 75)
    assert node.is_ready()
    assert node.ctl("status").returncode == 0


def test_a_socket_path_that_is_too_long_or_taken_by_a_file_is_refused(idle: MakeNode) -> None:
    node = idle()
    node.environment["AMBIENT_SOCKET"] = str(node.root / ("x" * 120))
    assert "107" in ends_with(node, 78)
    node.environment["AMBIENT_SOCKET"] = str(node.socket)
    node.socket.write_text("precious")
    ends_with(node, 78)
    assert node.socket.read_text() == "precious"
    node.socket.unlink()
    node.socket.mkdir()
    ends_with(node, 78)
    node.socket.rmdir()
    node.start()  # nothing that failed is in the way


def test_a_stale_socket_is_replaced(new_node: MakeNode) -> None:
    node = new_node()
    node.kill9()
    assert stat.S_ISSOCK(node.socket.lstat().st_mode)
    node.start()
    assert node.ctl("status").returncode == 0


@pytest.mark.parametrize("umask", ["000", "777"])
def test_nobody_else_may_open_the_socket_or_read_the_state_whatever_the_umask(
    new_node: MakeNode, umask: str
) -> None:
    node = new_node(wrapper=["/bin/sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    allowed = 0o660 if IS_ROOT else 0o600
    assert stat.S_IMODE(node.socket.lstat().st_mode) == allowed
    node.pass_cycles(1)
    assert stat.S_IMODE(node.state.stat().st_mode) == 0o700
    for name in ("ambient.db", "heartbeat.json", "lock"):
        assert stat.S_IMODE((node.state / name).stat().st_mode) & 0o077 == 0, name
    assert node.stop().code == 0


def test_closed_standard_streams_are_no_trouble_and_no_log_line_enters_the_database(
    new_node: MakeNode,
) -> None:
    node = new_node(
        {"agents": {"echo": {"command": ["/bin/cat"]}}, "log": {"level": "debug"}},
        wrapper=["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"],
    )
    session = spawn(node, "echo", "hello")
    assert wait_ended(node, session)["status"] == "success"
    assert node.stop().code == 0
    assert (node.state / "ambient.db").read_bytes()[:16] == b"SQLite format 3\0"
    assert b'"event"' not in (node.state / "ambient.db").read_bytes()[:4096]
    node.wrapper = []
    node.start()
    assert "degraded" not in node.status()["ledger"]


def test_nonsense_from_the_service_manager_is_ignored(new_node: MakeNode) -> None:
    node = new_node(
        environment={
            "LISTEN_FDS": "999999999999",
            "LISTEN_PID": "1",
            "NOTIFY_SOCKET": "/nowhere/notify",
            "WATCHDOG_USEC": "x",
            "INVOCATION_ID": "0" * 32,
            "RUNTIME_DIRECTORY": ":",
            "CREDENTIALS_DIRECTORY": "/nowhere",
        }
    )
    assert node.status()["health"] == "ok"


# --- signals


def test_a_bad_file_at_a_reload_keeps_what_is_in_force(new_node: MakeNode) -> None:
    node = new_node({"agents": {"old": {"command": ["/bin/cat"]}}})
    node.configure("[agents.old]\ncommand = 5\n[nonsense]\n")
    node.send_signal(signal.SIGHUP)
    node.wait_for(lambda: node.log_events("config.refused"))
    told = json.dumps(node.log_events("config.refused"))
    assert "agents.old.command" in told
    assert "nonsense" in told
    assert wait_ended(node, spawn(node, "old"))["status"] == "success"


def test_a_new_agent_can_be_used_after_a_reload_and_a_removed_one_cannot(new_node: MakeNode) -> None:
    node = new_node({"agents": {"old": sh("echo here; exec sleep 600")}})
    running = spawn(node, "old")
    wait_said(node, running, "here")
    node.configure({"agents": {"new": {"command": ["/bin/cat"]}}, "dispatcher": {"interval": "5s"}})
    node.send_signal(signal.SIGHUP)
    node.wait_for(lambda: node.log_events("config.reloaded"))
    (reloaded,) = node.log_events("config.reloaded")
    assert (reloaded["applied"], reloaded["needs_restart"]) == (["agents"], ["dispatcher"])
    assert wait_ended(node, spawn(node, "new"))["status"] == "success"
    refused = node.post("/api/control/spawn", {"agentId": "old", "prompt": "x"})
    assert (refused.status, refused.json["error"]["code"]) == (404, "NOT_FOUND")
    assert node.get(f"/api/v3/ledger/{running}").json["ledger"]["status"] == "running"


def test_a_reload_while_the_node_starts_does_not_end_it(idle: MakeNode) -> None:
    node = idle()
    node.start(ready=False)
    node.wait_for((node.state / "lock").exists, 30)
    for _ in range(20):
        node.send_signal(signal.SIGHUP)
        time.sleep(0.005)
    node.wait_for(node.is_ready, 30)
    node.wait_for(lambda: node.log_events("config.reloaded"))
    assert node.stop().code == 0


def test_a_stop_at_any_moment_of_the_start_leaves_nothing_in_the_way(idle: MakeNode) -> None:
    node = idle()
    for turn in range(10):
        node.start(ready=False)
        time.sleep(turn * 0.06)
        stopped = node.stop()
        assert stopped.code in (0, -signal.SIGTERM), node.log
        assert stopped.seconds < 10
        assert "Traceback" not in node.log
    deadline = time.monotonic() + 10
    while processes_of(node.root):
        assert time.monotonic() < deadline, "something was left behind"
        time.sleep(0.05)
    node.start()
    assert node.status()["health"] == "ok"


def test_an_interrupt_is_an_orderly_stop_and_is_recorded(new_node: MakeNode) -> None:
    node = new_node()
    node.pass_cycles(1)
    assert node.stop(signal.SIGINT).code == 0
    record = json.loads((node.state / "stopped.json").read_text())
    assert (record["exit"], record["reason"]) == (0, "SIGINT")
    assert node.heartbeat()["status"] == "stopped"
    answer = node.ctl("status")
    assert answer.returncode == 3
    assert not node.socket.exists()


def test_what_the_service_manager_hears_of_a_node_that_cannot_get_ready(idle: MakeNode) -> None:
    node = idle()
    (node.state / "ambient.db").mkdir(parents=True)
    node.state.chmod(0o700)
    path = node.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(path))
        inbox.settimeout(30)
        node.environment["NOTIFY_SOCKET"] = str(path)
        node.start(ready=False)
        heard = b""
        while b"READY=1" not in heard:
            heard = inbox.recv(4096)
    assert b"STATUS=not ready: " in heard
    assert b"not a regular file" in heard
    assert node.is_alive()
