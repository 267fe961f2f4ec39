"""`doctor` from outside: with a daemon, without one, and with a gateway in every mood."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.harness import Node
from tests.fakes.gateway.process import FakeGatewayProcess

MakeNode = Callable[..., Node]
IDS = [
    "config.valid",
    "files.private",
    "daemon.answers",
    "clock.sane",
    "database.whole",
    "identity.bound",
    "audit.chain",
    "disk.free",
    "links.up",
    "gateway.link",
    "control.link",
    "peers.seen",
    "pulse.feed",
    "power.meter",
]


def report(node: Node, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and checks by id."""
    done = node.ambientd("doctor", "--json", *words)
    document = json.loads(done.stdout)
    assert document["schema"] == "ambient.doctor/1"
    assert done.stderr == ""
    return done.returncode, {check["id"]: check for check in document["checks"]}


def with_gateway(gateway: FakeGatewayProcess, token: str | None = None) -> dict[str, Any]:
    return {
        "config": {"gateway": {"enabled": True, "url": gateway.url}},
        "environment": {"OPENCLAW_AUTH_TOKEN": token or gateway.token},
    }


def test_a_node_that_is_well_has_nothing_to_say(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(lambda: node.beats() and node.status().get("audit"))
    code, checks = report(node)
    assert list(checks) == IDS
    told = {name: check["result"] for name, check in checks.items()}
    power = told["power.meter"]  # as the machine has it
    assert power in ("ok", "skip")
    absent = {"gateway.link", "control.link", "peers.seen", *(["power.meter"] if power == "skip" else [])}
    if "nothing is configured that needs one" in checks["links.up"]["text"]:
        absent.add("links.up")  # the machine of the test has no network
    assert told == {name: "skip" if name in absent else "ok" for name in IDS}
    assert code == 0
    screen = node.ambientd("doctor").stdout
    assert screen.startswith("config      ✓ ")
    assert f"\n{len(IDS) - len(absent)} ok, {len(absent)} skipped in " in screen


def test_without_the_daemon_everything_else_is_looked_at_and_nothing_is_changed(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(node.beats)
    node.stop()
    before = sorted(path.relative_to(node.root) for path in node.root.rglob("*"))
    code, checks = report(node)
    assert code == 11
    assert checks["daemon.answers"]["result"] == "fail"
    assert "stopped" in checks["daemon.answers"]["text"]
    assert "run" in checks["daemon.answers"]["remedy"]
    assert checks["database.whole"]["text"].startswith("quick_check ok, schema ")
    assert checks["pulse.feed"]["result"] == "ok"
    after = sorted(path.relative_to(node.root) for path in node.root.rglob("*"))
    side_files = {".db-wal", ".db-shm"}  # an empty log and its index, which SQLite makes for who reads
    assert [path for path in after if path not in before and path.suffix not in side_files] == []
    assert node.start().is_ready()


def test_each_trouble_is_named_with_what_helps(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(node.beats)
    node.stop()
    node.configure("[node]\nnaem = 'x'\n")
    (node.state / "ambient.db").write_bytes(b"no database" * 100)
    node.feed.write_bytes(node.feed.read_bytes() + b"{torn\n")
    (node.state / "gateway_device.key").write_text("0" * 64)
    (node.state / "gateway_device.key").chmod(0o644)
    code, checks = report(node, "config", "files", "database", "pulse")
    assert code == 11
    assert {check["result"] for check in checks.values()} == {"fail"}
    assert "name" in checks["config.valid"]["text"]
    assert checks["config.valid"]["remedy"] == "ambientctl check-config"
    assert checks["files.private"]["remedy"].startswith("chmod 600 ")
    assert "0" * 64 not in json.dumps(checks)
    assert checks["pulse.feed"]["remedy"] == "ambientctl feed validate"


def test_a_check_may_be_asked_for_alone_and_an_unknown_one_is_a_usage_error(new_node: MakeNode) -> None:
    node = new_node(ready=False)
    node.wait_for(node.is_ready)
    for words in (["disk"], ["--only", "disk"], ["--only", "disk.free"]):
        code, checks = report(node, *words)
        assert (code, list(checks)) == (0, ["disk.free"])
    bad = node.ambientd("doctor", "--only", "dsk")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "gateway" in bad.stderr


def test_the_command_line_hands_it_over(new_node: MakeNode) -> None:
    node = new_node()
    done = node.ctl("doctor", "disk", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["checks"][0]["id"] == "disk.free"


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "no-daemon"])
def test_a_gateway_that_is_well_is_said_to_be(new_node: MakeNode, running: bool) -> None:
    with FakeGatewayProcess() as gateway:
        node = new_node(**with_gateway(gateway))
        node.wait_for(lambda: node.status()["gateway"]["healthy"], 15)
        if not running:
            node.stop()
        code, checks = report(node, "gateway")
        assert code == 0, checks
        assert "token accepted" in checks["gateway.link"]["text"]
        assert "protocol 4" in checks["gateway.link"]["text"]
        assert gateway.token not in json.dumps(checks)


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "no-daemon"])
@pytest.mark.parametrize(
    ("case", "words", "remedy"),
    [
        ("lan-not-paired", "pairing required", "openclaw devices approve "),
        ("wrong-token", "refused the token", "gateway.auth.token"),
    ],
)
def test_a_gateway_that_refuses_says_why_and_what_helps(
    new_node: MakeNode, running: bool, case: str, words: str, remedy: str
) -> None:
    with FakeGatewayProcess(*(["--lan"] if case == "lan-not-paired" else [])) as gateway:
        wrong = "no-such-token-0000" if case == "wrong-token" else None
        node = new_node(**with_gateway(gateway, wrong))
        node.wait_for(lambda: node.status()["gateway"]["phase"] == "refused", 20)
        screen = node.ctl("status").stdout
        assert "gateway  ✕ refused: " in screen
        assert remedy in node.ctl("status", "--json").stdout
        if not running:
            node.stop()
        code, checks = report(node, "gateway")
        found = checks["gateway.link"]
        assert (code, found["result"]) == (11, "fail")
        assert words in found["text"]
        assert remedy in found["remedy"]
        assert (wrong or gateway.token) not in json.dumps(checks) + screen


def test_a_gateway_that_is_away_or_silent_takes_no_longer_than_two_seconds(new_node: MakeNode) -> None:
    with FakeGatewayProcess() as gateway:
        node = new_node(**with_gateway(gateway), ready=False)
        node.wait_for(node.is_ready)
        node.stop()
        gateway.do("set", name="mute", value=True)
        began = time.monotonic()
        code, checks = report(node, "gateway")
        took = time.monotonic() - began
        assert (code, checks["gateway.link"]["tookMs"] <= 2_000) == (11, True)
        assert "has not greeted" in checks["gateway.link"]["text"]
        assert took < 6, "and a start of the interpreter"
        gateway.do("stop")
        code, checks = report(node, "gateway")
        assert (code, "connection refused" in checks["gateway.link"]["text"]) == (11, True)
        assert "openclaw gateway status" in checks["gateway.link"]["remedy"]


def test_a_place_that_hangs_does_not_hold_the_report_up(new_node: MakeNode) -> None:
    """A pipe with nobody at its other end, where a file is expected."""
    node = new_node()
    node.stop()
    node.feed.unlink(missing_ok=True)
    subprocess.run(["mkfifo", str(node.feed)], check=True)
    began = time.monotonic()
    code, checks = report(node)
    assert (code, time.monotonic() - began < 6) == (11, True)
    assert checks["pulse.feed"]["result"] == "warn"
