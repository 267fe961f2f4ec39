"""A feed on disk whose clocks move only when told, for the tests of `host/feedfile.py`."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.heartbeat import build_event, build_run_id
from ambientd.host.feedfile import Beat, FeedFile, FeedSettings, Machine

HOST = "sha256:" + "0" * 64
ROOT = os.geteuid() == 0
START = time.time()


class Clocks:
    """A machine whose clocks move only when somebody sleeps; the wall clock can be stepped."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.offset = time.time() - self.now
        self.slept: list[Callable[[], None]] = []  # run one after the other, one per sleep
        self.signs = 0

    def machine(self) -> Machine:
        return Machine(
            monotonic=lambda: self.now,
            wall=lambda: self.now + self.offset,
            sleep=self._sleep,
            progress=self._progress,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.slept:
            self.slept.pop(0)()

    def _progress(self) -> None:
        self.signs += 1


class Feed:
    """A feed under a state directory, and beats with increasing numbers."""

    def __init__(self, path: Path, state: Path, *, max_size: int = 1 << 24, keep: float = 86_400) -> None:
        self.path = path
        self.state = state
        self.clocks = Clocks()
        self.settings = FeedSettings(
            path=str(path), state_dir=str(state), host_id=HOST, max_size=max_size, keep=keep
        )
        self.file = FeedFile(self.settings, self.clocks.machine())
        self.seq = 0
        self.run = 7

    def restart(self) -> None:
        self.file = FeedFile(self.settings, self.clocks.machine())
        self.run, self.seq = self.run + 1, 0

    def event(self, at_ms: int | None = None) -> dict[str, Any]:
        self.seq += 1
        return build_event(
            at_ms=int((self.clocks.now + self.clocks.offset) * 1000) if at_ms is None else at_ms,
            actor="dispatcher",
            run_id=build_run_id(int(START * 1000), self.run),
            host_id=HOST,
            pid=self.run,
            seq=self.seq,
            interval=60,
        )

    def beat(self, at_ms: int | None = None, *, budget: float = 4.0, **more: Any) -> dict[str, Any]:
        return self.file.append(Beat(event=self.event(at_ms), budget=budget, **more))

    def good(self, count: int = 1) -> None:
        for _ in range(count):
            answer = self.beat()
            assert answer["ok"], answer

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def quarantined(self) -> dict[str, bytes]:
        folder = self.path.parent / "quarantine"
        return {piece.name: piece.read_bytes() for piece in folder.iterdir()} if folder.exists() else {}

    def torn(self) -> list[bytes]:
        return [data for name, data in self.quarantined().items() if name.endswith(".torn")]


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return Feed(tmp_path / "logs" / "activity_feed.jsonl", tmp_path)


def age(path: Path, seconds: float = 60) -> None:
    """As if the file had been written some time ago."""
    at = time.time() - seconds
    os.utime(path, (at, at))


def write_lines(folder: str, run: int, count: int) -> None:
    feed = Feed(Path(folder) / "f.jsonl", Path(folder))
    feed.run = run
    real = Machine(monotonic=time.monotonic, wall=time.time, sleep=time.sleep, progress=lambda: None)
    feed.file = FeedFile(feed.settings, real)
    for _ in range(count):
        answer = feed.beat(int(time.time() * 1000), budget=60.0)
        assert answer["ok"], answer
