"""What the first page of the README promises, from outside: agents run, are watched, ended, outlive us."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.harness import Node
from tests.e2e.sessionkit import (
    PYTHON,
    SAMPLE,
    TERMINAL,
    assert_truthful,
    detail,
    events,
    kill,
    last_step,
    members,
    row,
    said,
    sh,
    shim_of,
    spawn,
    steps,
    wait_ended,
    wait_nobody,
    wait_said,
    wait_status,
)

MakeNode = Callable[..., Node]
SECRET = "hunter2-marker-5f3a"
DAEMONISE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0); os.close(1); os.close(2)
        time.sleep(600)
    os._exit(0)
print("off it goes", flush=True)
"""


def agents(root: Path) -> dict[str, object]:
    """One agent of each kind. `root` holds a file that is not executable, and secrets."""
    (root / "not-executable").write_text("#!/bin/sh\n")
    secrets = root / "secrets.env"
    secrets.write_text(f"SECRET_OF_FILE={SECRET}\n")
    secrets.chmod(0o600)
    return {
        "sample": {"command": [*SAMPLE, "work"], "output": "jsonl", "model": "sample/quick-1"},
        "family": {"command": [*SAMPLE, "family"], "output": "jsonl", "max_concurrent": 3},
        "quick": sh("cat; echo; echo careful >&2", max_concurrent=8),
        "short": sh("sleep 0.1", max_concurrent=2),
        "ticks": sh("for n in 1 2 3 4 5 6 7 8; do echo tick $n; sleep 0.2; done", max_concurrent=8),
        "waits": sh("echo here; exec sleep 600", max_concurrent=8),
        "status3": sh("exit 3"),
        "missing": {"command": ["/nonexistent/agent"]},
        "notexec": {"command": [str(root / "not-executable")]},
        "noworkdir": sh("pwd", workdir=str(root / "nowhere")),
        "floods": sh("yes 0123456789abcdef | head -c 1000000000"),
        "forever": sh("exec sleep 600", timeout="700ms"),
        "deaf": sh("trap '' TERM INT HUP; echo here; while :; do sleep 1; done"),
        "daemonises": {"command": [PYTHON, "-I", "-c", DAEMONISE]},
        "argument": {"command": ["/bin/echo", "{prompt}"]},
        "environment": sh("env; cat /proc/self/limits", environment_file=str(secrets)),
        "badsecrets": sh("env", environment_file=str(root / "not-executable")),
        "usage": sh(
            """for n in 1 2 3 4 5 6; do
                 echo '{"type":"usage","prompt_tokens":10,"completion_tokens":1,"cost_usd":0.5}'; sleep 0.2
               done""",
            output="jsonl",
        ),
    }


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """One node for all that does not disturb it."""
    made = Node(environment={"PLANTED_SECRET": SECRET, "MY_API_KEY": SECRET})
    made.configure(
        {
            "agents": agents(made.root),
            "sessions": {"grace": "400ms", "output_limit": "256KiB", "max_concurrent": 32},
        }
    )
    with made:
        yield made


# --- the journey


def test_the_journey_of_the_first_page(new_node: MakeNode) -> None:
    """Spawn, follow, list, kill a family, kill -9 the daemon under a third, start again, and all is true."""
    node = new_node(
        {
            "agents": {
                "sample": {"command": [*SAMPLE, "work"], "output": "jsonl", "max_concurrent": 3},
                "family": {"command": [*SAMPLE, "family"], "output": "jsonl"},
            },
            "sessions": {"grace": "500ms"},
        }
    )
    family, third = spawn(node, "family"), spawn(node, "sample", "survive this")
    with following(node, "sample", "Summarise the day") as follower:
        wait_said(node, third, "step 1 of 5")
        listed = json.loads(node.ctl("sessions", "--json").stdout)["items"]
        assert {item["sessionId"]: item["status"] for item in listed}[family] == "running"
        first = next(item["sessionId"] for item in listed if item["sessionId"] not in (family, third))

        assert len(members(family)) == 2  # the agent, and a child in a session of its own, deaf to TERM
        ended = node.ctl("kill", family[-8:], "--yes", "--json")
        assert ended.returncode == 0, ended
        assert json.loads(ended.stdout)["status"] == "killed"
        assert members(family) == set()
        assert last_step(node, family)["proof"] is True

        node.kill9()
        assert len(members(third)) == 1
        node.start()
        assert row(node, third)["status"] == "running"
        finished = wait_ended(node, third)
        told, _ = follower.communicate(timeout=30)
    assert (finished["status"], finished["artifactCount"]) == ("success", 1)
    assert (follower.returncode, row(node, first)["status"]) == (0, "success")
    assert "Done: day the Summarise" in told
    assert [text for text in said(node, third) if text.startswith("step")] == [
        f"step {number} of 5" for number in range(1, 6)
    ]
    assert detail(node, third)["usage"]["completionTokens"] == 35
    assert steps(node, third) == ["queued", "running", "success"]
    assert_truthful(node, [first, family, third])
    assert node.ctl("status", "--check").returncode == 0
    node.stop()
    checked = node.ambientd("feed", "validate", "--strict", str(node.feed))
    assert checked.returncode == 0, checked


@contextmanager
def following(node: Node, agent: str, prompt: str) -> Iterator["subprocess.Popen[str]"]:
    """`ambientctl spawn --follow` beside everything else."""
    program = "from ambientctl.main import main; main()"
    command = [sys.executable, "-c", program, "spawn", agent, prompt, "--follow"]
    with subprocess.Popen(
        command, env=node.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child
        finally:
            child.kill()


# --- spawning


def test_a_prompt_comes_from_standard_input_and_the_id_is_all_that_is_printed(node: Node) -> None:
    answer = node.ctl("spawn", "quick", "-", input="from a pipe\n")
    assert answer.returncode == 0, answer
    assert re.fullmatch(r"ses_[0-9A-HJKMNP-TV-Z]{26}\n", answer.stdout)
    session = answer.stdout.strip()
    wait_ended(node, session)
    assert said(node, session)[0] == "from a pipe"
    assert sorted(said(node, session)) == ["", "careful", "from a pipe"]


@pytest.mark.parametrize(("agent", "code"), [("quick", 0), ("status3", 1), ("missing", 1)])
def test_following_exits_as_the_session_ends(node: Node, agent: str, code: int) -> None:
    answer = node.ctl("spawn", agent, "hello", "--follow")
    assert answer.returncode == code, answer


def test_a_prompt_that_the_program_would_take_for_an_option_is_refused(node: Node) -> None:
    answer = node.ctl("spawn", "argument", "--", "--version")
    assert answer.returncode == 1, answer
    assert "option" in answer.stderr
    session = node.ctl("spawn", "argument", "harmless; $(touch /tmp/x) `id`").stdout.strip()
    wait_ended(node, session)
    assert said(node, session) == ["harmless; $(touch /tmp/x) `id`"]


def test_an_unknown_agent_is_named_and_exits_5(node: Node) -> None:
    answer = node.ctl("spawn", "nobody", "hello")
    assert answer.returncode == 5, answer
    assert "nobody" in answer.stderr


def test_thirty_at_once_run_two_at_a_time_and_none_is_lost(node: Node) -> None:
    names: list[str] = []
    most = 0

    def many() -> None:
        for _ in range(5):
            names.append(spawn(node, "short"))  # noqa: PERF401 - several threads append

    threads = [threading.Thread(target=many) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not _all_ended(node, names):
        running = node.get("/api/v3/ledger?agent=short&status=running&limit=50").json
        most = max(most, running["total"])
        time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert len(set(names)) == 30
    assert most == 2
    assert_truthful(node, names)
    assert {row(node, name)["status"] for name in names} == {"success"}


def _all_ended(node: Node, names: list[str]) -> bool:
    page = node.get("/api/v3/ledger?agent=short&status=queued,running&limit=50").json
    return len(names) == 30 and not page["rows"]


# --- what agents do wrong


@pytest.mark.parametrize(
    ("agent", "code"),
    [
        ("missing", "not_found"),
        ("notexec", "not_executable"),
        ("noworkdir", "bad_workdir"),
        ("badsecrets", "bad_environment"),
        ("status3", "exit_status"),
    ],
)
def test_what_cannot_run_fails_with_a_reason(node: Node, agent: str, code: str) -> None:
    session = spawn(node, agent)
    found = wait_ended(node, session)
    assert (found["status"], found["errorCode"]) == ("failed", code)
    assert found["errorMessage"]
    assert members(session) == set()


def test_a_gigabyte_of_output_is_read_bounded_and_counted(node: Node) -> None:
    session = spawn(node, "floods")
    found = wait_ended(node, session, seconds=60)
    assert found["status"] == "success"
    last = last_step(node, session)
    kept = sum(len(text) + 1 for text in said(node, session))
    assert kept <= 256 * 1024
    assert last["output_dropped_bytes"] + kept == pytest.approx(1_000_000_000, abs=64)
    folder = node.state / "sessions" / session
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 1024 * 1024


def test_a_session_that_never_ends_is_ended_at_its_time_limit(node: Node) -> None:
    session = spawn(node, "forever")
    found = wait_ended(node, session)
    assert (found["status"], found["errorCode"]) == ("failed", "timeout")
    assert 700 <= found["runtimeMs"] < 10_000
    assert members(session) == set()


def test_one_that_ignores_every_signal_is_killed_after_the_grace(node: Node) -> None:
    session = spawn(node, "deaf")
    wait_said(node, session, "here")
    assert kill(node, session)["signal"] == "sent"
    assert wait_ended(node, session)["status"] == "killed"
    assert last_step(node, session)["signal"] == signal.SIGKILL
    wait_nobody(session)


def test_what_an_agent_leaves_behind_in_the_background_ends_with_it(node: Node) -> None:
    session = spawn(node, "daemonises")
    assert wait_ended(node, session)["status"] == "success"
    assert last_step(node, session)["processes_ended"] >= 1
    assert last_step(node, session)["proof"] is True
    assert members(session) == set()


def test_killing_a_queued_session_is_at_once_and_killing_an_ended_one_is_refused(node: Node) -> None:
    sessions = [spawn(node, "deaf") for _ in range(2)]
    wait_said(node, sessions[0], "here")
    answer = node.ctl("kill", sessions[1], "--yes", "--json")
    assert answer.returncode == 0, answer
    assert json.loads(answer.stdout)["status"] == "cancelled"
    kill(node, sessions[0])
    wait_ended(node, sessions[0])
    assert node.ctl("kill", sessions[0], "--yes").returncode == 6
    assert node.ctl("kill", "nothing-like-it", "--yes").returncode == 5
    assert node.ctl("kill", "ses_", "--yes").returncode == 5  # fits several


# --- secrets


def test_an_agent_sees_its_own_secrets_and_none_of_ours_and_nobody_else_sees_either(node: Node) -> None:
    session = spawn(node, "environment")
    assert wait_ended(node, session)["status"] == "success"
    output = Path(node.state / "sessions" / session / "run-1" / "output").read_text()
    assert f"SECRET_OF_FILE={SECRET}" in output
    assert "PLANTED_SECRET" not in output
    assert "MY_API_KEY" not in output
    assert "AMBIENT_STATE_DIR" not in output
    assert f"AMBIENT_SESSION_ID={session}" in output
    assert re.search(r"Max core file size +0 +0 ", output)
    other = spawn(node, "waits")
    wait_said(node, other, "here")
    for pid in (*members(other), shim_of(other)):
        assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    kill(node, other)
    wait_ended(node, other)


def test_the_marker_secret_is_in_no_log_no_feed_no_status_and_no_command_line(
    new_node: MakeNode, tmp_path: Path
) -> None:
    secrets = tmp_path / "agent.env"
    secrets.write_text(f"TOKEN={SECRET}\n")
    secrets.chmod(0o600)
    quiet = sh('test -n "$TOKEN" || exit 9; sleep 0.5', environment_file=str(secrets))
    node = new_node({"agents": {"quiet": quiet}, "log": {"level": "debug"}}, environment={"X_TOKEN": SECRET})
    session = spawn(node, "quiet")
    wait_status(node, session, "running", *TERMINAL)
    _assert_nowhere(node, session)
    assert wait_ended(node, session)["status"] == "success"
    node.stop()
    for path in node.root.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def _assert_nowhere(node: Node, session: str) -> None:
    texts = [
        node.get("/api/system/status").body,
        node.get(f"/api/v3/ledger/{session}").body,
        node.ctl("status").stdout.encode(),
        node.ctl("sessions", "--wide").stdout.encode(),
        node.log.encode(),
    ]
    for pid in (node.pid, *members(session)):
        try:
            texts.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue  # it has just ended
    assert not [text for text in texts if SECRET.encode() in text]


# --- the daemon goes, the work stays


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_sessions_go_on_when_the_daemon_ends_and_are_found_again(new_node: MakeNode, how: int) -> None:
    node = new_node({"agents": agents_of("ticks", "usage", "waits"), "sessions": {"grace": "400ms"}})
    ticks, usage, waits = spawn(node, "ticks"), spawn(node, "usage"), spawn(node, "waits")
    wait_said(node, ticks, "tick 2")
    wait_said(node, waits, "here")
    if how == signal.SIGTERM:
        assert node.stop().code == 0
        assert node.heartbeat()["status"] == "stopped"
    else:
        node.kill9()
    assert members(waits)
    time.sleep(0.6)  # they speak while nobody listens
    node.start()
    assert row(node, waits)["status"] == "running"
    assert wait_ended(node, ticks)["status"] == "success"
    assert said(node, ticks) == [f"tick {number}" for number in range(1, 9)]
    assert wait_ended(node, usage)["status"] == "success"
    found = detail(node, usage)["usage"]
    assert (found["promptTokens"], found["totalTokens"], found["costUsd"]) == (60, 66, 3.0)
    kill(node, waits)
    assert wait_ended(node, waits)["status"] == "killed"
    assert_truthful(node, [ticks, usage, waits])


def agents_of(*names: str) -> dict[str, object]:
    """Some of the agents that need no files."""
    every = {
        "ticks": sh("for n in 1 2 3 4 5 6 7 8; do echo tick $n; sleep 0.2; done", max_concurrent=40),
        "usage": sh(
            """for n in 1 2 3 4 5 6; do
                 echo '{"type":"usage","prompt_tokens":10,"completion_tokens":1,"cost_usd":0.5}'; sleep 0.2
               done""",
            output="jsonl",
        ),
        "waits": sh("echo here; exec sleep 600", max_concurrent=8),
    }
    return {name: every[name] for name in names}


def test_a_session_that_ended_while_no_daemon_lived_is_closed_with_its_own_end(new_node: MakeNode) -> None:
    node = new_node({"agents": {"brief": sh("sleep 0.4; echo last words; exit 7")}})
    session = spawn(node, "brief")
    wait_status(node, session, "running")
    node.kill9()
    wait_nobody(session)
    # The end is what the shim noted, and it notes it a moment after the agent is gone.
    node.wait_for((node.state / "sessions" / session / "run-1" / "result.json").exists, alive=False)
    back_at = datetime.now(UTC).isoformat()
    node.start()
    found = wait_ended(node, session)
    assert (found["status"], found["errorCode"], found["errorMessage"]) == (
        "failed",
        "exit_status",
        "exited with status 7",
    )
    assert said(node, session) == ["last words"]
    assert found["endedAt"][:23] <= back_at[:23]  # to the millisecond


@pytest.mark.parametrize("daemon_lives", [True, False])
def test_a_session_whose_shim_is_killed_is_closed_as_lost_and_nothing_of_it_is_left(
    new_node: MakeNode, daemon_lives: bool
) -> None:
    node = new_node({"agents": {"family": {"command": [*SAMPLE, "family"], "output": "jsonl"}}})
    session = spawn(node, "family")
    node.wait_for(lambda: len(members(session)) == 2)
    shim = shim_of(session)
    if not daemon_lives:
        node.kill9()
    os.kill(shim, signal.SIGKILL)
    if not daemon_lives:
        node.start()
    found = wait_ended(node, session)
    assert (found["status"], found["errorCode"]) == ("failed", "runner_lost")
    assert last_step(node, session)["proof"] is False
    wait_nobody(session)
    assert_truthful(node, [session])


def test_a_running_session_whose_folder_was_removed_is_closed_as_lost(new_node: MakeNode) -> None:
    node = new_node({"agents": agents_of("waits")})
    session = spawn(node, "waits")
    wait_said(node, session, "here")
    node.kill9()
    os.kill(shim_of(session), signal.SIGKILL)
    wait_nobody(session)
    subprocess.run(["rm", "-rf", str(node.state / "sessions")], check=True)
    node.start()
    found = wait_ended(node, session)
    assert (found["status"], found["errorCode"]) == ("failed", "runner_lost")


def test_killing_the_daemon_over_and_over_loses_no_acknowledged_spawn(new_node: MakeNode) -> None:
    """Twenty times: some spawns, then kill -9 in the middle of whatever it does."""
    node = new_node({"agents": {"tiny": sh("echo one; sleep 0.05; echo two", max_concurrent=4)}}, ready=False)
    accepted: list[str] = []
    for turn in range(20):
        node.wait_for(node.is_ready, 30)
        accepted += [spawn(node, "tiny", f"turn {turn}.{number}") for number in range(2)]
        time.sleep(turn % 5 * 0.02)
        node.kill9()
        node.start(ready=False)
    node.wait_for(node.is_ready, 30)
    for name in accepted:
        assert wait_ended(node, name)["status"] == "success"
        assert said(node, name) == ["one", "two"]
        assert steps(node, name) == ["queued", "running", "success"]
    assert_truthful(node, accepted)
    assert len(accepted) == 40
    node.stop()
    assert node.ambientd("feed", "validate", "--strict", str(node.feed)).returncode == 0


# --- the inbox, from outside


def test_a_file_handed_in_runs_at_once_and_comes_back_with_its_result(node: Node) -> None:
    inbox = node.state / "inbox"
    task = {"task_id": "from-outside", "agent_id": "quick", "prompt": "hello spool"}
    for name in ("one.json", "two.json"):
        (inbox / f".{name}").write_text(json.dumps(task))
        (inbox / f".{name}").rename(inbox / name)
    (inbox / ".bad").write_text("{")
    (inbox / ".bad").rename(inbox / "bad.json")
    result = inbox / "done" / "one.result.json"
    node.wait_for(result.exists)
    found = json.loads(result.read_text())
    assert (found["outcome"], found["status"]) == ("committed", "success")
    assert said(node, found["session_id"])[0] == "hello spool"
    reason = json.loads((inbox / "done" / "two.reason.json").read_text())
    assert (reason["code"], reason["session_id"]) == ("duplicate", found["session_id"])
    assert json.loads((inbox / "rejected" / "bad.reason.json").read_text())["code"] == "not_json"
    intake = node.status()["intake"]
    assert (intake["dispatched"], intake["committed"], intake["skipped"], intake["rejected"]) == (1, 1, 1, 1)
    assert intake["latest"]["taskId"] == "from-outside"


def test_a_task_that_was_handed_in_survives_the_death_of_the_daemon(new_node: MakeNode) -> None:
    node = new_node({"agents": {"brief": sh("sleep 0.1")}})
    inbox = node.state / "inbox"
    node.wait_for((inbox / "blocked").exists)
    for number in range(6):
        path = inbox / f"{number}.json"
        path.with_suffix(".part").write_text(
            json.dumps({"task_id": f"t{number}", "agent_id": "brief", "prompt": "x"})
        )
        path.with_suffix(".part").rename(path)
        if number % 2:
            node.kill9()
            node.start()
    node.wait_for(lambda: len(list((inbox / "done").glob("*.result.json"))) == 6, 30)
    rows = node.get("/api/v3/ledger?limit=100").json
    assert rows["total"] == 6
    assert {item["status"] for item in rows["rows"]} == {"success"}


# --- as a stranger reads it


def test_events_read_in_any_page_size_are_the_same(node: Node) -> None:
    session = spawn(node, "quick", "one\ntwo\nthree")
    wait_ended(node, session)
    whole = events(node, session)
    for limit in (1, 3, 1000):
        found: list[object] = []
        while True:
            page = node.get(f"/api/v3/ledger/{session}/events?after={len(found)}&limit={limit}").json
            found += page["events"]
            if page["ended"]:
                break
        assert found == whole
