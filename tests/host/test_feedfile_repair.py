import errno
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from ambientd.core.feedline import encode
from ambientd.host.feedfile import SETTLE
from tests.consumers import check_feed
from tests.host.feedfile_kit import Feed, age, feed, write_lines

__all__ = ["feed"]


# --- torn tails (R2.59-R2.63, F4)


def test_a_torn_tail_moves_to_quarantine_byte_for_byte(feed: Feed) -> None:
    feed.good(2)
    good = feed.path.read_bytes()
    fragment = encode(feed.event())[:200]
    feed.path.write_bytes(good + fragment)
    feed.restart()
    answer = feed.beat()
    assert answer["ok"]
    assert feed.torn() == [fragment]
    assert feed.path.read_bytes().startswith(good)
    assert check_feed(feed.path) == []
    (cut,) = answer["quarantined"]
    assert (cut["offset"], cut["bytes"]) == (len(good), len(fragment))
    report = json.loads(feed.quarantined()[cut["name"] + ".json"])
    assert report["feed"] == "activity_feed.jsonl"
    assert report["bytes"] == len(fragment)


@pytest.mark.parametrize(
    "damage",
    [
        b'{"ts_utc":"2026-01-01T00:0',
        b'{"a":1}{"b":',
        b"\0" * 4096,
        b"\0" * 4096 + b'{"a":1}\n',
        b'{"torn\n',
        b'{"torn\n{"again\n\n',
        b"\xff\xfe garbage",
        b'{"a":NaN}\n',
        b"\n\n",
        b"[1]\n",
    ],
)
def test_every_damaged_end_is_cut_so_that_each_line_left_parses(feed: Feed, damage: bytes) -> None:
    feed.good(2)
    with open(feed.path, "ab") as file:
        file.write(damage)
    age(feed.path)
    feed.restart()
    feed.good()
    assert feed.torn() == [damage]
    assert check_feed(feed.path) == []
    assert len(feed.events()) == 3


def test_damage_that_fills_the_whole_feed_is_cut_too(feed: Feed) -> None:
    feed.path.parent.mkdir()
    for damage in (b'{"ts_ut', b"\0" * 10_000):
        feed.path.write_bytes(damage)
        age(feed.path)
        feed.restart()
        feed.good()
        assert damage in feed.torn()
        assert len(feed.events()) == 1


def test_a_whole_line_that_lacks_its_newline_is_ended_not_cut(feed: Feed) -> None:
    feed.good(2)
    feed.path.write_bytes(feed.path.read_bytes()[:-1])
    age(feed.path)
    feed.restart()
    feed.good()
    assert feed.quarantined() == {}
    assert len(feed.events()) == 3
    assert check_feed(feed.path) == []


def test_a_line_of_many_megabytes_is_cut_in_bounded_memory(feed: Feed) -> None:
    feed.good(2)
    size = 64 << 20
    with open(feed.path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b'{"a":"')
        file.truncate(file.tell() + size)
    age(feed.path)
    feed.restart()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    feed.good()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
    assert feed.clocks.signs > 10
    assert len(feed.events()) == 3
    assert [len(piece) for piece in feed.torn()] == [size + 6]


@pytest.mark.parametrize(
    "content",
    [
        b"root:x:0:0\n",
        b"key = value",
        b"SQLite format 3\0" + b"\n" * 50,
        b'{\n  "a": 1\n}\n',
        b"\xef\xbb\xbf{}\n",
    ],
)
def test_a_file_that_is_no_feed_is_refused_and_left_alone(feed: Feed, content: bytes) -> None:
    feed.path.parent.mkdir()
    feed.path.write_bytes(content)
    age(feed.path)
    answer = feed.beat()
    if content.startswith(b"{"):
        # a fragment of JSON cannot be told from a torn line; whatever is cut is kept
        assert b"".join(feed.torn()) + feed.path.read_bytes() != b""
        return
    assert "no activity feed" in answer["refused"]
    assert feed.path.read_bytes() == content


def test_others_half_lines_are_waited_for_and_nothing_is_lost(feed: Feed) -> None:
    feed.good()
    writer = open(feed.path, "ab", buffering=0)  # noqa: SIM115 - held open while the feed is written
    with writer:
        writer.write(b'{"ts_utc":"2020-01-01T00:00:00Z","action":')
        feed.clocks.offset = time.time() - feed.clocks.now
        waits: list[Callable[[], None]] = [lambda: None] * 19  # about a second

        def finish() -> None:
            writer.write(b'"x"}\n')

        feed.clocks.slept = [*waits, finish]
        feed.good()
    assert feed.quarantined() == {}
    assert [event["action"] for event in feed.events()] == ["heartbeat", "x", "heartbeat"]


def test_a_half_line_that_stands_still_is_cut_after_the_settling_time(feed: Feed) -> None:
    feed.good()
    with open(feed.path, "ab") as writer:
        writer.write(b'{"half')
    feed.clocks.offset = time.time() - feed.clocks.now
    lost = feed.beat(budget=1.0)
    assert "still being written" in lost["error"]
    assert feed.path.read_bytes().endswith(b'{"half')
    before = feed.clocks.now
    feed.good()
    assert feed.clocks.now - before >= SETTLE - 1.1
    assert feed.torn() == [b'{"half']


def test_a_half_line_with_a_time_of_the_future_settles_by_watching_it(feed: Feed) -> None:
    feed.good()
    with open(feed.path, "ab") as writer:
        writer.write(b'{"half')
    age(feed.path, -86_400)
    feed.good()
    assert feed.torn() == [b'{"half']


def test_a_disk_too_full_for_the_quarantine_leaves_the_damage_where_it_is(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.good()
    with open(feed.path, "ab") as writer:
        writer.write(b'{"half')
    age(feed.path)
    real = os.fsync

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert feed.beat()["error"].startswith("ENOSPC")
    assert feed.path.read_bytes().endswith(b'{"half')
    assert feed.torn() == []
    monkeypatch.setattr(os, "fsync", real)
    feed.good()
    assert feed.torn() == [b'{"half']


def test_killed_writers_never_leave_a_feed_that_stays_damaged(tmp_path: Path) -> None:
    kills = int(os.environ.get("AMBIENT_TEST_KILLS", "12"))
    context = get_context("spawn")
    for attempt in range(kills):
        writer = context.Process(target=write_lines, args=(str(tmp_path), attempt + 1, 10**6))
        writer.start()
        deadline = time.monotonic() + 30
        feed_path = tmp_path / "f.jsonl"
        size = feed_path.stat().st_size if feed_path.exists() else 0
        while not (feed_path.exists() and feed_path.stat().st_size > size) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.013 * attempt % 0.05)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join(30)
        if attempt % 3 == 2:  # and some kills tear, as a power cut does
            os.truncate(feed_path, feed_path.stat().st_size - 17)
        feed = Feed(feed_path, tmp_path)
        feed.run = 1000 + attempt
        feed.clocks.offset = time.time() - feed.clocks.now
        feed.good()
        assert check_feed(feed_path) == []
