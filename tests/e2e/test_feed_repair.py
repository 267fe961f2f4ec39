"""A running node's feed among crashes, other writers, rotation and clocks that step."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.consumers import check_feed
from tests.e2e.feedkit import (
    append_locked,
    assert_serves_readers,
    chained_feed,
    dump,
    feed_helper,
    foreign_event,
)
from tests.e2e.harness import Node, parse_lines

MakeNode = Callable[..., Node]
KILLS = int(os.environ.get("AMBIENT_TEST_KILLS", "20"))
"""200 are asked of a release; each takes about half a second."""
WRITERS, LINES = 8, 2000


def quarantined(feed: Path) -> list[Path]:
    """The pieces that were cut out of a feed, oldest first."""
    return sorted((feed.parent / "quarantine").glob("*.torn"), key=lambda path: path.stat().st_mtime_ns)


def write_feed(node: Node, content: bytes, seconds_ago: float = 0.0) -> None:
    """Puts a feed at the default place of a node that has never run."""
    node.feed.parent.mkdir(parents=True)
    node.state.chmod(0o700)
    node.feed.write_bytes(content)
    then = time.time() - seconds_ago
    os.utime(node.feed, (then, then))


# --- torn tails


@pytest.mark.parametrize("torn", [b'{"ts_utc":"2026-01-', b'{"a":1}\0\0\0\0\0\0\0\0', b"\0" * 5000])
def test_a_torn_tail_is_cut_out_at_the_start_and_kept_byte_for_byte(torn: bytes) -> None:
    node = Node()
    good = b"".join(dump(foreign_event(n, at=time.time() - 60)) for n in range(3))
    write_feed(node, good + torn, 30)
    with node:
        node.wait_for(node.beats)
        assert node.feed.read_bytes().startswith(good + b'{"ts_utc"')
        (piece,) = quarantined(node.feed)
        assert piece.read_bytes() == torn
        report = json.loads(piece.with_name(piece.name + ".json").read_bytes())
        assert (report["name"], report["offset"], report["bytes"]) == (piece.name, len(good), len(torn))
        assert node.status()["heartbeat"]["quarantined"] == 1
        assert node.status()["heartbeat"]["lost"] == 0
        (told,) = node.log_events("feed.quarantined")
        assert (told["bytes"], told["offset"]) == (len(torn), len(good))
        assert_serves_readers(node)


@contextmanager
def writing_beside(feed: Path) -> Iterator[Callable[[], int]]:
    """A well-behaved writer of others' lines; gives how many it has written, until the block's end."""
    ended, written = Event(), 0

    def write() -> None:
        nonlocal written
        while not ended.wait(0.005):
            with suppress(FileNotFoundError):
                append_locked(feed, dump(foreign_event(written)))
                written += 1

    writer = Thread(target=write)
    writer.start()
    try:
        yield lambda: written
    finally:
        ended.set()
        writer.join()


def kill_somehow(node: Node, rng: random.Random) -> None:
    """The daemon dies alone, or with its helper as in a crash of the machine; no helper is left behind."""
    helper = feed_helper(node)
    if helper is not None and rng.random() < 0.5:
        with suppress(ProcessLookupError):
            os.kill(helper, signal.SIGKILL)
    daemon = node.pid
    node.kill9()
    left = f"/proc/{helper}/cmdline"
    node.wait_for(
        lambda: not helper or not read_or_empty(left), alive=False, what=f"the end of {daemon}'s helper"
    )


def read_or_empty(path: str) -> bytes:
    """The content, nothing when it is gone."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def test_kills_at_random_moments_never_leave_an_unparsable_feed_after_the_next_start() -> None:
    seed = int(os.environ.get("AMBIENT_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
    print(f"seed {seed}")
    rng = random.Random(seed)
    node, cut = Node(), []
    try:
        node.start()
        node.wait_for(node.beats)
        for round_ in range(KILLS):
            with writing_beside(node.feed):
                time.sleep(rng.random() * 0.12)  # a cycle and a bit
                kill_somehow(node, rng)
            if round_ % 3 == 0:  # what a power cut does to a line that was not synced
                raw = node.feed.read_bytes()
                kept = raw.rindex(b"\n", 0, -1) + 1
                size = rng.randrange(kept + 1, len(raw) - 1)
                os.truncate(node.feed, size)
                os.utime(node.feed, (time.time() - 10,) * 2)  # else half of others' line is waited for
                cut.append(raw[kept:size])
            count = len(node.beats())
            node.start(ready=False)
            node.wait_for(lambda count=count: len(node.beats()) > count)  # type: ignore[misc]
            assert [text for text in check_feed(node.feed) if not text.startswith("spec")] == []
        node.wait_for(node.is_ready)
        assert sorted(piece.read_bytes() for piece in quarantined(node.feed)) == sorted(cut)
        assert_serves_readers(node)
        assert node.stop().code == 0
        assert list(node.state.glob("heartbeat.json*")) == [node.heartbeat_file]
    except BaseException:
        node.close(keep=True)
        raise
    node.close()


def test_half_a_line_of_another_writer_is_waited_for(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(node.beats)
    line = dump(foreign_event(1, text="x" * 200))
    with node.feed.open("ab", buffering=0) as other:
        other.write(line[:100])
        raw = node.feed.read_bytes()
        time.sleep(1)
        assert node.feed.read_bytes() == raw, "a beat was glued to the half line, or the half was cut"
        other.write(line[100:])
    count = len(node.beats())
    node.wait_for(lambda: len(node.beats()) >= count + 3)
    assert line in node.feed.read_bytes()
    assert quarantined(node.feed) == []
    assert node.status()["heartbeat"]["lost"] == 0
    assert_serves_readers(node)


# --- other programs at work on the file


def test_rotation_by_rename_and_rewriting_in_place_are_followed(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(lambda: len(node.beats()) >= 3)
    old = node.feed.with_suffix(".1")
    node.feed.rename(old)
    node.feed.touch()
    node.wait_for(lambda: len(node.beats()) >= 3)
    kept = old.read_bytes()
    last, first = parse_lines(old)[-1], node.beats()[0]
    assert first["heartbeat_seq"] == last["heartbeat_seq"] + 1

    for _ in range(10):  # a repair tool: reads, drops nothing, writes everything again, without a lock
        raw = node.feed.read_bytes()
        node.feed.write_bytes(raw[: raw.rindex(b"\n") + 1])
        time.sleep(0.05)
    os.truncate(node.feed, 0)
    node.wait_for(lambda: len(node.beats()) >= 3)
    assert old.read_bytes() == kept
    assert quarantined(node.feed) == []
    assert_serves_readers(node)


def big_feed(lines: Iterator[dict[str, Any]]) -> bytes:
    """A feed past the smallest size bound."""
    raw = b"".join(dump(event) for event in lines)
    assert len(raw) > 64 * 1024
    return raw


def test_a_feed_with_one_foreign_line_is_never_rotated_and_ours_alone_is() -> None:
    node = Node({"heartbeat": {"max_size": "64KiB"}})
    with node:
        node.wait_for(node.beats)
        assert node.stop().code == 0
        own, then = node.beats()[0], time.time() - 300
        beats = big_feed(own | stamped(then + number, number + 1000) for number in range(200))
        foreign = dump(foreign_event(1, at=then))

        node.feed.write_bytes(foreign + beats)
        node.start()
        node.wait_for(lambda: len(node.beats()) >= 203)
        assert node.feed.read_bytes().startswith(foreign + beats)
        assert "never rotated" in node.status()["heartbeat"]["note"]
        assert "never rotated" in node.ctl("status", "--json").stdout
        assert node.stop().code == 0
        assert [path.name for path in node.feed.parent.iterdir()] == [node.feed.name]

        node.feed.write_bytes(beats)
        node.start()
        node.wait_for(lambda: 0 < len(node.beats()) < 100)
        (rotated,) = node.feed.parent.glob("activity_feed.ambient-*.jsonl")
        assert rotated.read_bytes() == beats
        assert_serves_readers(node)


def stamped(at: float, seq: int) -> dict[str, Any]:
    """The times and the number of another beat."""
    return {
        "ts_utc": foreign_event(0, at=at)["ts_utc"],
        "ts_epoch_ms": int(at * 1000),
        "heartbeat_seq": seq,
        "run_id": "dispatcher:20260101T000000Z:pid1",
        "pid": 1,
    }


def test_a_hash_chained_feed_is_reported_and_not_broken() -> None:
    node = Node()
    chain = chained_feed(20)
    write_feed(node, chain)
    with node:
        node.wait_for(lambda: node.status()["heartbeat"]["lost"] >= 10)
        assert node.feed.read_bytes() == chain
        assert check_feed(node.feed, live=False) == []
        assert "hash-chained" in node.status()["heartbeat"]["refused"]
        assert [path.name for path in node.feed.parent.iterdir()] == [node.feed.name]


_WRITER = """
import fcntl, os, sys
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    fcntl.flock(fd, fcntl.LOCK_EX)
    line = b'{"ts":"2026-01-01T00:00:00Z","action":"note","by":"%s","n":%d}' % (name.encode(), number)
    os.write(fd, line + b"\\n")
    os.close(fd)
"""


def test_eight_writers_beside_the_beats_lose_and_tear_nothing(new_node: MakeNode) -> None:
    node = new_node()
    node.wait_for(node.beats)
    names = [f"w{number}" for number in range(WRITERS)]
    command = [sys.executable, "-I", "-S", "-c", _WRITER, str(node.feed)]
    writers = [subprocess.Popen([*command, name, str(LINES)]) for name in names]
    try:
        assert [writer.wait(60) for writer in writers] == [0] * WRITERS
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    node.pass_cycles(3)
    assert node.stop().code == 0
    events = node.lines()
    for name in names:
        assert [event["n"] for event in events if event.get("by") == name] == list(range(LINES))
    beats = [event["heartbeat_seq"] for event in events if event["action"] == "heartbeat"]
    missing = sorted(set(range(1, beats[-1] + 1)) - set(beats))
    assert len(missing) == sum(event.get("meta", {}).get("dropped", 0) for event in events)
    assert len(beats) == len(set(beats)) >= 3
    assert len(events) == WRITERS * LINES + len(beats)
    assert quarantined(node.feed) == []


# --- clocks

_CLOCK = """
import os, sys
if sys.argv[0] == "-m":
    from datetime import UTC, datetime, timedelta
    from ambientd.host.clock import SystemClock

    def now(self):
        with open(os.environ["TEST_CLOCK"]) as file:
            return datetime.now(UTC) + timedelta(seconds=float(file.read() or 0))

    SystemClock.now = now
"""


def test_time_in_the_feed_never_goes_back_when_the_clock_does() -> None:
    node = Node()
    ahead = node.root / "clock"
    ahead.write_text("0")
    (node.root / "lib").mkdir()
    (node.root / "lib/sitecustomize.py").write_text(_CLOCK)
    node.environment["TEST_CLOCK"] = str(ahead)
    node.environment["PYTHONPATH"] += f":{node.root / 'lib'}"

    def step(seconds: float) -> None:
        new = ahead.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(ahead)
        node.pass_cycles(4)

    with node:
        node.wait_for(node.beats)
        step(-90)
        told = node.status()["heartbeat"]["clockClampedSec"]
        assert 80 < told <= 90
        clamped = node.beats()[-1]
        assert 80_000 < clamped["meta"]["clamped_ms"] <= 90_000
        assert time.time() - clamped["ts_epoch_ms"] / 1000 < 5, "it stands still, it does not run ahead"
        assert node.stop().code == 0
        node.start()  # the floor is in the file, not in the process
        node.wait_for(lambda: len({beat["run_id"] for beat in node.beats()}) == 2)
        node.wait_for(lambda: node.status()["heartbeat"].get("clockClampedSec", 0) > 80)
        step(0)
        assert "clockClampedSec" not in node.status()["heartbeat"]
        assert "clamped_ms" not in node.beats()[-1]["meta"]
        assert_serves_readers(node)
