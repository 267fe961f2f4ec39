"""What the tests of the feed share: its readers, its other writers, and the helper process behind it."""

import fcntl
import hashlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.consumers import check_feed
from tests.e2e.harness import Node

CYCLES = 10
CYCLES_SEC = 6.0
"""Ten cycles of 100 ms, on a busy machine."""


def assert_serves_readers(node: Node, feed: Path | None = None, *, live: bool = True) -> None:
    """Every known reader is content, and so is our own strict check."""
    feed = feed or node.feed
    assert check_feed(feed, live=live) == []
    told = node.ambientd("feed", "validate", "--strict", str(feed))
    assert told.returncode == 0, told.stdout + told.stderr


def feed_status(node: Node) -> dict[str, Any]:
    """What the status says of the feed and the loop."""
    document: dict[str, Any] = node.status()["heartbeat"]
    return document


def assert_goes_on(node: Node, cycles: int = CYCLES) -> None:
    """The loop keeps its pace and the heartbeat file moves, whatever the feed does."""
    before, began = node.heartbeat()["cycles"], time.monotonic()
    node.wait_for(lambda: node.heartbeat()["cycles"] >= before + cycles)
    assert time.monotonic() - began < CYCLES_SEC
    assert node.is_alive()


def utc(at: float) -> str:
    """An instant as the feed writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def foreign_event(number: int, *, at: float | None = None, **changes: Any) -> dict[str, Any]:
    """An event of another program."""
    at = time.time() if at is None else at
    return {"ts_utc": utc(at), "ts_epoch_ms": int(at * 1000), "action": "note", "n": number, **changes}


def dump(event: dict[str, Any]) -> bytes:
    """An event as a line."""
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def append_locked(feed: Path, line: bytes) -> None:
    """Appends as a well-behaved writer does."""
    fd = os.open(feed, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, line)
    finally:
        os.close(fd)


def chained_feed(count: int) -> bytes:
    """A hash-chained feed: an anchor and `count` linked lines, stamped now."""
    lines, last = [], "GENESIS"
    for number in range(count + 1):
        action = "note" if number else "ledger_anchor"
        event = foreign_event(number, action=action) | {"prev_hash": last}
        text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        last = hashlib.sha256(text.encode()).hexdigest()
        lines.append(dump({**event, "hash": last}))
    return b"".join(lines)


def feed_helper(node: Node) -> int | None:
    """The pid of the daemon's helper process for the feed, if there is one now."""
    for name in os.listdir("/proc"):
        if name.isdigit() and is_feed_helper(int(name), node.pid):
            return int(name)
    return None


def is_feed_helper(pid: int, parent: int) -> bool:
    """Whether a process is a daemon's helper for the feed."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return b"/feed_helper.py" in command and int(fields[1]) == parent


def started_at(pid: int) -> float:
    """When a process was started, in seconds since 1970 (the kernel says it to a second)."""
    ticks = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
