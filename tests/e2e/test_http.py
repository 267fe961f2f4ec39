"""HTTP on TCP from outside: who gets in, what is open, and that the secret is nowhere to be seen."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node, processes_of
from tests.e2e.httpkit import SECRET, Web, everything_said, http_config, logs, read_reply

MakeNode = Callable[..., Node]
AGENT = {"echo": {"command": ["/bin/cat"]}, "stay": {"command": ["/bin/sleep", "600"]}}
ENVIRONMENT = {"HELICARRIER_SECRET": SECRET}


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """One node for the tests that only ask."""
    with Node({"agents": AGENT, **http_config()}, environment=ENVIRONMENT) as node:
        yield Web(node)


def paths_of(web: Web) -> list[tuple[str, str, Any]]:
    document = web.get("/openapi.json").json
    return [
        (method.upper(), re.sub(r"\{\w+\}", "x", path), operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_every_route_answers_401_without_the_key_but_those_that_are_documented_as_open(web: Web) -> None:
    stranger = Web(web.node, key=None)
    found = paths_of(web)
    assert len(found) > 20
    is_open = []
    for method, path, operation in found:
        reply = stranger.raw(stranger.head(method, path))
        if operation["security"] == []:
            is_open.append(path)
            assert reply.status == 200, path
        else:
            assert reply.status == 401, (method, path)
            assert reply.code in ("NOT_AUTHORIZED", "INGEST_NOT_AUTHORIZED")
    assert sorted(is_open) == ["/livez", "/readyz"]


def test_every_route_is_reached_with_the_key(web: Web) -> None:
    for method, path, _ in paths_of(web):
        if path == "/api/system/status/stream":
            continue
        reply = web.raw(web.head(method, path, "Content-Length: 0"))
        assert reply.status not in (401, 403, 405, 500), (method, path, reply)


@pytest.mark.parametrize(
    "key",
    ["", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "\xe9\xff" * 20, "null", "*", "x" * 15_000],
    ids=lambda key: f"{len(key)}-{key[:6]}",
)
def test_a_wrong_key_is_401_like_a_missing_one(web: Web, key: str) -> None:
    missing = Web(web.node, key=None).get("/api/system/status")
    wrong = Web(web.node, key=key).get("/api/system/status")
    assert (missing.status, wrong.status) == (401, 401)
    told = [{**reply.json["error"], "requestId": ""} for reply in (missing, wrong)]
    assert told[0] == told[1]


def test_a_key_of_a_megabyte_and_two_keys_are_401(web: Web) -> None:
    stranger = Web(web.node, key=None)
    with stranger.link() as link:
        link.sendall(f"GET /api/logs HTTP/1.1\r\nHost: {web.name}\r\nX-Secret-Key: ".encode())
        try:
            for _ in range(64):
                link.sendall(b"k" * 16_384)
        except OSError:
            pass  # the answer came before the end of it
        assert read_reply(link).status == 401
    assert web.get("/api/logs", f"X-Secret-Key: {SECRET}").status == 401
    assert web.get("/api/logs").status == 200


def test_the_name_of_the_header_is_read_in_any_case(web: Web) -> None:
    stranger = Web(web.node, key=None)
    assert stranger.get("/api/logs", f"x-sEcReT-kEy: {SECRET}").status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "body"),
    [
        ("POST", "/api/control/kill", ("Content-Type: text/plain",), b"{"),
        ("POST", "/api/control/spawn", ("Content-Type: application/json",), b"\xff\x00"),
        ("DELETE", "/api/control/kill", (), b""),
        ("GET", "/api/nowhere", (), b""),
        ("GET", "/api/system/status?width=0", (), b""),
        ("GET", "/api/%zz", (), b""),
        ("OPTIONS", "/api/logs", (), b""),
        ("POST", "/livez", (), b""),
        ("GET", "/" + "a" * 9000, (), b""),
        ("POST", "/api/v3/ingest/session", ("Content-Encoding: gzip",), b"x"),
    ],
)
def test_without_the_key_it_is_401_whatever_else_is_wrong(
    web: Web, method: str, path: str, headers: tuple[str, ...], body: bytes
) -> None:
    stranger = Web(web.node, key=None)
    reply = stranger.raw(stranger.head(method, path, *headers, f"Content-Length: {len(body)}") + body)
    assert reply.status == 401


def test_401_comes_before_the_body_is_sent(web: Web) -> None:
    stranger = Web(web.node, key=None)
    with stranger.link() as link:
        link.sendall(stranger.head("POST", "/api/v3/ingest/session", "Content-Length: 900000"))
        reply = read_reply(link)
    assert (reply.status, reply.code) == (401, "INGEST_NOT_AUTHORIZED")
    with stranger.link() as link:
        link.sendall(stranger.head("POST", "/api/control/kill", "Content-Length: 99999999"))
        assert read_reply(link).status == 401


@pytest.mark.parametrize(
    "host",
    [
        "evil.test:{port}",
        "127.0.0.1.evil.test:{port}",
        "localhost.evil.test:{port}",
        "printer.local:{port}",
        "localhost.:{port}",
        "127.0.0.1.:{port}",
        "LOCALHOST:{port}",
        "[::ffff:127.0.0.1]:{port}",
        "[::1]:{port}",
        "127.1:{port}",
        "2130706433:{port}",
        "0.0.0.0:{port}",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:1",
        "127.0.0.1:{port}0",
        "user@127.0.0.1:{port}",
        "127.0.0.1:{port}, evil.test",
        "",
    ],
)
def test_a_foreign_host_is_403_also_with_the_key_and_on_open_routes(web: Web, host: str) -> None:
    name = host.format(port=web.port)
    assert web.get("/api/system/status", host=name).status == 403
    assert web.get("/livez", host=name).status == 403
    assert web.post("/api/control/kill", {"sessionId": "x"}, "X-Ignored: 1").status == 404


def test_without_a_host_or_with_two_it_is_403(web: Web) -> None:
    key = f"X-Secret-Key: {SECRET}\r\n\r\n"
    own = f"Host: {web.name}\r\n"
    assert web.raw(f"GET /api/logs HTTP/1.1\r\n{key}".encode()).status == 403
    assert web.raw(f"GET /api/logs HTTP/1.0\r\n{key}".encode()).status == 403
    assert web.raw(f"GET /api/logs HTTP/1.1\r\n{own}Host: evil.test\r\n{key}".encode()).status == 403
    absolute = f"GET http://evil.test/api/logs HTTP/1.1\r\nHost: evil.test\r\n{key}"
    assert web.raw(absolute.encode()).status == 403


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Origin: http://127.0.0.1:{port}", 200),
        ("Origin: http://localhost:{port}", 200),
        ("Origin: https://127.0.0.1:{port}", 403),
        ("Origin: http://127.0.0.1:1", 403),
        ("Origin: http://evil.test", 403),
        ("Origin: http://evil.test:{port}", 403),
        ("Origin: null", 403),
        ("Origin: ", 403),
        ("Sec-Fetch-Site: same-origin", 200),
        ("Sec-Fetch-Site: none", 200),
        ("Sec-Fetch-Site: same-site", 403),
        ("Sec-Fetch-Site: cross-site", 403),
        ("Sec-Fetch-Site: ", 403),
    ],
)
def test_pages_of_other_origins_are_403(web: Web, header: str, status: int) -> None:
    reply = web.get("/api/system/status", header.format(port=web.port))
    assert reply.status == status
    assert not any(name.startswith("access-control") for name in reply.headers)
    assert "set-cookie" not in reply.headers


def test_it_listens_on_loopback_and_nowhere_else(web: Web) -> None:
    found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    mine = [line.split()[3] for line in found.splitlines() if f"pid={web.node.pid}," in line]
    assert mine == [web.name]
    assert web.host == "127.0.0.1"


def test_logs_have_their_shape_and_say_no_secret(web: Web) -> None:
    page = web.get("/api/logs").json
    assert page["logs"]
    for line in logs(page):
        assert {"ts", "level", "msg", "seq"} <= set(line)
    assert len(logs(web.get("/api/logs?limit=1").json)) == 1
    last = page["lastSeq"]
    assert logs(web.get(f"/api/logs?after={last}&level=error").json) == []
    assert web.get("/api/logs?limit=0").status == 400
    assert web.get("/api/logs?level=loud").status == 400


def test_the_stream_has_what_the_poll_has_and_tells_of_changes_at_once(web: Web) -> None:
    with web.link() as link:
        link.sendall(web.head("GET", "/api/system/status/stream"))
        events = stream_of(link)
        first = next(events)
        polled = web.get("/api/system/status").json
        assert first.keys() == polled.keys()
        began = time.monotonic()
        session = web.post("/api/control/spawn", {"agentId": "stay", "prompt": "x"}).json["sessionId"]
        while next(events)["sessions"]["running"] == 0:
            pass
        assert time.monotonic() - began < 5
        assert web.get("/api/system/status").json["sessions"]["running"] == 1
        assert web.post("/api/control/kill", {"sessionId": session}).status == 200
        while next(events)["sessions"]["running"] == 1:
            pass


def stream_of(link: socket.socket) -> Iterator[Any]:
    """The documents of a stream of events."""
    file = link.makefile("rb")
    for line in file:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_a_status_after_a_spawn_knows_of_it_however_lately_it_was_asked(web: Web) -> None:
    for _ in range(5):
        before = web.get("/api/system/status").json["ledger"]["sessions"]
        assert web.post("/api/control/spawn", {"agentId": "echo", "prompt": "hi"}).status == 200
        assert web.get("/api/system/status").json["ledger"]["sessions"] == before + 1


def audits(node: Node) -> list[dict[str, Any]]:
    return node.log_events("[AUDIT]")


def test_every_control_action_has_an_audit_line_also_those_that_were_refused(new_node: MakeNode) -> None:
    node = new_node({"agents": AGENT, "log": {"level": "error"}, **http_config()}, environment=ENVIRONMENT)
    web, stranger = Web(node), Web(node, key="wrong")
    session = web.post("/api/control/spawn", {"agentId": "stay", "prompt": "marker-prompt"}).json["sessionId"]
    stranger.post("/api/control/kill", {"sessionId": session}, "X-Forwarded-For: 9.9.9.9")
    web.post("/api/control/kill", {"sessionId": 'x\n{"event":"[AUDIT]","action":"forged"}'})
    web.post("/api/control/kill", b"{")
    web.get("/api/control/kill")
    web.post("/api/control/kill", {"sessionId": session}, "Origin: http://evil.test")
    web.post("/api/control/kill", {"sessionId": session})
    node.post("/api/control/kill", {"sessionId": "nobody"})
    found = [(line["action"], line["actor"], line.get("refused")) for line in audits(node)]
    assert found == [
        ("spawn", "ip:127.0.0.1", None),
        ("kill", "ip:127.0.0.1", "NOT_AUTHORIZED"),
        ("kill", "ip:127.0.0.1", "NOT_FOUND"),
        ("kill", "ip:127.0.0.1", "VALIDATION_ERROR"),
        ("kill", "ip:127.0.0.1", "NOT_AUTHORIZED"),
        ("kill", "ip:127.0.0.1", None),
        ("kill", found[-1][1], "NOT_FOUND"),
    ]
    assert found[-1][1].startswith("uid:")
    assert "marker-prompt" not in node.log
    assert "forged" not in node.log


def test_the_address_behind_a_trusted_proxy_is_the_one_that_is_audited(new_node: MakeNode) -> None:
    config = http_config(trusted_proxies=["127.0.0.1"], hosts=["node.example.net"])
    node = new_node(config, environment=ENVIRONMENT)
    web = Web(node)
    line = "X-Forwarded-For: 6.6.6.6, 203.0.113.9"
    web.post("/api/control/kill", {"sessionId": "x"}, line)
    assert [entry["actor"] for entry in audits(node)] == ["ip:203.0.113.9"]
    assert web.get("/api/logs", host="node.example.net").status == 200


def test_the_secret_is_nowhere_to_be_seen(new_node: MakeNode) -> None:
    node = new_node({"agents": AGENT, "log": {"level": "debug"}, **http_config()}, environment=ENVIRONMENT)
    web = Web(node)
    said = [web.get("/api/system/status").body, web.get("/openapi.json").body]
    web.post("/api/control/spawn", {"agentId": SECRET, "prompt": "x"})
    web.get(f"/api/{SECRET}")
    Web(node, key=SECRET + "x").get("/api/logs")
    session = web.post("/api/control/spawn", {"agentId": "echo", "prompt": "x"}).json["sessionId"]
    node.wait_for(lambda: web.get(f"/api/v3/ledger/{session}").json["ledger"]["status"] == "success")
    said += [web.get("/api/logs?limit=2000").body, web.get("/api/v3/ledger").body]
    for words in (("status",), ("status", "--json"), ("logs",), ("config", "show"), ("reload",)):
        done = node.ctl(*words)
        said += [done.stdout.encode(), done.stderr.encode()]
    for pid in (node.pid, *processes_of(node.root)):
        said.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    node.stop()
    assert SECRET not in everything_said(node)
    assert not any(SECRET.encode() in text for text in said)


# --- starting


@pytest.mark.parametrize(
    ("http", "environment", "words"),
    [
        ({"enabled": True}, {}, ("HELICARRIER_SECRET", "http.enabled")),
        ({"enabled": True}, {"OPENCLAW_AUTH_TOKEN": SECRET}, ("OPENCLAW_AUTH_TOKEN", "development")),
        ({"enabled": True}, {"HELICARRIER_SECRET": ""}, ("HELICARRIER_SECRET",)),
        ({}, {"HELICARRIER_SECRET": "short"}, ("HELICARRIER_SECRET", "32")),
        ({}, {"HELICARRIER_SECRET": "change-me"}, ("HELICARRIER_SECRET", "placeholder")),
        ({}, {"HELICARRIER_SECRET": "change-me-change-me-change-me-change-me"}, ("placeholder",)),
        ({}, {"HELICARRIER_SECRET": "a" * 40}, ("HELICARRIER_SECRET",)),
        ({}, {"HELICARRIER_SECRET": "   "}, ("HELICARRIER_SECRET", "empty")),
        ({"listen": "0.0.0.0:0"}, {"HELICARRIER_SECRET": SECRET}, ("http.listen", "allow_non_loopback")),
        ({"listen": "localhost"}, {"HELICARRIER_SECRET": SECRET}, ("http.listen",)),
        ({"secret_file": "/nonexistent/key"}, {}, ("/nonexistent/key",)),
    ],
)
def test_a_secret_that_protects_nothing_stops_the_start_before_any_socket_is_opened(
    new_node: MakeNode, http: dict[str, Any], environment: dict[str, str], words: tuple[str, ...]
) -> None:
    node = new_node({"http": http}, environment=environment, ready=False)
    assert node.wait_ended() == 78
    assert not node.socket.exists()
    for word in words:
        assert word in node.log
    for value in environment.values():
        assert len(value) < 6 or value not in node.log


@pytest.mark.parametrize("environment", [{}, {"OPENCLAW_AUTH_TOKEN": SECRET}, {"HELICARRIER_SECRET": ""}])
def test_without_a_secret_http_is_off_and_the_node_works(
    new_node: MakeNode, environment: dict[str, str]
) -> None:
    node = new_node({"gateway": {"enabled": False}}, environment=environment)
    document = node.status()
    assert document["http"]["enabled"] is False
    assert "HELICARRIER_SECRET" in document["http"]["reason"]
    assert document["health"] == "ok"
    found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    assert f"pid={node.pid}," not in found


def test_the_gateways_token_opens_the_door_in_development(new_node: MakeNode) -> None:
    config = {"node": {"mode": "development"}, **http_config()}
    node = new_node(config, environment={"OPENCLAW_AUTH_TOKEN": "short-one"})
    assert Web(node, key="short-one").get("/api/logs").status == 200


def test_the_file_and_the_credential_come_before_the_variable(new_node: MakeNode, tmp_path: Path) -> None:
    file, folder = tmp_path / "key", tmp_path / "credentials"
    folder.mkdir()
    file.write_text("f" * 8 + SECRET + "\n")
    (folder / "http.secret").write_text("c" * 8 + SECRET)
    for path in (file, folder / "http.secret"):
        path.chmod(0o600)
    node = new_node(http_config(secret_file=str(file)), environment=ENVIRONMENT)
    assert Web(node).get("/api/logs").status == 401
    assert Web(node, key="f" * 8 + SECRET).get("/api/logs").status == 200
    node.stop()
    node.environment["CREDENTIALS_DIRECTORY"] = str(folder)
    node.start()
    assert Web(node, key="f" * 8 + SECRET).get("/api/logs").status == 401
    assert Web(node, key="c" * 8 + SECRET).get("/api/logs").status == 200


def test_a_port_that_is_taken_is_a_problem_and_not_an_end(new_node: MakeNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = new_node(http_config(listen=f"127.0.0.1:{port}"), environment=ENVIRONMENT)
        document = node.status()
        assert document["health"] == "degraded"
        (problem,) = document["problems"]
        assert f"127.0.0.1:{port}" in problem["text"]
        assert "another program" in node.ctl("status").stdout
        assert len(node.log_events("http.not_listening")) == 1
    node.wait_for(lambda: node.status()["http"].get("address"), what="the port to be taken again")
    assert Web(node).get("/api/logs").status == 200
    assert node.status()["health"] == "ok"


def test_a_stop_ends_streams_and_listener_in_time(new_node: MakeNode) -> None:
    node = new_node(http_config(), environment=ENVIRONMENT)
    web = Web(node)
    with web.link() as link, web.link() as idle:
        link.sendall(web.head("GET", "/api/system/status/stream"))
        events = stream_of(link)
        next(events)
        stopped = node.stop(signal.SIGTERM)
        assert (stopped.code, stopped.seconds < 5) == (0, True)
        assert idle.recv(1) == b""
    with pytest.raises(OSError, match="refused"):
        web.link()


def test_logs_log_level_and_reload_from_the_command_line(new_node: MakeNode) -> None:
    node = new_node({"agents": AGENT}, environment=ENVIRONMENT | {"AMBIENT__HTTP__LISTEN": "127.0.0.1:0"})
    assert "node.ready" in node.ctl("logs").stdout
    assert node.ctl("log-level", "debug", "--for", "2s").returncode == 0
    node.get("/api/nowhere")
    found = json.loads(node.ctl("logs", "--level", "debug", "--json").stdout)
    assert any(line["level"] == "debug" for line in found["logs"])
    node.wait_for(lambda: node.ctl("log-level").stdout == "info\n", what="the level to go back")
    node.configure({"agents": {}, "log": {"level": "warning"}, "socket": {"max_connections": 9}})
    done = node.ctl("reload", "--json")
    answer = json.loads(done.stdout)
    assert (answer["applied"], answer["needsRestart"]) == (["agents", "log"], ["socket"])
    assert node.ctl("log-level").stdout == "warning\n"
    node.configure("[agents.bad]\ncommand = 5\n")
    done = node.ctl("reload")
    assert done.returncode == 78
    assert "agents.bad.command" in done.stderr
    assert [line["action"] for line in audits(node)] == ["log-level", "reload", "reload"]
