"""The checks, in the order in which they run; each leaves the gateway running and idle."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.live.mock_model import COST_USD, INPUT_TOKENS, OUTPUT_TOKENS
from tests.live.openclaw import AGENTS, is_running, resident_mb
from tests.live.stage import RUN_SEC, TERMINAL, Json, Shown, Stage, wait_gone

GRACE_SEC = 10.0
# How long an ended run may be open in the ledger still: the gateway tells causes a moment later.
TRUE_SEC = 30.0
AWAY = "the gateway is not connected"


def handshake(stage: Stage) -> None:
    """The link stands, both ends agree on the version, and the gateway's agents are listed."""
    shown = stage.screen.wait("a healthy gateway", lambda shown: bool(shown.gateway.get("healthy")))
    gateway = shown.gateway
    assert gateway["version"] == stage.gateway.version, gateway
    assert gateway["protocol"] == (3 if stage.gateway.is_old else 4), gateway
    assert gateway["live"] == "events", gateway
    names = {item["id"] for item in stage.ctl("agents")["items"] if item["kind"] == "gateway"}
    assert names == set(AGENTS), names
    stage.note("protocol", str(gateway["protocol"]))
    stage.note("handshake", f"{gateway['latencyMs']} ms")


def run_done(stage: Stage) -> None:
    """spawn → running → done, and success in the ledger with tokens, cost and model."""
    _run_once(stage, "first run of a start")
    session = _run_once(stage, "warm run")
    _check_usage(stage, session)


def _run_once(stage: Stage, title: str) -> str:
    since = time.monotonic()
    session = stage.spawn("fast", "say hello")
    began = time.monotonic()
    running = stage.screen.wait("a run of fast", lambda shown: _runs(shown, "fast", session), since, RUN_SEC)
    done = stage.wait_agent("fast", "done", running.at, RUN_SEC)
    stage.figure(f"{title}: start to done", done.at - began)
    stage.figure("running shown after ambientctl spawn returned", running.at - began)
    stage.shown_after("running shown after the gateway told it", session, "running", running)
    stage.shown_after("done shown after the gateway told it", session, "done", done)
    row = stage.wait_ledger(session, "success", seconds=TRUE_SEC)
    stage.figure("success in the ledger after done was shown", time.monotonic() - done.at)
    assert row["modelId"] == "mock/mock-fast", row
    assert row["agentId"] == "fast", row
    assert row["taskText"] == "say hello", row
    return session


def _runs(shown: Shown, agent: str, session: str) -> bool:
    found = shown.agent(agent)
    return found.get("status") == "running" and any(item["id"] == session for item in found["sessions"])


def _check_usage(stage: Stage, session: str) -> None:
    """On the older version the tokens come with the next list, not with the event."""
    began, usage = time.monotonic(), stage.usage(session)
    while usage.get("promptTokens") is None and time.monotonic() - began < TRUE_SEC:
        time.sleep(0.2)
        usage = stage.usage(session)
    assert (usage["promptTokens"], usage["completionTokens"]) == (INPUT_TOKENS, OUTPUT_TOKENS), usage
    assert abs(usage["costUsd"] - COST_USD) < 1e-9, usage
    assert usage["costConfidence"] == "estimated", usage
    assert usage["tokenSource"] == "derived", usage
    stage.figure("tokens and cost in the ledger", time.monotonic() - began)


def run_failed(stage: Stage) -> None:
    """A model that refuses is a failure, with the gateway's words for it."""
    since = time.monotonic()
    session = stage.spawn("bad", "say hello")
    failed = stage.wait_agent("bad", "failed", since, RUN_SEC)
    stage.shown_after("failed shown after the gateway told it", session, "failed", failed)
    assert "rejected" in failed.agent("bad")["reason"], failed.agent("bad")
    row = stage.wait_ledger(session, *TERMINAL, seconds=TRUE_SEC)
    stage.figure(
        f"failed ({row.get('errorCode')}) in the ledger after it was shown", time.monotonic() - failed.at
    )
    assert row["status"] == "failed", row
    assert row["errorCode"] in ("run_failed", "run_blocked"), row
    assert "rejected" in row["errorMessage"], row
    assert row["modelId"] == "mock4/mock-400", row


def kill_stream(stage: Stage) -> None:
    """A run that is answering is ended: at the model, on the screen and in the ledger."""
    calls = len(stage.model.runs("mock-slow"))
    session = stage.spawn("slow", "tell a story")
    stage.wait_streaming("mock-slow", calls + 1)
    time.sleep(1.0)
    _kill(stage, "slow", session, "mid-stream")
    until = time.monotonic() + 5
    while stage.model.streaming:
        assert time.monotonic() < until, "the model still answers"
        time.sleep(0.02)


def _kill(stage: Stage, agent: str, session: str, title: str) -> None:
    began = time.monotonic()
    answer = stage.ctl("kill", session, "--yes")
    assert answer["ended"] is True, answer
    assert answer["status"] == "killed", answer
    stage.figure(f"kill {title}: ambientctl kill, to the proof", time.monotonic() - began)
    idle = stage.wait_agent(agent, "idle", began)
    stage.figure(f"kill {title}: idle shown", idle.at - began)
    assert idle.agent(agent)["reason"] == "last run killed", idle.agent(agent)
    row = stage.wait_ledger(session, "killed")
    assert "errorCode" not in row, row
    # a second time there is nothing to kill, and it says so
    again = stage.node.ctl("kill", session, "--yes", "--json")
    assert again.returncode == 6, (again.returncode, again.stderr)


def kill_tool(stage: Stage) -> None:
    """A run that waits for a command of its own is ended, and the command with it."""
    mark = stage.gateway.root / "tool.pid"
    session = stage.spawn("tool", f"RUN: echo $$ > {mark}; exec sleep 300")
    until = time.monotonic() + RUN_SEC
    while not (mark.exists() and mark.read_text().strip()):
        assert time.monotonic() < until, f"the command was not run:\n{stage.gateway.log_tail()}"
        time.sleep(0.05)
    pid = int(mark.read_text())
    assert is_running(pid)
    assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    began = time.monotonic()
    _kill(stage, "tool", session, "in a tool")
    wait_gone(pid, 10.0)
    stage.figure("kill in a tool: the command is gone (at most)", time.monotonic() - began)
    mark.unlink()


def model_session(stage: Stage) -> None:
    """The preferred model of an agent: what this node starts uses it, and so do sessions that go on."""
    first = stage.spawn("main", "say hello")
    stage.wait_ledger(first, "success", seconds=RUN_SEC)
    answer = stage.ctl("model", "main", "mock/mock-short")
    stage.note("model without admin scope applies to", ", ".join(answer["applied"]))
    calls = len(stage.model.runs("mock-short"))
    if answer["sessions"]:
        row = stage.row(first)
        assert row["model"] == "mock-short", row
        run = f"live-{time.monotonic():.0f}"
        stage.ask("chat.send", {"sessionKey": row["key"], "message": "again", "idempotencyKey": run})
        stage.wait_streaming("mock-short", calls + 1)
        second = stage.wait_ledger(f"{first}~{run}", "success", seconds=RUN_SEC)
        assert second["modelId"] == "mock/mock-short", second
        before = stage.wait_ledger(first, "success")
        assert before["modelId"] == "mock/mock-fast", before
    since = time.monotonic()
    session = stage.spawn("main", "say hello")
    stage.wait_agent("main", "done", since + 0.1, RUN_SEC)
    row = stage.wait_ledger(session, "success", seconds=RUN_SEC)
    assert row["modelId"] == "mock/mock-short", row


def model_agent(stage: Stage) -> None:
    """With the operator's consent and the admin scope the agent's own setting at the gateway changes."""
    _restart_node(stage, allow_agent_model=True)
    since = time.monotonic()
    answer = stage.ctl("model", "hang", "mock/mock-fast")
    assert "agent" in answer["applied"], answer
    shown = stage.screen.wait(
        "the new model", lambda shown: shown.agent("hang").get("model") == "mock/mock-fast", since
    )
    stage.figure("model of an agent: shown after the command began", shown.at - since)
    stage.node.wait_for(lambda: _has_model(stage, "hang", "mock-fast"), 30, "the gateway to read its file")
    stage.figure("model of an agent: listed by the gateway itself", time.monotonic() - since)
    # another client's run uses it too
    made = stage.ask("sessions.create", {"agentId": "hang", "message": "hello"})
    session = str(made["sessionId"])
    stage.sessions.append(session)
    row = stage.wait_ledger(session, *TERMINAL, seconds=RUN_SEC)
    ended = time.monotonic()
    stage.node.wait_for(
        lambda: _model_of(stage, session) != "unknown", 15, "the model of an ended run to be known"
    )
    stage.figure("model of another client's run: in the ledger after its end", time.monotonic() - ended)
    assert (row["status"], _model_of(stage, session)) == ("success", "mock/mock-fast"), row
    refused = stage.node.ctl("model", "hang", "mock/no-such-model")
    assert refused.returncode != 0, refused


def _model_of(stage: Stage, session: str) -> str:
    return str(stage.node.get(f"/api/v3/ledger/{session}").json["ledger"]["modelId"])


def _has_model(stage: Stage, agent: str, model: str) -> bool:
    entry = next(item for item in stage.ask("agents.list")["agents"] if item["id"] == agent)
    return model in json.dumps(entry.get("model"))


def _restart_node(stage: Stage, **gateway: object) -> None:
    stage.node.stop()
    stage.node.configure(node_config(stage.gateway.url, str(stage.gateway.token_file), **gateway))
    stage.node.start()
    stage.node.wait_for(lambda: stage.node.status()["gateway"]["healthy"], 30, "a healthy gateway")


def node_config(url: str, token_file: str, **gateway: object) -> dict[str, object]:
    """The node's configuration."""
    return {"gateway": {"enabled": True, "url": url, "token_file": token_file, **gateway}}


def sigterm(stage: Stage) -> None:
    """The gateway is stopped while a run is under way, is away, and comes back."""
    calls = len(stage.model.runs("mock-short"))
    session = stage.spawn("short", "tell a short story")
    stage.wait_streaming("mock-short", calls + 1)
    asked = time.monotonic()
    stage.gateway.terminate()
    code = stage.gateway.wait_ended(60.0)
    ended = time.monotonic()
    stage.figure("SIGTERM with a run: until the gateway ended", ended - asked)
    stage.note("SIGTERM: exit code", str(code))
    drained = [shown for shown in list(stage.screen.changes) if asked < shown.at <= ended]
    stage.note("SIGTERM: shown as draining", "yes" if any(map(_is_draining, drained)) else "no")
    _away_and_back(stage, asked, ended, "SIGTERM")
    _check_truth(stage, session)


def _is_draining(shown: Shown) -> bool:
    return bool(shown.gateway["phase"] == "draining")


def _away_and_back(stage: Stage, asked: float, ended: float, title: str) -> None:
    lost = stage.screen.wait("a lost link", lambda shown: shown.gateway["phase"] not in _THERE, asked)
    stage.figure(f"{title}: loss shown after the end of the gateway", lost.at - ended)
    assert lost.gateway["connected"] is True, lost.gateway  # the last good data stay for a while
    away = stage.screen.wait("an absent gateway", lambda shown: not shown.gateway["connected"], lost.at, 20)
    stage.figure(f"{title}: agents idle, connected=false after the loss", away.at - lost.at)
    assert GRACE_SEC - 1.0 < away.at - lost.at < GRACE_SEC + 2.0
    document = stage.ctl("status")
    of_gateway = [agent for agent in document["agents"] if agent["kind"] == "gateway"]
    assert {agent["status"] for agent in of_gateway} == {"idle"}, of_gateway
    assert {agent["reason"] for agent in of_gateway} == {AWAY}, of_gateway
    assert "gateway.away" in [problem["id"] for problem in document["problems"]], document["problems"]
    stage.note(f"{title}: boot of the gateway", f"{stage.gateway.start():.1f} s")
    ready = time.monotonic()
    back = stage.screen.wait("the gateway back", lambda shown: bool(shown.gateway["healthy"]), away.at, 60)
    stage.figure(f"{title}: healthy again after the gateway was ready", back.at - ready)
    stage.listen()


_THERE = ("ready", "draining")


def _check_truth(stage: Stage, session: str) -> None:
    """The ledger says of a session's run what the gateway itself says.

    The older version does not wait for runs, and leaves the row of one that it cut off as it was.
    """
    word = stage.row(session)["status"]
    found = stage.wait_ledger(session, *TERMINAL, seconds=60)
    stage.note("SIGTERM with a run: gateway and ledger say", f"{word}, {_ended_as(found)}")
    if word == "running":
        assert _ended_as(found) == "failed (gateway_restart)", found
    else:
        assert found["status"] == {"done": "success"}.get(word, word), (word, found)


def _ended_as(row: Json) -> str:
    return f"{row['status']} ({row['errorCode']})" if "errorCode" in row else str(row["status"])


def sigkill(stage: Stage) -> None:
    """The gateway is killed while a run is under way; what becomes of the run is told truthfully."""
    calls = len(stage.model.runs("mock-slow"))
    session = stage.spawn("slow", "tell a long story")
    stage.wait_streaming("mock-slow", calls + 1)
    stage.wait_agent("slow", "running", time.monotonic())
    asked = time.monotonic()
    stage.gateway.kill9()
    ended = time.monotonic()
    _away_and_back(stage, asked, asked, "SIGKILL")
    stage.figure("SIGKILL: the kill itself", ended - asked)
    back = time.monotonic()
    row = stage.wait_ledger(session, *TERMINAL, seconds=120)
    stage.figure("SIGKILL: the lost run is closed after the reconnect", time.monotonic() - back)
    stage.note("SIGKILL: the lost run", _ended_as(row))
    assert _ended_as(row) == "failed (gateway_restart)", row
    rows = stage.ask("sessions.list", {"limit": 20})["sessions"]
    told = next(item for item in rows if item["sessionId"] == session)
    stage.note("SIGKILL: the gateway then says of the session", str(told.get("status")))
    if told.get("hasActiveRun"):
        again = stage.ctl("kill", session, "--yes")
        assert again["status"] == "killed", again
        assert again["sessionId"] != session, again
        stage.note("SIGKILL: the session goes on", "in a row of its own, killed then")


def ledger_is_true(stage: Stage) -> None:
    """Every session that was started is in the ledger once, ended, and no other one is."""
    items = stage.ctl("sessions", "--limit", "200")["items"]
    firsts = [item["sessionId"] for item in items if "~" not in item["sessionId"]]
    assert sorted(firsts) == sorted(set(stage.sessions)), (firsts, stage.sessions)
    assert {item["status"] for item in items} <= set(TERMINAL), items
    stage.note("rows in the ledger", f"{len(items)}, all ended")
    stage.note("memory of the daemon", f"{resident_mb(stage.node.pid):.1f} MiB")
    stage.note("memory of the gateway with its helpers", f"{stage.gateway.memory_mb():.0f} MiB")
    warnings = [event for event in stage.node.log_events() if event.get("level") == "error"]
    assert not warnings, warnings


CHECKS: Mapping[str, Callable[[Stage], None]] = {
    "handshake": handshake,
    "run-done": run_done,
    "run-failed": run_failed,
    "kill-stream": kill_stream,
    "kill-tool": kill_tool,
    "model-session": model_session,
    "model-agent": model_agent,
    "sigterm": sigterm,
    "sigkill": sigkill,
    "ledger-is-true": ledger_is_true,
}
