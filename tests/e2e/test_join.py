"""A node and a control plane as two real processes: joining, work, cuts and kills, leaving."""

import json
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from ambientd.core.spki import pin_of
from ambientd.host.links import read_links
from tests.e2e.fleetkit import RANDOM, Plane, certificate
from tests.e2e.harness import REPOSITORY, Node
from tests.e2e.sessionkit import query
from tests.e2e.test_lean import CONTROL, HOOK, JOINED

pytestmark = pytest.mark.skipif(
    bool(read_links().none), reason="a node without a usable link asks no control plane"
)

NAME = "edge-1"
AGENT = """
import json, sys, time
prompt = sys.stdin.read()
print(json.dumps({"type": "message", "text": "did: " + prompt}), flush=True)
usage = {"type": "usage", "prompt_tokens": 120, "completion_tokens": 30, "cost_usd": 0.5}
print(json.dumps(usage), flush=True)
time.sleep(600 if "long" in prompt else 0)
sys.exit(3 if "fail" in prompt else 0)
"""
SYNCS = 25  # a cut that has just healed is believed after a moment
TABLES = {
    "node_sessions": ("session_ledger", "session_id, status, runtime_ms, error_code"),
    "node_session_events": ("session_events", "session_id, seq, event_type"),
    "node_usage": ("session_usage", "session_id, total_tokens, cost_usd"),
    "node_audit": ("audit_records", "seq, hash"),
}


def config(**control: Any) -> dict[str, Any]:
    return {
        "node": {"name": NAME},
        "dispatcher": {"interval": "1s"},
        "connectivity": {"interval": "1s", "timeout": "3s", "hold": "0s", "misses": 1},
        "control_plane": {"interval": "5s", **control},
        "agents": {
            "sample": {"command": [sys.executable, "-c", AGENT], "output": "jsonl", "max_concurrent": 4}
        },
    }


def ran(node: Node, *words: str, code: int = 0, given: str | None = None) -> str:
    """What a command said, on either way; it ends with `code` and never with a traceback."""
    done = node.ctl(*words, input=given)
    assert done.returncode == code, (words, done)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def as_json(node: Node, *words: str, code: int = 0) -> Any:
    done = node.ctl(*words, "--json")
    assert done.returncode == code, (words, done)
    return json.loads(done.stdout)


def in_step(node: Node) -> Any:
    """Rounds until everything is told."""
    found: Any = None
    for _ in range(SYNCS):
        done = node.ctl("sync", "--control-plane", "--json")
        if done.returncode == 0:
            found = json.loads(done.stdout)["control"]
            if found["complete"] and all(one["waiting"] == 0 for one in found["streams"]):
                return found
        time.sleep(0.2)
    raise AssertionError((done, found))


def submit(plane: Plane, prompt: str, agent: str = "sample") -> str:
    body = {"task_type": "agent_session", "inputs": {"agent_id": agent, "prompt": prompt}}
    return str(plane.call("POST", "/tasks", body, status=201)["task_id"])


def wait_task(node: Node, plane: Plane, task: str, status: str) -> Any:
    def look() -> Any:
        found = plane.call("GET", f"/tasks/{task}")
        return found if found["status"] == status else None

    return node.wait_for(look, what=f"task {task} to be {status}")


def join_token(plane: Plane, **fields: Any) -> str:
    return str(plane.call("POST", "/join-tokens", fields, status=201)["join_token"])


def both(node: Node, plane: Plane) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every record of the node's, on both sides."""
    link = apsw.Connection(str(plane.state / "fleet.db"), flags=apsw.SQLITE_OPEN_READONLY)
    here, there = {}, {}
    for their, (own, columns) in TABLES.items():
        theirs = f"SELECT {columns} FROM {their} WHERE node_id = ? ORDER BY {columns}"  # noqa: S608 - constants
        there[their] = link.execute(theirs, (NAME,)).fetchall()
        here[their] = query(node, f"SELECT {columns} FROM {own} ORDER BY {columns}")  # noqa: S608 - constants
    link.close()
    return here, there


def check_counts(node: Node, plane: Plane) -> dict[str, Any]:
    """Nothing lost and nothing doubled; what the node notes while it is looked at may take another round."""
    for _ in range(SYNCS):
        in_step(node)
        here, there = both(node, plane)
        if here == there:
            break
    assert here == there
    link = apsw.Connection(str(plane.state / "fleet.db"), flags=apsw.SQLITE_OPEN_READONLY)
    told = "SELECT report_seq FROM node_heartbeat_history WHERE node_id = ? AND report_seq IS NOT NULL"
    numbers = sorted(row[0] for row in link.execute(told, (NAME,)))
    link.close()
    assert numbers == list(range(1, len(numbers) + 1))
    return here


def test_a_node_joins_works_is_cut_off_and_leaves(tmp_path: Path) -> None:
    plane = Plane(tmp_path / "cp")
    made = plane.init()
    with plane, Node(config()) as node:
        plane.log_in("admin", made["password"])
        url = f"http://127.0.0.1:{plane.port}"
        _is_refused_plainly(node, plane, url)
        _joins(node, plane, url, made["joinToken"])
        _does_work(node, plane)
        _takes_policies(node, plane)
        _survives_kills(node, plane)
        _is_revoked_and_comes_back(node, plane, url)
        plane.kill()
        assert "has left" in ran(node, "leave", "--yes")  # also while nobody answers
        assert "belongs to no control plane" in ran(node, "leave", "--yes", code=6)
        assert "none configured" in ran(node, "status")
        assert not (node.state / "control_plane.json").exists()


def _is_refused_plainly(node: Node, plane: Plane, url: str) -> None:
    assert "ambientctl join URL" in ran(node, "tasks", code=6)
    assert "ambientctl join URL" in ran(node, "sync", "--control-plane", code=6)
    assert "join token" in ran(node, "join", url, code=4, given="jt_" + "0" * 64)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert "connection refused" in ran(node, "join", away, code=3, given="jt_" + "0" * 64)
    assert "not encrypted" in ran(node, "join", "http://cp.example.net", code=1, given="jt_x")
    body = {"username": "bob", "password": "a pass phrase of bob"}
    plane.call("POST", "/auth/register", body, status=201)
    bob = plane.ask("POST", "/api/v1/auth/login", body).json["access_token"]
    plane.join("taken", plane.ask("POST", "/api/v1/join-tokens", {}, token=bob).json["join_token"])
    said = ran(node, "join", url, "--name", "taken", code=6, given=join_token(plane))
    assert "another owner's" in said
    old = plane.call("POST", "/join-tokens", {}, status=201)
    plane.call("DELETE", f"/join-tokens/{old['token_id']}")
    assert "ask for a new one" in ran(node, "join", url, code=4, given=old["join_token"])
    assert not (node.state / "control_plane.json").exists()


def _joins(node: Node, plane: Plane, url: str, token: str) -> None:
    assert f"This node is {NAME} at {url}" in ran(node, "join", url, given=token)
    file = node.state / "control_plane.json"
    assert oct(file.stat().st_mode)[-3:] == "600"
    assert token not in node.log + file.read_text()
    assert "leave it first" in ran(node, "join", url, "--name", "other", code=6, given=token)
    node.wait_for(lambda: node.status()["state"]["name"] == "OnlineControlPlane")
    in_step(node)
    assert plane.call("GET", f"/nodes/{NAME}")["state"] == "OnlineControlPlane"
    (row,) = as_json(node, "nodes")["items"]
    assert (row["nodeId"], row["status"]) == (NAME, "online")
    screen = ran(node, "status")
    assert f"✓ {url} as {NAME}, " in screen
    assert "nothing waits, last push " in screen
    status = as_json(node, "status")
    assert (status["control"]["nodeId"], status["outbox"]["items"]) == (NAME, 0)
    assert status["outbox"]["lastPushAt"] <= status["generatedAt"]
    (check,) = as_json(node, "doctor", "control")["checks"]
    assert (check["result"], f"knows this node as {NAME} (online)" in check["text"]) == ("ok", True)


def _does_work(node: Node, plane: Plane) -> None:
    good, bad, lost = submit(plane, "one"), submit(plane, "fail"), submit(plane, "x", agent="nobody")
    long = submit(plane, "long")
    done = wait_task(node, plane, good, "completed")["result"]  # at the next report, with nobody's help
    assert (done["output"], done["usage"]["total_tokens"]) == ("did: one", 150)
    assert wait_task(node, plane, bad, "failed")["result"]["error"]["code"] == "exit_status"
    assert "nobody" in wait_task(node, plane, lost, "failed")["result"]["error"]["message"]
    session = done["session_id"]
    assert as_json(node, "sessions", "show", session)["ledger"]["status"] == "success"
    there = plane.call("GET", f"/nodes/{NAME}/ledger/{session}")
    assert there["session"]["task_id"] == good
    assert [event["seq"] for event in there["events"]] == list(range(1, len(there["events"]) + 1))
    assert there["usage"]["cost_usd"] == 0.5
    assert plane.call("GET", f"/nodes/{NAME}/usage")["total_tokens"] >= 300
    active = as_json(node, "node", "activity", NAME)["activeTasks"]
    assert [task["taskId"] for task in active] == [long]
    plane.call("DELETE", f"/tasks/{long}")
    ran(node, "sync", "--control-plane")
    node.wait_for(lambda: query(node, "SELECT 1 FROM session_ledger WHERE status = 'killed'"))
    screen = ran(node, "node", "activity", NAME)
    assert "No tasks currently assigned to this node" in screen
    log = [line.partition("] ")[2] for line in screen.splitlines() if line.startswith("[")]
    assert log[0] == f"Task {long[:12]}… [agent_session] — cleared"
    assert f"Task {good[:12]}… [agent_session] — finished (completed) ✓" in log
    assert f"Task {bad[:12]}… [agent_session] — finished (failed) ✗" in log
    assert "no such node" in ran(node, "node", "activity", "other", code=5)


def _takes_policies(node: Node, plane: Plane) -> None:
    policy = {"id": "web", "revision": 1, "destinations": ["https://api.example.com"]}
    draft = {"policy": [policy | {"protocols": ["https"], "valid_for": "30d"}]}
    plane.call("POST", "/policies/issue", draft, status=201)
    assert "policies: 1 came down, 1 changed something" in ran(node, "sync", "--control-plane")
    assert "control plane" in ran(node, "policy", "list")
    assert "allowed" in ran(node, "policy", "check", "https://api.example.com/")


def _survives_kills(node: Node, plane: Plane) -> None:
    check_counts(node, plane)
    task = submit(plane, "two")
    plane.kill()
    assert "connection refused" in ran(node, "tasks", code=3)
    node.wait_for(lambda: node.status()["state"]["name"] == "OfflineControlPlane")
    for number in range(3):
        ran(node, "spawn", "sample", f"alone {number}")
    node.wait_for(
        lambda: query(node, "SELECT count(*) FROM session_ledger WHERE status = 'success'")[0][0] >= 4
    )
    assert "connection refused" in ran(node, "sync", "--control-plane", code=3)
    status = as_json(node, "status")
    assert status["outbox"]["items"] > 3
    assert status["outbox"]["streams"]["audit"] > 0
    (check,) = as_json(node, "doctor", "control", code=11)["checks"]
    assert (check["result"], "connection refused" in check["text"]) == ("fail", True)
    node.kill9()
    plane.start()
    node.start()
    wait_task(node, plane, task, "completed")  # handed out before the kill, or after it; once
    here = check_counts(node, plane)
    assert len(here["node_sessions"]) == 1 + 1 + 1 + 1 + 3
    assert plane.call("GET", f"/nodes/{NAME}")["status"] == "online"
    assert ran(node, "audit", "verify")


def _is_revoked_and_comes_back(node: Node, plane: Plane, url: str) -> None:
    before = json.loads((node.state / "control_plane.json").read_text())
    assert "new credential" in ran(node, "node", "renew")
    after = json.loads((node.state / "control_plane.json").read_text())
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {"credential_id", "device_token"}
    check_counts(node, plane)
    assert plane.ask("GET", f"/api/v1/nodes/{NAME}", token=before["device_token"]).status == 401
    plane.call("DELETE", f"/nodes/{NAME}/credential")
    said = ran(node, "sync", "--control-plane", code=4)
    assert "credential counts no longer" in said
    assert f"ambientctl join {url}" in said
    assert f"ambientctl join {url}" in ran(node, "tasks", code=4)
    problem = next(one for one in as_json(node, "status")["problems"] if one["id"] == "control.refused")
    assert problem["help"] == f"ambientctl join {url}"
    (check,) = as_json(node, "doctor", "control", code=11)["checks"]
    assert "credential counts no longer" in check["text"]
    ran(node, "join", url, given=join_token(plane))
    check_counts(node, plane)


# --- the way there


class Tunnel(socketserver.ThreadingTCPServer):
    """A proxy that knows CONNECT, and counts."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Through)
        self.opened: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Through(socketserver.StreamRequestHandler):
    server: Tunnel

    def handle(self) -> None:
        verb, where, _ = self.rfile.readline().decode().split(" ", 2)
        while self.rfile.readline().strip():
            pass
        self.server.opened.append(f"{verb} {where}")
        host, _, port = where.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_carry, args=(there, self.connection), daemon=True)
            back.start()
            _carry(self.connection, there)
            back.join(10)


def _carry(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one of the two has gone


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    with Tunnel() as found:
        yield found
        found.shutdown()


def test_the_way_there_is_proven_on_both_ends_and_may_lead_through_a_proxy(
    tmp_path: Path, tunnel: Tunnel
) -> None:
    (cert, key), (own, own_key) = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    server = f'tls_cert = "{cert}"\ntls_key = "{key}"\ntls_client_ca = "{own}"\nregistration = true\n'
    plane = Plane(tmp_path / "cp", config=f"[server]\n{server}", environment=RANDOM)
    plane.tls = ssl.create_default_context(cafile=str(cert))
    plane.tls.load_cert_chain(own, own_key)
    pin = pin_of(ssl.PEM_cert_to_DER_cert(cert.read_text()))
    node = Node(config())
    (tmp_path / "sitecustomize.py").write_text(HOOK.format(path=str(tmp_path / "loaded")))
    node.environment["PYTHONPATH"] = f"{tmp_path}:{REPOSITORY}"
    with plane, node:
        body = {"username": "ann", "password": "a pass phrase of ann"}
        plane.ask("POST", "/api/v1/auth/register", body)
        plane.log_in(body["username"], body["password"])
        token = join_token(plane)
        url = f"https://127.0.0.1:{plane.port}"
        shown = {"client_cert": str(own), "client_key": str(own_key)}
        for way, why in (
            ({}, "certificate is not trusted"),
            ({"ca_file": str(cert)}, "client certificate"),
            ({"ca_file": str(cert), "pin": "sha256:" + "0" * 64, **shown}, "not the pinned one"),
        ):
            goes_by(node, way)
            assert why in ran(node, "join", url, code=3, given=token)
        best = {"ca_file": str(cert), "pin": pin, "proxy": tunnel.url, **shown}
        goes_by(node, best)
        assert f"This node is {NAME} at {url}" in ran(node, "join", url, given=token)
        in_step(node)
        node.wait_for(lambda: node.status()["state"]["name"] == "OnlineControlPlane")
        assert set(tunnel.opened) == {f"CONNECT 127.0.0.1:{plane.port}"}
        goes_by(node, best | {"proxy": "http://127.0.0.1:9"})
        assert "connection refused" in ran(node, "sync", "--control-plane", code=3)
        goes_by(node, best)
        in_step(node)
        node.stop()
        loaded = set((tmp_path / "loaded").read_text().split())
        assert (sorted(loaded & JOINED), sorted(CONTROL - loaded)) == ([], [])
        # By what lies on the disk. Two seconds are little on a machine that others use too.
        said = [node.ctl("doctor", "control").stdout for _ in range(3)]
        assert any(f"knows this node as {NAME}" in text for text in said), said


def goes_by(node: Node, way: dict[str, Any]) -> None:
    """The daemon takes another way from now on, without a restart."""
    node.configure(config(**way))
    ran(node, "reload")
