"""The state of the links from outside: a real daemon in a network namespace whose links are pulled."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import REPOSITORY, Node
from tests.netns import Namespace, namespaces

MakeNode = Callable[..., Node]
PORT = 8080
URL4, URL6 = f"http://10.77.0.1:{PORT}", f"http://[fd00:77::1]:{PORT}"
# Three rounds, each a second apart and a second long at most, with some jitter, and what a busy machine adds.
THREE_ROUNDS = 10.0
QUICK = {"interval": "1s", "timeout": "1s", "misses": 3, "hold": "1s"}
ONLINE, OFFLINE, NONE = "OnlineControlPlane", "OfflineControlPlane", "NoUpstream"


@pytest.fixture
def net() -> Iterator[Namespace]:
    """The node's namespace, with a link and a default route to another one, in both families."""
    with namespaces("node", "world") as (node, world):
        node.join(world)
        for here, number in ((node, 2), (world, 1)):
            here.ip("address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            here.ip("address", "add", f"fd00:77::{number}/64", "dev", "eth0", "nodad")
            here.ip("link", "set", "eth0", "up")
        route(node)
        yield node


def route(net: Namespace) -> None:
    net.ip("route", "replace", "default", "via", "10.77.0.1")
    net.ip("-6", "route", "replace", "default", "via", "fd00:77::1")


class Control:
    """What listens at the control plane's address; nothing at first."""

    def __init__(self, net: Namespace, folder: Path, host: str) -> None:
        self._net, self._host = net, host
        self._out = folder / "control"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, *flags: str) -> None:
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *(*self._net.wrapper, sys.executable, "-m", "tests.fakes.control_health"),
                    *(self._host, str(PORT), *flags),
                ],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=out,
            )
        until = time.monotonic() + 20
        while b"listening" not in self._out.read_bytes():
            assert self._process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)

    @property
    def asked(self) -> int:
        """Requests since it was opened."""
        return self._out.read_bytes().count(b"asked ")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


@contextmanager
def control_plane(
    net: Namespace, folder: Path, host: str = "10.77.0.1", *, inside: Namespace | None = None
) -> Iterator[Control]:
    """At the other end of the link, or `inside` another place."""
    place = inside or net.peer
    assert place is not None
    control = Control(place, folder, host)
    control.open()
    try:
        yield control
    finally:
        control.close()


def state(node: Node) -> dict[str, Any]:
    """As `ambientctl status --json` says it."""
    done = node.ctl("status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["state"]
    return found


def wait(node: Node, name: str, seconds: float = THREE_ROUNDS) -> dict[str, Any]:
    node.wait_for(lambda: node.status()["state"]["name"] == name, seconds, name)
    found = state(node)
    assert found["name"] == name
    return found


def changes(node: Node) -> list[str]:
    """States in the order of their audit records."""
    events = node.get("/api/v1/node/activity?limit=200").json["events"]
    found = [event["detail"]["to"] for event in events if event["event"] == "node_state_transition"]
    return found[::-1]


def config(url: str | None, **more: Any) -> dict[str, Any]:
    return {"connectivity": {**QUICK, **more}, "control_plane": {"url": url} if url else {}}


def test_every_state_is_reached_within_three_rounds_and_left_again(
    net: Namespace, tmp_path: Path, new_node: MakeNode
) -> None:
    """FAULTS N9; R1.47, R1.49, R1.50, R1.53."""
    with control_plane(net, tmp_path) as control:
        node = new_node(config(URL4), wrapper=net.wrapper)
        assert wait(node, ONLINE)["reason"] == "the control plane answers"
        assert node.status()["health"] == "ok"
        assert node.ctl("status").stdout.splitlines()[0].split("  ")[1].startswith("online · ")

        control.close()
        assert wait(node, OFFLINE)["reason"] == "connection refused"
        screen = node.ctl("status").stdout
        assert "control  ✕ unreachable for " in screen
        assert "ambientctl doctor control" in screen
        assert node.ctl("status", "--check").returncode == 10
        control.open()
        wait(node, ONLINE)

        control.close()
        control.open("--portal")  # 200, with a page
        assert "captive portal" in wait(node, OFFLINE)["reason"]
        control.close()
        control.open()
        wait(node, ONLINE)

        assert net.peer is not None
        net.peer.ip("link", "set", "eth0", "down")  # no carrier
        assert wait(node, NONE)["reason"] == "no link is up"
        assert "ambientctl doctor links" in node.ctl("status").stdout
        assert node.ambientd("doctor", "links").stdout != ""
        net.peer.ip("link", "set", "eth0", "up")
        wait(node, ONLINE)
        net.ip("route", "flush", "default")
        net.ip("-6", "route", "flush", "default")
        time.sleep(2)
        assert state(node)["name"] == ONLINE, "its answer is proof enough of an upstream"
        control.close()
        assert wait(node, NONE)["reason"] == "no default route"
        route(net)
        wait(node, OFFLINE)
        control.open()
        wait(node, ONLINE)

        net.ip("address", "del", "10.77.0.2/24", "dev", "eth0")  # the address changes
        net.ip("address", "add", "10.77.0.3/24", "dev", "eth0")
        time.sleep(4)
        assert state(node)["name"] == ONLINE

        expected = [ONLINE, OFFLINE, ONLINE, OFFLINE, ONLINE, NONE, ONLINE]
        assert changes(node)[: len(expected)] == expected
        lines = [line["after"] for line in node.log_events("connectivity.changed")]
        node.wait_for(lambda: len(changes(node)) == len(lines))
        assert lines == changes(node)
        told = {beat["meta"]["state"] for beat in node.beats()}
        assert {ONLINE, OFFLINE, NONE} <= told <= {ONLINE, OFFLINE, NONE, "Unknown"}


def test_with_ipv6_alone_the_node_is_online(net: Namespace, tmp_path: Path, new_node: MakeNode) -> None:
    net.ip("-4", "address", "flush", "dev", "eth0")
    with control_plane(net, tmp_path, "fd00:77::1") as control:
        node = new_node(config(URL6), wrapper=net.wrapper)
        wait(node, ONLINE)
        control.close()
        wait(node, OFFLINE)


def test_without_a_link_there_is_no_upstream_whatever_the_control_plane_says(
    net: Namespace, tmp_path: Path, new_node: MakeNode
) -> None:
    """R1.48: it answers, on this very machine."""
    assert net.peer is not None
    net.peer.ip("link", "set", "eth0", "down")
    time.sleep(1.5)  # until the kernel has told
    with control_plane(net, tmp_path, "127.0.0.1", inside=net) as control:
        node = new_node(config(f"http://127.0.0.1:{PORT}"), wrapper=net.wrapper)
        assert wait(node, NONE)["reason"] == "no link is up"
        time.sleep(2.5)
        assert (state(node)["name"], control.asked) == (NONE, 0)
        allowed = node.get("/api/v1/node").json["allowed"]
        assert (allowed["egress"], allowed["receive_sync"], allowed["send_sync"]) == (False, True, False)


def test_targets_decide_about_the_upstream(net: Namespace, tmp_path: Path, new_node: MakeNode) -> None:
    with control_plane(net, tmp_path) as target:
        node = new_node(config(None, targets=[f"10.77.0.1:{PORT}", "[fd00:77::1]:9"]), wrapper=net.wrapper)
        assert wait(node, OFFLINE)["reason"] == "no control plane is configured"
        assert node.status()["health"] == "ok"
        allowed = node.get("/api/v1/node").json["allowed"]
        assert (allowed["egress"], allowed["reconcile"]) == (True, False)
        target.close()
        assert "no target answers" in wait(node, NONE)["reason"], "although there is a default route"
        assert node.status()["problems"][0]["id"] == "links.no_upstream"
        target.open()
        wait(node, OFFLINE)


def test_a_partition_one_way_is_one_change_and_no_flapping(
    net: Namespace, tmp_path: Path, new_node: MakeNode
) -> None:
    """FAULTS N2: what the node says arrives, what is answered does not."""
    assert net.peer is not None
    with control_plane(net, tmp_path):
        node = new_node(config(URL4), wrapper=net.wrapper)
        wait(node, ONLINE)
        net.peer.ip("route", "add", "blackhole", "10.77.0.2/32")
        assert wait(node, OFFLINE, 2 * THREE_ROUNDS)["reason"] == "connect timeout"
        time.sleep(6)
        assert changes(node) == [ONLINE, OFFLINE]
        net.peer.ip("route", "del", "blackhole", "10.77.0.2/32")
        wait(node, ONLINE)
        assert changes(node) == [ONLINE, OFFLINE, ONLINE]


def test_a_link_that_flaps_ten_times_a_second_flaps_nothing_else(
    net: Namespace, tmp_path: Path, new_node: MakeNode
) -> None:
    """R1.56: with one miss allowed, the hold alone bounds the changes."""
    hold = 3
    with control_plane(net, tmp_path):
        node = new_node(config(URL4, misses=1, hold=f"{hold}s"), wrapper=net.wrapper)
        wait(node, ONLINE)
        before = len(changes(node))
        began = time.monotonic()
        for flap in range(100):
            net.ip("link", "set", "eth0", "up" if flap % 2 else "down")
            time.sleep(max(0.0, began + flap / 10 - time.monotonic()))
        took = time.monotonic() - began
        flapped = len(changes(node)) - before
        assert flapped <= 1 + took / hold
        net.ip("link", "set", "eth0", "up")
        wait(node, ONLINE, THREE_ROUNDS + hold)


def test_told_to_be_offline_it_calls_nobody(net: Namespace, tmp_path: Path, new_node: MakeNode) -> None:
    with control_plane(net, tmp_path) as control:
        node = new_node(config(URL4, targets=[f"10.77.0.1:{PORT}"]), flags=["--offline"], wrapper=net.wrapper)
        found = wait(node, OFFLINE)
        assert (found["offline"], "--offline" in found["reason"]) == (True, True)
        time.sleep(3)
        assert (state(node)["name"], control.asked) == (OFFLINE, 0)
        assert (node.status()["health"], node.status()["problems"]) == ("ok", [])
        assert "control  ○ not asked" in node.ctl("status").stdout
        assert node.ambientd("doctor", "control").returncode == 0
        assert control.asked == 0
        assert net.peer is not None
        net.peer.ip("link", "set", "eth0", "down")
        assert wait(node, NONE)["offline"] is True
        assert not node.get("/api/v1/node").json["allowed"]["egress"]


def test_offline_can_be_ordered_and_called_back_while_it_runs(
    net: Namespace, tmp_path: Path, new_node: MakeNode
) -> None:
    with control_plane(net, tmp_path) as control:
        node = new_node(config(URL4, hold="600s"), wrapper=net.wrapper)
        wait(node, ONLINE)
        node.configure(config(URL4, hold="1s", offline=True))
        assert node.ctl("reload").returncode == 0
        assert not node.get("/api/v1/node").json["allowed"]["reconcile"], "at once"
        assert wait(node, OFFLINE, 5)["reason"] == "connectivity.offline is set"
        asked = control.asked
        time.sleep(2.5)
        assert control.asked == asked
        node.configure(config(URL4, hold="1s"))
        node.send_signal(signal.SIGHUP)
        wait(node, ONLINE)


def test_a_daemon_that_was_stopped_for_a_while_accuses_nobody(
    net: Namespace, tmp_path: Path, new_node: MakeNode
) -> None:
    """FAULTS T5, with the least patience that can be configured."""
    with control_plane(net, tmp_path) as control:
        node = new_node(config(URL4, misses=1, hold="0s"), wrapper=net.wrapper)
        wait(node, ONLINE)
        for _ in range(2):
            node.send_signal(signal.SIGSTOP)
            time.sleep(4)
            before = control.asked
            node.send_signal(signal.SIGCONT)
            time.sleep(0.7)
            assert control.asked - before <= 2, "one round, not one for each that was missed"
        assert changes(node) == [ONLINE]


def test_an_agent_may_ask_whether_it_is_online_even_before_the_store_is_ready(new_node: MakeNode) -> None:
    node = new_node({"agents": {"echo": {"command": ["/bin/cat"]}}})
    found = node.get("/api/v1/node").json
    assert found["state"]["name"] in (OFFLINE, NONE)
    assert found["state"]["duration_sec"] >= 0
    assert "url" not in found["control"]
    assert all(key == key.lower() and "-" not in key for key in found)
    node.wait_for(lambda: len(node.beats()) > 3)
    page = node.get("/api/v1/node/heartbeats?limit=3").json
    assert [beat["seq"] for beat in page["heartbeats"]] == sorted(
        (beat["seq"] for beat in page["heartbeats"]), reverse=True
    )
    assert (len(page["heartbeats"]), page["lost"], page["interval_sec"]) == (3, 0, 0.1)
    written = {beat["heartbeat_seq"]: beat for beat in node.beats()}
    first = page["heartbeats"][-1]
    assert written[first["seq"]]["meta"]["state"] == first["state"]
    assert written[first["seq"]]["run_id"] == page["run_id"]
    for bad in ("limit=0", "limit=x", "limit=100000", "what=1"):
        assert node.get(f"/api/v1/node/heartbeats?{bad}").status == 400
    assert node.ctl("spawn", "echo", "hello").returncode == 0
    node.wait_for(lambda: "session_ended" in str(node.get("/api/v1/node/activity").json))
    events = node.get("/api/v1/node/activity").json["events"]
    assert [event["event"] for event in events] == [
        "session_ended",
        "session_started",
        "node_state_transition",
    ]
    assert events[0]["detail"] == {"status": "success"}
    assert events[0]["session_id"] == events[1]["session_id"]


def test_plain_ambientd_takes_offline_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ambientd", "--offline", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, "--offline" in done.stdout) == (0, True)
