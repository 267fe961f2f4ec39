"""Sessions of a real node, as an outsider sees them: the API, the ledger's words, the process table."""

import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.harness import LOOK_EVERY, REPOSITORY, Node

PYTHON = sys.executable
ENDED_SEC = 30.0
TERMINAL = ("success", "failed", "killed", "cancelled")
SAMPLE = [PYTHON, "-I", str(REPOSITORY / "ambientd" / "host" / "sample_agent.py")]


def sh(script: str, **settings: Any) -> dict[str, Any]:
    """An agent that is a shell script."""
    return {"command": ["/bin/sh", "-c", script], **settings}


def spawn(node: Node, agent: str, prompt: str = "do it", **more: Any) -> str:
    """An accepted session's id."""
    answer = node.post("/api/control/spawn", {"agentId": agent, "prompt": prompt, **more})
    assert answer.status == 200, answer
    found: str = answer.json["sessionId"]
    return found


def kill(node: Node, session: str) -> dict[str, Any]:
    """What the answer to a kill says."""
    answer = node.post("/api/control/kill", {"sessionId": session})
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def detail(node: Node, session: str) -> dict[str, Any]:
    """Everything the API tells of a session."""
    answer = node.get(f"/api/v3/ledger/{session}")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


def row(node: Node, session: str) -> dict[str, Any]:
    found: dict[str, Any] = detail(node, session)["ledger"]
    return found


def wait_status(node: Node, session: str, *wanted: str, seconds: float = ENDED_SEC) -> dict[str, Any]:
    """The row, once its status is one of those wanted."""

    def look() -> dict[str, Any]:
        found = row(node, session)
        return found if found["status"] in wanted else {}

    return node.wait_for(look, seconds, f"{session} to be {wanted}")


def wait_ended(node: Node, session: str, seconds: float = ENDED_SEC) -> dict[str, Any]:
    return wait_status(node, session, *TERMINAL, seconds=seconds)


def wait_said(node: Node, session: str, text: str, seconds: float = ENDED_SEC) -> None:
    """Returns when the agent has said this."""
    node.wait_for(lambda: text in said(node, session), seconds, f"{session} to say {text!r}")


def said(node: Node, session: str) -> list[str]:
    """What the agent said, both streams, in order."""
    return [
        event["payload"].get("text", "") for event in events(node, session) if event["eventType"] == "message"
    ]


def steps(node: Node, session: str) -> list[str]:
    """The transitions of a session."""
    return [
        event["payload"]["to"] for event in events(node, session) if event["eventType"] == "state_transition"
    ]


def last_step(node: Node, session: str) -> dict[str, Any]:
    """The payload of the transition that ended a session."""
    found: dict[str, Any] = events(node, session)[-1]["payload"]
    return found


def events(node: Node, session: str) -> list[dict[str, Any]]:
    """All events, page by page; fails unless their numbers have no gap."""
    found: list[dict[str, Any]] = []
    while True:
        answer = node.get(f"/api/v3/ledger/{session}/events?after={len(found)}&limit=1000")
        assert answer.status == 200, answer
        found += answer.json["events"]
        assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
        if len(answer.json["events"]) < 1000:
            return found


def members(session: str) -> set[int]:
    """Living processes that carry the session's mark in their environment."""
    mark = f"AMBIENT_SESSION_ID={session}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.add(int(name))
            except OSError:
                continue
    return found


def wait_nobody(session: str, seconds: float = 10.0) -> None:
    """Returns when no process of the session is left."""
    until = time.monotonic() + seconds
    while found := members(session):
        assert time.monotonic() < until, f"still there: {found}"
        time.sleep(LOOK_EVERY)


def shim_of(session: str) -> int:
    """The pid of a session's shim, by the folder in its command line."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(b"shim.py" in word for word in words) and any(session.encode() in word for word in words):
                return int(name)
    raise AssertionError(f"no shim of {session}")


def query(node: Node, sql: str) -> list[tuple[Any, ...]]:
    """Asks the database file as any outsider may, read-only."""
    link = sqlite3.connect(f"file:{node.state / 'ambient.db'}?mode=ro", uri=True, timeout=10)
    try:
        return link.execute(sql).fetchall()
    finally:
        link.close()


def assert_truthful(node: Node, sessions: list[str]) -> None:
    """Every accepted session is in the ledger once, has ended, and its events are whole and in order."""
    rows = query(node, "SELECT session_id, status FROM session_ledger")
    assert len(rows) == len({name for name, _ in rows})
    found = dict(rows)
    assert set(sessions) <= set(found)
    assert all(found[name] in TERMINAL for name in sessions), found
    for name in sessions:
        told = [event[0] for event in query(node, _SEQ.format(name=name))]
        assert told == list(range(1, len(told) + 1))
        assert [word for word in steps(node, name) if word in TERMINAL] == [found[name]]


_SEQ = "SELECT seq FROM session_events WHERE session_id = '{name}' ORDER BY seq"
