"""Alerts from outside: a real node, a real command that is told, SQL on the file."""

import hashlib
import hmac
import http.server
import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.e2e.harness import Node
from tests.e2e.sessionkit import spawn, wait_ended

MakeNode = Callable[..., Node]
KEEP = "import os,sys; out=open(sys.argv[1],'a'); out.write(sys.stdin.read()+'\\n'); out.close()"
TOLD_SEC = 30.0


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def config(out: Path) -> dict[str, Any]:
    return {
        "agents": {"bad": {"command": ["/bin/false"]}, "good": {"command": ["/bin/true"]}},
        "alerts": {
            "notifiers": {
                "keep": {"kind": "command", "command": [sys.executable, "-I", "-c", KEEP, str(out)]},
                "deaf": {"kind": "command", "command": ["/nonexistent/pager"]},
            }
        },
    }


def add_rule(node: Node, *options: str) -> str:
    done = node.ctl(
        "alerts", "rules", "add", "failure_rate", "--warn", "0.25", "--critical", "0.75", *options, "--json"
    )
    assert done.returncode == 0, done
    found: str = json.loads(done.stdout)["ruleId"]
    return found


def rows(node: Node, sql: str) -> list[tuple[Any, ...]]:
    path = f"file:{node.state}/ambient.db?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as connection:
        return connection.execute(sql).fetchall()


def test_a_failing_agent_makes_an_alert_that_is_told_shown_survives_kill_9_and_ends(
    new_node: MakeNode, tmp_path: Path
) -> None:
    out = tmp_path / "told"
    node = new_node(config(out))
    assert "alerts " not in node.ctl("status").stdout
    rule_id = add_rule(node, "--window", "1h", "--name", "Sessions fail")
    add_rule(node, "--agent", "nobody")
    assert "alerts   ✓ none" in node.ctl("status").stdout

    wait_ended(node, spawn(node, "bad"))
    (first,) = node.wait_for(lambda: told(out), TOLD_SEC, "the notification")
    assert (first["reason"], first["status"], first["value"]) == ("active", "critical", 1.0)
    assert first["ruleId"] == rule_id
    assert rows(node, "SELECT status, lifecycle_state, last_value FROM alert_state WHERE status <> 'ok'") == [
        ("critical", "active", 1.0)
    ]

    shown = node.ctl("alerts")
    assert shown.returncode == 0
    assert "failure_rate" in shown.stdout
    checked = node.ctl("status", "--check")
    assert checked.returncode == 11
    assert "alerts   ✕ 1 critical" in checked.stdout
    assert f"ambientctl alerts show {rule_id[:8]}" in checked.stdout
    assert node.ctl("alerts", "ack", rule_id[:8]).returncode == 0
    node.wait_for(
        lambda: "notifier deaf could not be told" in node.ctl("status").stdout, TOLD_SEC, "the deaf notifier"
    )

    node.kill9()
    node.start()
    (alert,) = json.loads(node.ctl("alerts", "--json").stdout)["items"]
    assert alert["ruleId"] == rule_id
    assert alert["acknowledgedBy"].startswith("uid:")

    for _ in range(4):
        wait_ended(node, spawn(node, "good"))
    node.wait_for(lambda: len(told(out)) == 2, TOLD_SEC, "the resolution")
    assert told(out)[1]["reason"] == "resolved"
    assert json.loads(node.ctl("alerts", "rules", "--json").stdout)["total"] == 2
    assert node.ctl("alerts", "rules", "remove", rule_id, "--yes").returncode == 0


class _Receiver(http.server.BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[dict[str, str], bytes]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[tuple[dict[str, str], bytes]]]]:
    """A web server on loopback that takes everything."""

    class Receiver(_Receiver):
        seen: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], Receiver.seen
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_notifiers_are_tried_out_and_the_webhook_is_signed(
    new_node: MakeNode, tmp_path: Path, receiver: tuple[int, list[tuple[dict[str, str], bytes]]]
) -> None:
    pytest.importorskip("httpcore2", reason="the extra `webhook` is not installed")
    port, seen = receiver
    key = tmp_path / "key"
    key.write_text("a shared key\n")
    key.chmod(0o600)
    settings = config(tmp_path / "told")
    settings["alerts"]["notifiers"]["ops"] = {
        "kind": "webhook",
        "url": f"http://127.0.0.1:{port}/in",
        "secret_file": str(key),
    }
    node = new_node(settings)
    for name, code in (("log", 0), ("keep", 0), ("deaf", 1), ("ops", 0), ("nobody", 5)):
        done = node.ctl("alerts", "test-notifier", name)
        assert done.returncode == code, done
    (headers, body), *others = seen
    assert others == []
    signed = headers["x-ambient-timestamp"].encode() + b"." + body
    wanted = "sha256=" + hmac.new(b"a shared key", signed, hashlib.sha256).hexdigest()
    assert headers["x-ambient-signature"] == wanted
    assert json.loads(body)["reason"] == "test"
    key.chmod(0o644)
    done = node.ctl("alerts", "test-notifier", "ops")
    assert done.returncode == 1
    assert "0644" in done.stderr
    assert "a shared key" not in node.log + done.stderr
