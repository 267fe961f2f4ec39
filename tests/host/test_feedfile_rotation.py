import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from ambientd.core.feedline import utc_text
from ambientd.host.feedfile import CLAMP_LIMIT_MS, Beat
from tests.consumers import check_feed
from tests.host.feedfile_kit import Feed, age, feed

__all__ = ["feed"]


# --- rotation by others (R2.64, R2.65, F6)


def test_the_next_beat_is_in_the_new_file_after_rotation_by_rename(feed: Feed) -> None:
    feed.good(2)
    os.rename(feed.path, feed.path.with_suffix(".1"))
    feed.path.touch()
    feed.good()
    os.rename(feed.path, feed.path.with_suffix(".2"))
    feed.good()
    assert [event["heartbeat_seq"] for event in feed.events()] == [4]
    assert len(feed.path.with_suffix(".1").read_bytes().splitlines()) == 2


def test_a_rotation_between_open_and_lock_is_noticed(feed: Feed) -> None:
    feed.good()
    old = feed.path.with_suffix(".1")
    with open(feed.path, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)

        def rotate() -> None:
            os.rename(feed.path, old)
            fcntl.flock(holder, fcntl.LOCK_UN)

        feed.clocks.slept = [rotate]
        feed.good()
    assert len(old.read_bytes().splitlines()) == 1
    assert [event["heartbeat_seq"] for event in feed.events()] == [2]


def test_beats_go_on_after_truncation_and_in_place_rewriting(feed: Feed) -> None:
    feed.good(3)
    os.truncate(feed.path, 0)
    feed.good()
    assert [event["heartbeat_seq"] for event in feed.events()] == [4]
    kept = feed.path.read_bytes()
    with open(feed.path, "r+b") as file:
        file.truncate(0)
        file.write(b'{"ts_utc":"2020-01-01T00:00:00Z","action":"kept"}\n' + kept)
    feed.good()
    assert [event["action"] for event in feed.events()] == ["kept", "heartbeat", "heartbeat"]
    feed.path.unlink()
    feed.good()
    assert [event["heartbeat_seq"] for event in feed.events()] == [6]


# --- our own rotation (R2.66, R2.67)


def rotated(feed: Feed) -> list[Path]:
    return sorted(feed.path.parent.glob("activity_feed.ambient-*.jsonl"))


def test_our_own_feed_is_rotated_by_size_and_stays_bounded(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "activity_feed.jsonl", tmp_path, max_size=64 * 1024)
    for _ in range(4000):
        feed.clocks.now += 5
        feed.good()
    files = rotated(feed)
    assert len(files) == 8
    assert all(file.stat().st_size < 65 * 1024 for file in [*files, feed.path])
    text = b"".join(file.read_bytes() for file in files) + feed.path.read_bytes()
    seqs = [json.loads(line)["heartbeat_seq"] for line in text.splitlines()]
    assert seqs == list(range(seqs[0], 4001))
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(text)
    assert check_feed(whole, now=feed.clocks.now + feed.clocks.offset) == []


def test_rotated_files_and_quarantine_are_removed_by_age_and_nothing_else_is(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "activity_feed.jsonl", tmp_path, keep=3600)
    (tmp_path / "quarantine").mkdir()
    ours = [
        "activity_feed.ambient-20200101T000000Z.jsonl",
        "quarantine/activity_feed.jsonl.20200101T000000Z.5.torn",
        "quarantine/activity_feed.jsonl.20200101T000000Z.5.torn.json",
        "quarantine/activity_feed.jsonl.20200101T000000Z.future",
    ]
    others = ["activity_feed.20200101.jsonl", "quarantine/theirs.torn", "activity_feed.jsonl.1", "x.jsonl"]
    for name in ours + others:
        (tmp_path / name).write_bytes(b"{}\n")
        age(tmp_path / name, 7200)
    young = tmp_path / "activity_feed.ambient-20990101T000000Z.jsonl"
    young.write_bytes(b"{}\n")
    feed.good()
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in others)
    assert young.exists()


@pytest.mark.parametrize(
    "foreign",
    [
        b'{"ts_utc":"2020-01-01T00:00:00Z","action":"dispatch_start"}\n',
        b'{"ts_utc":"2020-01-01T00:00:00Z","action":"heartbeat","emit_mode":"runtime_auto"}\n',
        b'{"ts_utc":"2020-01-01T00:00:00Z","x":"' + b"y" * 3_000_000 + b'"}\n',
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_feed_with_one_foreign_line_is_never_rotated(tmp_path: Path, foreign: bytes, late: bool) -> None:
    feed = Feed(tmp_path / "activity_feed.jsonl", tmp_path, max_size=64 * 1024)
    if late:
        feed.good(100)
    with open(feed.path, "ab") as file:
        file.write(foreign)
    for _ in range(300):
        answer = feed.beat()
        assert answer["ok"], answer
        assert answer["note"] == "holds 1 lines of other writers: never rotated"
    assert rotated(feed) == []
    assert feed.path.stat().st_size > 64 * 1024
    os.rename(feed.path, tmp_path / "archive")
    feed.good()
    assert feed.beat()["note"] is None


def test_a_foreign_line_written_over_ours_is_seen_before_rotation(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "activity_feed.jsonl", tmp_path, max_size=64 * 1024)
    feed.good(100)
    line = b'{"action":"x"}'
    with open(feed.path, "r+b") as file:
        length = len(file.readline())
        file.seek(0)
        file.write(line + b" " * (length - 1 - len(line)) + b"\n")
    feed.good(200)
    assert rotated(feed) == []


# --- chains (R2.68)


@pytest.mark.parametrize(
    "lines",
    [
        b'{"action":"ledger_anchor","prev_hash":"GENESIS","hash":"00"}\n',
        b'{"action":"old"}\n{"action":"ledger_anchor","hash":"00"}\n{"action":"raw"}\n',
        b'{"action":"x","prev_hash":"00","hash":"01"}\n' + b'{"action":"y"}\n' * 5000,
    ],
)
def test_nothing_is_written_into_a_chained_feed(feed: Feed, lines: bytes) -> None:
    feed.path.parent.mkdir()
    feed.path.write_bytes(lines)
    for _ in range(10):
        assert "hash-chained" in feed.beat()["refused"]
    assert feed.path.read_bytes() == lines
    feed.path.write_bytes(b"")
    feed.good()


def test_a_feed_that_becomes_chained_is_left_alone_from_then_on(feed: Feed) -> None:
    feed.good()
    with open(feed.path, "ab") as file:
        file.write(b'{"action":"ledger_anchor","prev_hash":"GENESIS","hash":"00"}\n')
    size = feed.path.stat().st_size
    assert "hash-chained" in feed.beat()["refused"]
    assert feed.path.stat().st_size == size


# --- time (R2.5, R2.53, R2.54)


def test_time_never_goes_back_also_over_restarts_and_others_lines(feed: Feed) -> None:
    now_ms = int(time.time() * 1000)
    assert feed.beat(now_ms)["clamped_ms"] == 0
    answer = feed.beat(now_ms - 90_000)
    assert (answer["clamped_ms"], answer["at_ms"]) == (90_000, now_ms)
    feed.restart()
    assert feed.beat(now_ms - 30_000)["clamped_ms"] == 30_000
    with open(feed.path, "ab") as file:
        file.write(json.dumps({"ts_utc": utc_text(now_ms + 2000), "action": "x"}).encode() + b"\n")
    assert feed.beat(now_ms)["at_ms"] == (now_ms + 2000) // 1000 * 1000
    assert feed.beat(now_ms + 5000)["clamped_ms"] == 0
    assert check_feed(feed.path, now=now_ms / 1000 + 5) == []
    assert [(event.get("meta") or {}).get("clamped_ms") for event in feed.events()][:3] == [
        None,
        90_000,
        30_000,
    ]


def test_a_jump_of_an_hour_ahead_and_back_is_caught_up(feed: Feed) -> None:
    now_ms = int(time.time() * 1000)
    ahead_ms = now_ms + 3_600_000
    feed.beat(ahead_ms)
    stamps = [feed.beat(now_ms + minute * 60_000)["at_ms"] for minute in range(0, 70, 10)]
    assert stamps == [ahead_ms] * 7 if max(stamps) == ahead_ms else stamps[:6] == [ahead_ms] * 6
    assert feed.beat(ahead_ms + 60_000)["clamped_ms"] == 0


def test_our_own_feed_with_stamps_of_another_age_is_set_aside(feed: Feed) -> None:
    now_ms = int(time.time() * 1000)
    feed.beat(now_ms + 10 * 365 * 86_400_000)
    answer = feed.beat(now_ms, floor_ms=now_ms + 10 * 365 * 86_400_000)
    assert (answer["ok"], answer["at_ms"], answer["clamped_ms"]) == (True, now_ms, 0)
    assert "quarantine/activity_feed.jsonl." in answer["note"]
    assert check_feed(feed.path) == []


def test_others_stamps_of_another_age_are_respected_by_writing_nothing(feed: Feed) -> None:
    now_ms = int(time.time() * 1000)
    feed.path.parent.mkdir()
    far = json.dumps({"ts_utc": utc_text(now_ms + CLAMP_LIMIT_MS + 9000), "action": "x"}).encode() + b"\n"
    feed.path.write_bytes(far)
    assert "ahead of this machine's clock" in feed.beat(now_ms)["refused"]
    assert feed.path.read_bytes() == far
    assert feed.beat(now_ms + CLAMP_LIMIT_MS + 9000)["ok"]


def test_the_floor_holds_when_the_file_is_new(feed: Feed) -> None:
    now_ms = int(time.time() * 1000)
    assert feed.beat(now_ms, floor_ms=now_ms + 1500)["at_ms"] == now_ms + 1500


# --- doubt and faults of our own


def test_beats_of_unknown_fate_are_looked_up(feed: Feed) -> None:
    feed.good(12)
    answer = feed.beat(doubt=[1, 2, 12, 13, 99])
    assert answer["found"] == [1, 2, 12]
    feed.restart()
    assert feed.beat(doubt=[12])["found"] == []


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"active_sessions": 0, "dropped": 5}, {"active_sessions": 0, "dropped": 3}),
        ({"dropped": 2}, None),
        ({"active_sessions": 1}, {"active_sessions": 1}),
        (None, None),
    ],
)
def test_a_beat_does_not_tell_as_dropped_what_is_in_the_feed_after_all(
    feed: Feed, meta: dict[str, int] | None, told: dict[str, int] | None
) -> None:
    feed.good(2)
    event = feed.event() | ({"meta": meta} if meta else {})
    assert feed.file.append(Beat(event=event, budget=4.0, doubt=[1, 2]))["found"] == [1, 2]
    assert feed.events()[-1].get("meta") == told
    assert check_feed(feed.path) == []


def test_an_event_that_is_none_is_answered_not_raised(feed: Feed) -> None:
    for event in (
        {},
        {"ts_epoch_ms": "x"},
        {"ts_epoch_ms": 5, "a": float("nan")},
        {"ts_epoch_ms": 5, "a": "x" * 9999},
    ):
        answer = feed.file.append(Beat(event=event, budget=1.0))
        assert not answer["ok"]
        assert answer["error"]
    feed.good()
    assert len(feed.events()) == 1
