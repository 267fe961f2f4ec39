"""The real daemon and a fake gateway, each a process of its own: what is seen, done and recorded."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.harness import Node
from tests.fakes.gateway.process import FakeGatewayProcess


class Pair:
    """A node and its gateway."""

    def __init__(self, node: Node, gateway: FakeGatewayProcess) -> None:
        self.node, self.gateway = node, gateway

    def status(self) -> dict[str, Any]:
        """What `ambientctl status --json` prints."""
        done = self.node.ctl("status", "--json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def agent(self, name: str = "tony") -> dict[str, Any]:
        return next(agent for agent in self.status()["agents"] if agent["id"] == name)

    def wait_agent(self, status: str, seconds: float = 10.0) -> dict[str, Any]:
        def found() -> Any:
            agent = self.agent()
            return agent["status"] == status and agent

        agent: dict[str, Any] = self.node.wait_for(found, seconds, f"tony to be {status}")
        return agent

    def wait_ledger(self, session_id: str, status: str, seconds: float = 15.0) -> dict[str, Any]:
        def found() -> Any:
            answer = self.node.get(f"/api/v3/ledger/{session_id}")
            return (
                answer.status == 200 and answer.json["ledger"]["status"] == status and answer.json["ledger"]
            )

        row: dict[str, Any] = self.node.wait_for(found, seconds, f"{session_id} to be {status}")
        return row

    def spawn(self, *more: str) -> str:
        done = self.node.ctl("spawn", "tony", "say hello", "--json", *more)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["sessionId"])


def connected(new_node: Callable[..., Node], gateway: FakeGatewayProcess) -> Pair:
    node = new_node(
        {"gateway": {"enabled": True, "url": gateway.url, "reconcile_interval": "5s"}},
        environment={"OPENCLAW_AUTH_TOKEN": gateway.token},
    )
    found = Pair(node, gateway)
    node.wait_for(lambda: found.status()["gateway"]["healthy"], 15, "the gateway to be connected")
    return found


@pytest.fixture(params=["4", "3"])
def pair(request: pytest.FixtureRequest, new_node: Callable[..., Node]) -> Iterator[Pair]:
    with FakeGatewayProcess("--protocol", request.param) as gateway:
        yield connected(new_node, gateway)


def test_a_session_is_started_seen_and_recorded_to_its_end(pair: Pair) -> None:
    status = pair.status()
    assert status["source"] == "gateway-ws"
    assert [agent["id"] for agent in status["agents"] if agent["kind"] == "gateway"] == ["main", "tony"]
    session_id = pair.spawn("--title", "Greeting")
    agent = pair.wait_agent("running")
    assert (agent["sessionId"], agent["running"]) == (session_id, 1)
    assert [item["id"] for item in agent["sessions"]] == [session_id]
    assert pair.wait_ledger(session_id, "running")["taskTitle"] == "Greeting"
    pair.gateway.do("finish", session=session_id)
    assert pair.wait_agent("done")["running"] == 0
    row = pair.wait_ledger(session_id, "success")
    assert (row["agentId"], row["runId"]) != ("", "")
    failed = pair.spawn()
    pair.gateway.do("fail", session=failed)
    assert pair.wait_agent("failed")["reason"]
    row = pair.wait_ledger(failed, "failed")
    assert row["errorCode"] in ("run_failed", "run_blocked")
    screen = pair.node.ctl("status").stdout
    assert "gateway" in screen
    assert "2 agents" in screen


def test_kill_waits_for_the_proof_and_is_harmless_twice(pair: Pair) -> None:
    other, session_id = pair.spawn(), pair.spawn()
    pair.wait_ledger(session_id, "running")
    done = pair.node.ctl("kill", session_id[:8], "--yes", "--json", timeout=60)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["sessionId"], document["ended"], document["status"]) == (session_id, True, "killed")
    pair.wait_ledger(session_id, "killed")
    assert pair.wait_ledger(other, "running")["status"] == "running"
    again = pair.node.ctl("kill", session_id, "--yes")
    assert again.returncode == 6
    assert pair.node.ctl("kill", "no-such-session", "--yes").returncode == 5
    pair.gateway.do("finish", session=other)
    assert pair.wait_agent("done")["status"] == "done", "what was killed is not called failed"


def test_a_model_is_checked_and_reaches_the_sessions(pair: Pair) -> None:
    done = pair.node.ctl("model", "tony", "mock/mock-slow")
    assert done.returncode == 0, done.stderr
    session_id = pair.spawn()
    assert pair.gateway.do("session", session=session_id)["model"] == "mock/mock-slow"
    pair.wait_ledger(session_id, "running")
    bad = pair.node.ctl("model", "tony", "mock/no-such")
    assert bad.returncode == 1
    assert "mock/mock-fast" in bad.stderr
    assert pair.node.ctl("model", "nobody", "mock/mock-fast").returncode == 5


def test_a_lost_gateway_is_told_and_its_agents_are_idle_until_it_is_back(pair: Pair) -> None:
    session_id = pair.spawn()
    pair.wait_agent("running")
    pair.gateway.do("stop")
    pair.node.wait_for(lambda: not pair.status()["gateway"]["connected"], 25, "the loss to be told")
    agent = pair.agent()
    assert (agent["status"], agent["reason"]) == ("idle", "the gateway is not connected")
    assert any(problem["id"] == "gateway.away" for problem in pair.status()["problems"])
    assert pair.node.ctl("kill", session_id, "--yes").returncode == 3
    assert pair.node.ctl("spawn", "tony", "hi").returncode == 3
    pair.gateway.do("start")
    pair.wait_agent("running", 45)
    pair.gateway.do("finish", session=session_id)
    pair.wait_ledger(session_id, "success")


def test_a_run_that_a_restart_of_the_gateway_ended_is_closed_truthfully(
    new_node: Callable[..., Node],
) -> None:
    with FakeGatewayProcess() as gateway:
        pair = connected(new_node, gateway)
        session_id = pair.spawn()
        pair.wait_ledger(session_id, "running")
        gateway.do("lose_run", session=session_id)
        gateway.do("restart")
        resumed = gateway.do("run", session=session_id)
        row = pair.wait_ledger(session_id, "failed", 45)
        assert row["errorCode"] == "gateway_restart"
        later = f"{session_id}~{resumed}"
        pair.wait_ledger(later, "running")
        assert pair.wait_agent("running")["sessionId"] == session_id
        done = pair.node.ctl("kill", session_id, "--yes", "--json", timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["sessionId"] == later, "the run that was under way"


def test_without_a_gateway_the_status_says_off_and_nothing_is_wrong(new_node: Callable[..., Node]) -> None:
    node = new_node()
    status = node.status()
    assert (status["gateway"], status["problems"]) == (
        {"connected": False, "healthy": False, "phase": "off"},
        [],
    )
    assert "gateway  ○ off" in node.ctl("status").stdout
