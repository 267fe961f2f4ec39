"""What a running node writes into its feed and its heartbeat file, as an outsider reads it."""

import calendar
import hashlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.consumers import check_feed, verdicts
from tests.e2e.feedkit import assert_serves_readers, dump, foreign_event, started_at
from tests.e2e.harness import Node

MakeNode = Callable[..., Node]
READS = 10_000
CYCLES_SEEN = 10
WATCHDOG_SEC = 300


def gaps(beats: list[dict[str, Any]]) -> list[float]:
    """Seconds between neighbours."""
    times = [beat["ts_epoch_ms"] / 1000 for beat in beats]
    return [later - earlier for earlier, later in pairwise(times)]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keeps processors busy, for a minute at most."""
    program = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    children = [subprocess.Popen([sys.executable, "-I", "-c", program]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def peer_pid(node: Node) -> int:
    """The process that listens on the node's socket."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(node.socket))
        creds = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", creds)[0]
    return pid


# --- the life of a node in its feed


def test_a_fresh_node_beats_at_once_then_each_interval_and_once_more_at_its_end(new_node: MakeNode) -> None:
    began = time.time()
    node = new_node({"dispatcher": {"interval": "1s", "actor": "loop-7"}})
    node.wait_for(lambda: len(node.beats()) >= 2)
    before = node.beats()
    started = started_at(node.pid)
    assert peer_pid(node) == node.pid
    assert node.stop().code == 0

    beats = node.beats()
    assert 0 <= beats[0]["ts_epoch_ms"] / 1000 - began < 3
    assert [beat["heartbeat_seq"] for beat in beats] == list(range(1, len(beats) + 1))
    assert len(beats) > len(before)
    assert {(beat["pid"], beat["interval_sec"], beat["actor"]) for beat in beats} == {(node.pid, 1, "loop-7")}
    (run_id,) = {beat["run_id"] for beat in beats}
    boot = re.fullmatch(rf"dispatcher:(\d{{8}}T\d{{6}})Z:pid{node.pid}", run_id)
    assert boot
    assert abs(calendar.timegm(time.strptime(boot[1], "%Y%m%dT%H%M%S")) - started) <= 2
    file = node.heartbeat()
    assert (file["status"], file["cycles"], file["ts"]) == ("stopped", len(beats), beats[-1]["ts_utc"])

    node.configure({"dispatcher": {"interval": "2s"}})
    node.start()
    node.wait_for(lambda: len(node.beats()) > len(beats))
    again = node.beats()[len(beats)]
    assert (again["heartbeat_seq"], again["interval_sec"], again["pid"]) == (1, 2, node.pid)
    assert again["run_id"] != run_id
    assert_serves_readers(node)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_node_stops_within_a_second_and_says_so_in_both_files(
    new_node: MakeNode, number: signal.Signals
) -> None:
    node = new_node("# nothing but the defaults\n")
    node.wait_for(lambda: node.heartbeat()["cycles"] == 1)
    assert node.heartbeat()["interval_sec"] == 60
    code, seconds = node.stop(number)
    assert code == 0
    assert seconds < 1
    assert node.heartbeat()["status"] == "stopped"
    assert [beat["heartbeat_seq"] for beat in node.beats()] == [1, 2]


def test_beats_keep_their_time_on_a_loaded_machine_beside_a_long_session(new_node: MakeNode) -> None:
    node = new_node({"agents": {"long": {"command": ["/bin/sleep", "60"]}}})
    assert node.ctl("spawn", "long", "work").returncode == 0
    node.wait_for(lambda: node.beats()[-1]["meta"]["active_sessions"] == 1)
    first = len(node.beats())
    with busy_processes(4):
        node.wait_for(lambda: len(node.beats()) >= first + 30, 60)
    beats = node.beats()[first:]
    assert max(gaps(beats)) < 0.1 + 1
    assert {beat["meta"]["active_sessions"] for beat in beats} == {1}
    assert node.status()["heartbeat"]["lost"] == 0
    assert_serves_readers(node)


def test_a_stuck_loop_is_silent_and_a_monitor_sees_drift(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(lambda: len(node.beats()) >= 3)
    node.send_signal(signal.SIGSTOP)
    time.sleep(0.3)  # what the helper has in hand
    silent = node.feed.read_bytes()
    time.sleep(1)
    assert node.feed.read_bytes() == silent
    assert [text for text in check_feed(node.feed, now=time.time() + 130) if "monitor: drift" in text]
    assert check_feed(node.feed) == []

    node.send_signal(signal.SIGCONT)
    count = len(node.beats())
    node.wait_for(lambda: len(node.beats()) >= count + 3)
    beats = node.beats()
    assert max(gaps(beats)) > 1.2
    assert [beat["heartbeat_seq"] for beat in beats] == list(range(1, len(beats) + 1)), "a burst, or a hole"
    assert_serves_readers(node)


# --- beside its readers


def snapshot(tree: Path) -> dict[str, bytes | None]:
    """Every name in a tree, with the content of files."""
    return {
        str(path.relative_to(tree)): path.read_bytes() if path.is_file() else None for path in tree.rglob("*")
    }


def test_beats_in_a_governed_feed_touch_nothing_else_and_change_no_verdict(
    new_node: MakeNode, tmp_path: Path
) -> None:
    feed = tmp_path / "observability/logs/activity_feed.jsonl"
    feed.parent.mkdir(parents=True)
    (tmp_path / "core").mkdir()
    (tmp_path / "core/phase_status.yaml").write_text("PHASE_A: PROVEN\n")
    base = b"".join(proof_lines(time.time() - 60))
    feed.write_bytes(base)
    before = snapshot(tmp_path)

    node = new_node(environment={"LUKA_ACTIVITY_FEED_JSONL": str(feed)})
    for _ in range(2):
        node.wait_for(node.beats)
        node.pass_cycles(3)
        assert node.stop().code == 0
        node.start()
    assert_serves_readers(node)
    raw = feed.read_bytes()
    assert raw.startswith(base)
    assert verdicts(raw) == verdicts(base)
    assert any(verdicts(base).values())
    after = snapshot(tmp_path)
    name = str(feed.relative_to(tmp_path))
    assert before.pop(name) != after.pop(name)
    assert before == after
    assert len({beat["run_id"] for beat in node.beats()}) >= 2
    assert not (node.state / "observability").exists()


def proof_lines(at: float) -> Iterator[bytes]:
    """What a proof checker looks for, by each of its three keys."""
    proof = {"emit_mode": "runtime_auto", "verifier_mode": "operational_proof", "run_id": "r1"}
    for phase, key in (("PHASE_A", "phase_id"), ("PHASE_15_5_3", "phase"), ("phase-0", "task_id")):
        for action in ("started", "completed", "verified"):
            at += 1
            yield dump(foreign_event(0, at=at, action=action, **{key: phase}, **proof))


# --- what it does not tell


def machine_secrets() -> set[bytes]:
    """Raw hardware ids of this machine, in the ways in which they are written."""
    found = set()
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            found.add(Path(path).read_text().strip())
    for pattern in ("net/*/address", "dmi/id/*_serial", "dmi/id/*_uuid"):
        for file in Path("/sys/class").glob(pattern):
            with suppress(OSError):
                found.add(file.read_text().strip())
    plain = {text for text in found if len(text) >= 8 and set(text) - set("0:-")}
    return {way.encode() for text in plain for way in (text, text.upper(), text.replace("-", ""))}


def test_the_feed_and_the_files_of_a_node_keep_secrets_and_raw_ids(new_node: MakeNode) -> None:
    secret = "MARKER-hunter2"
    node = new_node(
        {
            "node": {"name": "zebra-finch-77"},
            "agents": {"echo": {"command": ["/bin/cat"], "environment": {"API_TOKEN": secret}}},
        },
        environment={"SOME_TOKEN": secret},
    )
    assert node.ctl("spawn", "echo", f"the password is {secret}", "--follow").returncode == 0
    node.pass_cycles(3)
    assert node.stop().code == 0
    public = node.feed.read_bytes() + node.heartbeat_file.read_bytes()
    own = (secret.encode(), b"zebra-finch", str(node.root).encode(), str(node.home).encode(), b"password")
    assert [mark for mark in own if mark in public] == []
    assert re.search(rb"\b\d{1,3}(\.\d{1,3}){3}\b", public) is None
    files = [path for path in node.state.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files) + node.log.encode()
    # A bare root without machine id and network card has none; there the rest of the test stands.
    raw_ids = machine_secrets()
    assert [mark for mark in raw_ids if mark in everything] == []
    assert secret.encode() not in node.log.encode()
    assert_serves_readers(node)


def own_machine_id() -> str | None:
    """The machine's id, if it has one."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            if text := Path(path).read_text().strip():
                return text
    return None


def sha(text: str) -> str:
    """As a host id is written."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("algorithm", ["auto", "name"])
def test_the_host_id_is_the_same_after_each_start(new_node: MakeNode, algorithm: str) -> None:
    node = new_node({"node": {"name": "node-1", "host_id": algorithm}})
    node.wait_for(node.beats)
    assert node.stop().code == 0
    node.start()
    node.wait_for(lambda: len({beat["run_id"] for beat in node.beats()}) == 2)
    (found,) = {beat["host_id"] for beat in node.beats()}
    facts = node.status()["node"]
    machine = own_machine_id() if algorithm == "auto" else None
    assert found == facts["hostId"] == (sha(f"node-1:{machine}") if machine else sha("node-1"))
    assert ("machine" in facts["hostIdSource"]) is bool(machine)
    assert facts["hostIdSource"] not in node.feed.read_text()


def test_an_unreadable_machine_id_falls_back_to_the_name(new_node: MakeNode) -> None:
    ids = "/etc/machine-id /var/lib/dbus/machine-id"
    hide = f'for f in {ids}; do [ -e $f ] && mount --bind /dev/null $f; done; exec "$@"'
    unshare = ["unshare", "-rm"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    node = new_node({"node": {"name": "node-1"}}, wrapper=[*unshare, "sh", "-c", hide, "sh"])
    beat = node.wait_for(node.beats)[0]
    assert beat["host_id"] == "sha256:35971be6" + sha("node-1")[15:]
    assert node.status()["node"]["hostIdSource"] == "sha256(node)"


# --- the heartbeat file


def test_ten_thousand_reads_of_the_heartbeat_file_are_all_whole(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(node.heartbeat_file.exists)
    seen: set[int] = set()
    reads, last, until = 0, 0, time.monotonic() + 60
    while (reads < READS or len(seen) < CYCLES_SEEN) and time.monotonic() < until:
        document = json.loads(node.heartbeat_file.read_bytes())
        assert document["cycles"] >= last
        last = document["cycles"]
        seen.add(last)
        reads += 1
    assert reads >= READS
    assert len(seen) >= CYCLES_SEEN
    assert document["schema_version"] == "ambient_heartbeat_v1"
    assert document["pid"] == node.pid
    assert document["status"] == "watching"
    assert document["interval_sec"] == 0.1
    assert document["last_cycle_tasks"] == 0
    assert isinstance(document["uptime_sec"], int)
    age = time.time() - calendar.timegm(time.strptime(document["ts"], "%Y-%m-%dT%H:%M:%SZ"))
    assert 0 <= age < WATCHDOG_SEC
    assert set(document) == {
        "schema_version", "ts", "pid", "status", "interval_sec", "cycles", "last_cycle_tasks", "uptime_sec",
    }  # fmt: skip


def test_the_file_and_the_feed_tell_the_same_beats(new_node: MakeNode) -> None:
    node = new_node()
    for _ in range(8):
        file, feed = node.heartbeat(), node.beats()
        again = node.heartbeat()
        if file == again and feed:
            assert file["cycles"] - len(feed) in (0, 1), "the feed follows the file at once"
            told = calendar.timegm(time.strptime(file["ts"], "%Y-%m-%dT%H:%M:%SZ"))
            assert abs(told - feed[-1]["ts_epoch_ms"] / 1000) < 1 + 1
        time.sleep(0.03)
