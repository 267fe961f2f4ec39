"""Where the truth about a gateway's agents comes from, what it costs the gateway, and what nobody may see."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node, processes_of
from tests.e2e.httpkit import SECRET, Web, everything_said, http_config
from tests.fakes.gateway.process import FakeGatewayProcess

MakeNode = Callable[..., Node]


def joined(
    new_node: MakeNode,
    gateway: FakeGatewayProcess,
    *,
    variable: str = "OPENCLAW_AUTH_TOKEN",
    **more: Any,
) -> Node:
    """A node with HTTP on TCP whose gateway is connected and listed."""
    settings = {"enabled": True, "url": gateway.url, "reconcile_interval": "5s"} | more
    node = new_node(
        {"gateway": settings, "log": {"level": "debug"}, **http_config()},
        environment={variable: gateway.token, "HELICARRIER_SECRET": SECRET},
    )
    node.wait_for(lambda: node.status()["gateway"]["healthy"], 15, "the gateway to be connected")
    return node


@pytest.fixture
def gateway() -> Iterator[FakeGatewayProcess]:
    with FakeGatewayProcess() as gateway:
        yield gateway


def agent(node: Node, name: str = "tony") -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in node.status()["agents"] if one["id"] == name)
    return found


def is_running(node: Node) -> bool:
    return bool(agent(node)["status"] == "running")


def is_audited(node: Node) -> bool:
    """Whether the node has taken its first look at its audit chain, which comes a moment after its start."""
    return "audit" in node.status()


def run(gateway: FakeGatewayProcess, name: str = "tony") -> dict[str, Any]:
    """A session that runs."""
    made: dict[str, Any] = gateway.do("create", agent_id=name, message="hi")
    return made


def calls(gateway: FakeGatewayProcess) -> dict[str, int]:
    found: dict[str, int] = gateway.do("counts")["calls"]
    return found


def test_what_logs_say_of_an_agent_is_no_status(new_node: MakeNode, gateway: FakeGatewayProcess) -> None:
    """R3.1, R3.6, R3.37, R3.43: only what the gateway says counts, also while it says nothing."""
    node = joined(new_node, gateway)
    node.wait_for(node.beats)
    with node.feed.open("a") as feed:
        for word in ("running", "error", "failed"):
            feed.write(json.dumps({"ts": "2026-11-20T15:40:00Z", "agent": "tony", "status": word}) + "\n")
    (node.state / "openclaw.log").write_text("[tony] error: run failed\n[tony] status=running\n" * 50)
    node.pass_cycles(3)
    assert agent(node)["status"] == "idle"
    node.feed.unlink()
    node.pass_cycles(3)
    assert agent(node)["status"] == "idle"
    session = run(gateway)
    node.wait_for(lambda: agent(node)["status"] == "running", 5)
    gateway.do("stop")
    node.wait_for(lambda: not node.status()["gateway"]["connected"], 25)
    assert {one["status"] for one in node.status()["agents"]} == {"idle"}
    gateway.do("start")
    gateway.do("finish", session=session["key"])


def test_inventory_and_state_come_from_the_two_lists(new_node: MakeNode, gateway: FakeGatewayProcess) -> None:
    joined(new_node, gateway)
    seen = calls(gateway)
    assert seen["agents.list"] >= 1
    assert seen["sessions.list"] >= 1
    assert seen["sessions.subscribe"] == 1
    assert gateway.do("counts")["largest_limit"] <= 100


def test_the_default_address_is_loopback_and_another_one_is_taken(
    new_node: MakeNode, gateway: FakeGatewayProcess
) -> None:
    node = joined(new_node, gateway)
    assert node.status()["gateway"]["url"] == gateway.url
    node.configure({})
    shown = node.ctl("config", "show", "--json").stdout
    assert "ws://127.0.0.1:18789" in shown


@pytest.mark.parametrize("names", ["", "only", ",".join(f"a-{n}.Ω_{n}" for n in range(40))])
def test_the_agents_are_those_of_the_gateway(new_node: MakeNode, names: str) -> None:
    with FakeGatewayProcess("--agents", names) as gateway:
        node = joined(new_node, gateway)
        listed = {one["id"] for one in node.status()["agents"]}
        assert listed == {name for name in names.split(",") if name}


def test_both_versions_of_the_gateway_have_one_shape_of_status(new_node: MakeNode) -> None:
    shapes = []
    for protocol in ("4", "3"):
        with FakeGatewayProcess("--protocol", protocol) as gateway:
            node = joined(new_node, gateway)
            run(gateway)
            node.wait_for(partial(is_running, node), 5)
            node.wait_for(partial(is_audited, node))
            document = Web(node).get("/api/system/status").json
            first, second = document["agents"]
            parts = (document, first, second, first["sessions"][0])
            # A run without a title has none in the older version.
            shapes.append([sorted(part.keys() - {"task", "title"}) for part in parts])
            assert document["source"] == "gateway-ws"
            assert {"connected", "healthy"} <= document["gateway"].keys()
            assert re.fullmatch(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["generatedAt"])
            for one in document["agents"]:
                assert {"id", "name", "status", "lastActivityAt", "reason"} <= one.keys()
                assert one["status"] in ("running", "idle", "failed", "done")
            assert agent(node, "main")["lastActivityAt"] is None
    assert shapes[0] == shapes[1]


def test_the_agents_own_heartbeat_is_shown_and_changes_nothing(
    new_node: MakeNode, gateway: FakeGatewayProcess
) -> None:
    node = joined(new_node, gateway)
    old = int(datetime(2024, 1, 2, 3, 4, tzinfo=UTC).timestamp() * 1000)
    gateway.do("emit", event="heartbeat", payload={"ts": old, "status": "skipped"})
    node.wait_for(lambda: "lastHeartbeatAt" in node.status()["gateway"], 5)
    status = node.status()
    assert status["gateway"]["lastHeartbeatAt"] == "2024-01-02T03:04:00.000Z"
    assert (status["gateway"]["healthy"], status["health"]) == (True, "ok")


def test_a_gateway_without_health_still_works(new_node: MakeNode, gateway: FakeGatewayProcess) -> None:
    gateway.do("always", method="health", code="INVALID_REQUEST", message="unknown method: health")
    node = joined(new_node, gateway)
    assert node.status()["gateway"]["healthy"] is True
    gateway.do("emit", event="health", payload={"ok": False})
    node.wait_for(lambda: not node.status()["gateway"]["healthy"], 5)
    assert node.status()["gateway"]["connected"] is True


def test_two_hundred_requests_within_a_second_ask_the_gateway_nothing(
    new_node: MakeNode, gateway: FakeGatewayProcess
) -> None:
    node = joined(new_node, gateway, reconcile_interval="60s")
    time.sleep(3)  # what the connection itself began has ended
    before, answers = calls(gateway), []

    def ask() -> None:
        answers.extend([node.get("/api/system/status").status for _ in range(10)])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 200
    after = calls(gateway)
    assert all(after[name] - before.get(name, 0) <= 2 for name in after)


def test_a_change_at_the_gateway_reaches_the_stream(new_node: MakeNode, gateway: FakeGatewayProcess) -> None:
    node = joined(new_node, gateway)
    web = Web(node)
    with web.link() as link:
        link.sendall(web.head("GET", "/api/system/status/stream"))
        lines = link.makefile("rb")
        began = time.monotonic()
        run(gateway)
        for line in lines:
            if line.startswith(b"data: "):
                document = json.loads(line[6:])
                if any(one["status"] == "running" for one in document["agents"]):
                    break
        assert time.monotonic() - began < 3
        polled = web.get("/api/system/status").json
        assert polled["agents"] == document["agents"]


@pytest.mark.parametrize("variable", ["OPENCLAW_AUTH_TOKEN", "HELICARRIER_GATEWAY_TOKEN"])
def test_the_token_is_taken_from_either_variable_and_is_nowhere_to_be_seen(
    new_node: MakeNode, variable: str
) -> None:
    with FakeGatewayProcess("--token", "marker-gateway-4f8e2a7c91d3b650") as gateway:
        node = joined(new_node, gateway, variable=variable)
        web = Web(node)
        session = web.post("/api/control/spawn", {"agentId": "tony", "prompt": "x"}).json["sessionId"]
        web.post("/api/control/model", {"agentId": "tony", "model": "mock/mock-slow"})
        web.post("/api/control/kill", {"sessionId": session})
        web.post("/api/control/spawn", {"agentId": gateway.token, "prompt": "x"})
        gateway.do("drop", code=1006)
        said = [
            web.get(path).body for path in ("/api/system/status", "/openapi.json", "/api/logs?limit=2000")
        ]
        said.append(web.get("/api/v3/ledger").body)
        for words in (("status",), ("agents", "--json"), ("logs",), ("config", "show"), ("doctor",)):
            done = node.ctl(*words)
            said += [done.stdout.encode(), done.stderr.encode()]
        for pid in (node.pid, *processes_of(node.root)):
            said.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        node.stop()
        assert gateway.token not in everything_said(node)
        assert not any(gateway.token.encode() in text for text in said)


# --- control, over HTTP with the key


def test_kill_over_http_ends_one_session_once_and_says_who_did_it(
    new_node: MakeNode, gateway: FakeGatewayProcess
) -> None:
    node = joined(new_node, gateway)
    web = Web(node)
    other, mine = run(gateway), run(gateway)
    name = mine["session_id"]
    node.wait_for(lambda: agent(node)["running"] == 2, 5)
    began = time.monotonic()
    answer = web.post("/api/control/kill", {"sessionId": name})
    assert (answer.status, answer.json["ok"], answer.json["sessionId"]) == (200, True, name)
    node.wait_for(lambda: agent(node)["running"] == 1, 5)
    assert time.monotonic() - began < 3, "within one poll and the cache"
    aborts = [params for method, params in gateway.do("requests") if method == "sessions.abort"]
    assert aborts == [{"key": mine["key"]}]
    node.wait_for(
        lambda: node.get(f"/api/v3/ledger/{name}").json["ledger"]["status"] == "killed", 10, "the proof"
    )
    assert web.post("/api/control/kill", {"sessionId": name}).status == 409
    assert web.post("/api/control/kill", {"sessionId": "no-such"}).status == 404
    assert calls(gateway)["sessions.abort"] == 1, "a second kill asks nothing of the gateway"
    assert gateway.do("session", session=other["session_id"])["active"] is True
    node.post("/api/control/kill", {"sessionId": other["session_id"]})
    told = [
        (line["action"], line["actor"].partition(":")[0], line.get("refused"))
        for line in node.log_events("[AUDIT]")
    ]
    assert told == [
        ("kill", "ip", None),
        ("kill", "ip", "NOTHING_RUNS"),
        ("kill", "ip", "NOT_FOUND"),
        ("kill", "uid", None),
    ]


BAD_ORDERS = [
    ("kill", {}, {"sessionId"}),
    ("kill", {"sessionId": "  "}, {"sessionId"}),
    ("kill", {"sessionId": 7}, {"sessionId"}),
    ("spawn", {}, {"agentId", "prompt"}),
    ("spawn", {"agentId": "tony", "prompt": " "}, {"prompt"}),
    ("spawn", {"agentId": ["tony"], "prompt": None}, {"agentId", "prompt"}),
    ("spawn", {"agentId": "", "prompt": "x"}, {"agentId"}),
    ("model", {}, {"agentId", "model"}),
    ("model", {"agentId": "tony", "model": ""}, {"model"}),
    ("model", {"agentId": "tony", "model": {"id": "x"}}, {"model"}),
    ("model", {"agentId": "tony", "provider": "mock", "model": "mock-fast"}, {"provider"}),
]


def test_a_bad_order_is_400_with_the_names_of_its_fields_and_asks_the_gateway_nothing(
    new_node: MakeNode, gateway: FakeGatewayProcess
) -> None:
    node = joined(new_node, gateway, reconcile_interval="60s")
    web = Web(node)
    time.sleep(3)
    before = calls(gateway)
    for route, body, fields in BAD_ORDERS:
        reply = web.post(f"/api/control/{route}", body)
        assert (reply.status, reply.code) == (400, "VALIDATION_ERROR"), (route, body)
        assert {detail["field"] for detail in reply.json["error"]["details"]} == fields, (route, body)
    for route in ("kill", "spawn", "model"):
        for broken in (b"", b"{", b"[]", b'"x"', b"\xff"):
            assert web.post(f"/api/control/{route}", broken).status == 400, (route, broken)
    assert calls(gateway) == before
    assert len(node.log_events("[AUDIT]")) == len(BAD_ORDERS) + 15


def test_without_the_key_the_gateway_sees_nothing(new_node: MakeNode, gateway: FakeGatewayProcess) -> None:
    node = joined(new_node, gateway, reconcile_interval="60s")
    stranger = Web(node, key=None)
    time.sleep(3)
    before = calls(gateway)
    for route in ("kill", "spawn", "model"):
        for body in (b"{", b'{"sessionId":"x","agentId":"tony","prompt":"p","model":"m"}'):
            assert stranger.post(f"/api/control/{route}", body).status == 401
    assert calls(gateway) == before


def test_spawn_and_model_answer_what_the_gateway_did_or_why_not(
    new_node: MakeNode, gateway: FakeGatewayProcess
) -> None:
    node = joined(new_node, gateway, allow_models=["mock/mock-fast", "mock/mock-slow"])
    web = Web(node)
    made = web.post("/api/control/spawn", {"agentId": "tony", "prompt": "hi"})
    assert made.status == 200
    assert gateway.do("session", session=made.json["sessionId"])["agent_id"] == "tony"
    changed = web.post("/api/control/model", {"agentId": "tony", "model": "mock/mock-slow"})
    assert (changed.status, changed.json["model"]) == (200, "mock/mock-slow")
    assert gateway.do("session", session=made.json["sessionId"])["model"] == "mock/mock-slow"
    refused = web.post("/api/control/model", {"agentId": "tony", "model": "mock/mock-400"})
    assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
    assert refused.json["error"]["details"][0]["field"] == "model"
    assert web.post("/api/control/spawn", {"agentId": "nobody", "prompt": "x"}).status == 404
    assert web.post("/api/control/spawn", {"agentId": "tony", "prompt": "  "}).status == 400
    gateway.do("script", method="sessions.create", code="INVALID_REQUEST", message="no such workspace")
    broken = web.post("/api/control/spawn", {"agentId": "tony", "prompt": "x"})
    assert (broken.status, "no such workspace" in broken.body.decode()) == (422, True)
    gateway.do("stop")
    node.wait_for(lambda: node.status()["gateway"]["phase"] != "ready", 10)
    for route, body in (
        ("spawn", {"agentId": "tony", "prompt": "x"}),
        ("model", {"agentId": "tony", "model": "mock/mock-fast"}),
        ("kill", {"sessionId": made.json["sessionId"]}),
    ):
        away = web.post(f"/api/control/{route}", body)
        assert (away.status, away.code, "retry-after" in away.headers) == (503, "GATEWAY_UNAVAILABLE", True)


# --- the command line, while the gateway does not want this node


@pytest.mark.parametrize(
    ("flags", "token", "words", "remedy"),
    [
        ((), "not-the-token-at-all", "refused the token", "gateway.auth.token"),
        (("--lan",), None, "pairing required", "openclaw devices approve "),
    ],
    ids=["wrong-token", "pairing"],
)
def test_every_verb_says_that_the_gateway_refuses_and_what_helps(
    new_node: MakeNode, flags: tuple[str, ...], token: str | None, words: str, remedy: str
) -> None:
    with FakeGatewayProcess(*flags) as gateway:
        node = new_node(
            {"gateway": {"enabled": True, "url": gateway.url}},
            environment={"OPENCLAW_AUTH_TOKEN": token or gateway.token},
        )
        node.wait_for(lambda: node.status()["gateway"]["phase"] == "refused", 20)
        screen = node.ctl("status")
        assert screen.returncode == 0
        assert words in screen.stdout
        assert node.ctl("status", "--check").returncode == 10
        (problem,) = json.loads(node.ctl("status", "--json").stdout)["problems"]
        assert problem["id"] == "gateway.refused"
        assert remedy in problem["help"]
        for verb in (("spawn", "tony", "hi"), ("model", "tony", "mock/mock-fast"), ("kill", "abc", "--yes")):
            done = node.ctl(*verb)
            assert (done.returncode, done.stdout) == (3, ""), verb
            assert words in done.stderr, verb
        listed = node.ctl("agents", "--json")
        assert (listed.returncode, json.loads(listed.stdout)["items"]) == (0, [])
        if flags:
            gateway.do("approve")
            node.wait_for(
                lambda: node.status()["gateway"]["phase"] == "ready", 60, "the approval to be found"
            )


def test_a_reload_tries_a_mended_token_at_once(
    new_node: MakeNode, gateway: FakeGatewayProcess, tmp_path: Path
) -> None:
    """By itself the link waits five minutes after a wrong token."""
    file = tmp_path / "token"
    file.write_text("wrong-token-wrong-token\n")
    file.chmod(0o600)
    node = new_node({"gateway": {"enabled": True, "url": gateway.url, "token_file": str(file)}})
    node.wait_for(lambda: node.status()["gateway"]["phase"] == "refused", 20)
    file.write_text(gateway.token + "\n")
    assert node.ctl("reload").returncode == 0
    node.wait_for(lambda: node.status()["gateway"]["phase"] == "ready", 10, "the new token to be tried")
