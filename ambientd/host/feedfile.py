"""The disk side of the activity feed: one beat, one line, one write, under the lock, synced.

Runs in the feed's helper process (`host/feed_helper.py`), so it is synchronous, imports the standard
library and pure code only, and is handed its clocks. Whatever happens, the answer says exactly whether
the beat is in the file; the dispatcher never waits for any of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from ambientd.core.feedchain import REFUSAL, is_chained
from ambientd.core.feedline import LINE_LIMIT, encode, instant_ms, is_own_fragment, restamp, utc_text
from ambientd.host.feedkeep import Scan, prune, set_aside
from ambientd.host.feedopen import (
    FeedLostError,
    FeedRefusedError,
    OpenFeed,
    is_current,
    lock_feed,
    open_feed,
)
from ambientd.host.feedtail import READ_SIZE, Quarantined, Tail, cut_tail, end_line, read_tail

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost the helper 0.7 MiB
    from typing import Any

SETTLE = 3.0
"""Seconds that somebody's half line must stand still before it counts as torn (R2.63)."""
SETTLE_PAUSE = 0.05
CLAMP_LIMIT_MS = 2 * 3600 * 1000
"""A last line further ahead than this is a wrong clock, not a step back: clamping would lie for days."""
PRUNE_EVERY = 3600.0
ROTATION_RETRY = 300.0
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class FeedSettings:
    """One feed: an absolute path; `max_size` in bytes; `keep` in seconds."""

    __slots__ = ("host_id", "keep", "max_size", "path", "state_dir")

    def __init__(self, *, path: str, state_dir: str, host_id: str, max_size: int, keep: float) -> None:
        self.path = path
        self.state_dir = state_dir
        self.host_id = host_id
        self.max_size = max_size
        self.keep = keep


class Machine:
    """Clocks and a sign of life, given from outside. `wall` is in seconds since 1970."""

    __slots__ = ("monotonic", "progress", "sleep", "wall")

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        sleep: Callable[[float], None],
        progress: Callable[[], None],
    ) -> None:
        self.monotonic = monotonic
        self.wall = wall
        self.sleep = sleep
        self.progress = progress


class Beat:
    """One event to append within `budget` seconds, not stamped before `floor_ms`.

    `doubt`: sequence numbers of this run whose fate is unknown.
    """

    __slots__ = ("budget", "doubt", "event", "floor_ms")

    def __init__(
        self, *, event: Mapping[str, Any], budget: float, floor_ms: int = 0, doubt: Sequence[int] = ()
    ) -> None:
        self.event = event
        self.budget = budget
        self.floor_ms = floor_ms
        self.doubt = doubt


class FeedFile:
    """Appends beats to one feed; keeps what it learned about the file between beats."""

    def __init__(self, settings: FeedSettings, machine: Machine) -> None:
        self._settings = settings
        self._machine = machine
        self._scan = Scan(settings.host_id)
        self._known_devices: set[int] = set()
        self._left: tuple[int, ...] = ()  # the file as the last beat left it
        self._left_ms: int | None = None
        self._moving: tuple[tuple[int, ...], float] = ((), 0.0)
        self._cuts: list[Quarantined] = []
        self._prune_at = machine.monotonic()
        self._rotate_at = machine.monotonic()
        self._trouble: str | None = None

    def append(self, beat: Beat) -> dict[str, Any]:
        """Appends one beat; never raises. The answer is a JSON object.

        `ok` true: the line is in the file (`at_ms`, `clamped_ms`, `found` of `doubt`, `note`). False:
        it is not, for `refused` (a person must act) or `error` (may pass). `quarantined` lists what was
        cut, either way.
        """
        self._cuts = []
        answer: dict[str, Any] = {"ok": False}
        try:
            answer = self._append(beat)
        except FeedRefusedError as refusal:
            answer["refused"] = str(refusal)
        except FeedLostError as lost:
            answer["error"] = str(lost)
        except OSError as error:
            answer["error"] = _describe(error)
        except Exception as error:  # noqa: BLE001 - fail-open (seed 5): the beat is lost, counted, and said
            answer["error"] = f"{type(error).__name__}: {error}"
        answer["quarantined"] = [cut.as_document() for cut in self._cuts]
        return answer

    def _append(self, beat: Beat) -> dict[str, Any]:
        deadline = self._machine.monotonic() + beat.budget
        while True:
            feed = open_feed(self._settings.path, self._settings.state_dir, self._known_devices)
            try:
                lock_feed(feed.fd, deadline, monotonic=self._machine.monotonic, sleep=self._machine.sleep)
                status = os.fstat(feed.fd)
                if is_current(feed):
                    last_ms = self._settled_end(feed, status)
                    if last_ms is not None and not self._moved_aside(feed, beat, last_ms):
                        return self._write(feed, beat, last_ms)
            finally:
                feed.close()
            if self._machine.monotonic() >= deadline:
                raise FeedLostError("the feed did not come to rest: its last line is still being written")
            self._machine.sleep(SETTLE_PAUSE)

    # --- before the write

    def _settled_end(self, feed: OpenFeed, status: os.stat_result) -> int | None:
        """The instant of the last line (0: none), once the end is whole; None while it is not yet.

        Raises FeedRefusedError for a chained feed, and for a file that is no feed.
        """
        self._scan.follow(status)
        if self._left != _identity(status) or self._left_ms is None:
            tail = read_tail(feed.fd, status.st_size, self._machine.progress)
            if tail.good_end < tail.size or tail.lacks_newline:
                if not self._is_settled(feed, tail, status):
                    return None
                self._repair(feed, tail)
                return None  # looked at afresh: the repair changed the file
            if tail.last is not None and is_chained(tail.last):
                raise FeedRefusedError(REFUSAL)
            self._left_ms = (instant_ms(tail.last) if tail.last else None) or 0
            self._left = _identity(status)
        self._scan.advance(feed.fd, status.st_size, self._machine.progress)
        if self._scan.chained:
            raise FeedRefusedError(REFUSAL)
        return self._left_ms

    def _is_settled(self, feed: OpenFeed, tail: Tail, status: os.stat_result) -> bool:
        """Whether nobody is still writing the end: certain for a beat's fragment, as we hold the lock."""
        if self._machine.wall() - status.st_mtime >= SETTLE:
            return True
        if tail.damaged and tail.size - tail.good_end < LINE_LIMIT:
            fragment = os.pread(feed.fd, LINE_LIMIT, tail.good_end)
            if is_own_fragment(fragment) and b"\n" not in fragment and fragment.count(b'{"') <= 2:
                return True
        seen, since = self._moving
        if seen != _identity(status):
            self._moving = (_identity(status), self._machine.monotonic())
            return False
        return self._machine.monotonic() - since >= SETTLE

    def _repair(self, feed: OpenFeed, tail: Tail) -> None:
        if tail.lacks_newline:
            end_line(feed, tail)
        else:
            cut = cut_tail(feed, tail, stamp=self._stamp(), progress=self._machine.progress)
            self._cuts.append(cut)
        self._scan.forget()

    def _moved_aside(self, feed: OpenFeed, beat: Beat, last_ms: int) -> bool:
        """Rotates our own feed when it is due; True when the next open makes a new file."""
        now = self._machine.monotonic()
        size = os.fstat(feed.fd).st_size
        ahead_ms = last_ms - beat.event["ts_epoch_ms"]
        if ahead_ms > CLAMP_LIMIT_MS:
            if not self._is_all_ours(feed, size):
                raise FeedRefusedError(
                    f"the feed's last line is stamped {ahead_ms // 1000} s ahead of this machine's clock"
                )
            self._trouble = "moved to " + set_aside(feed, self._stamp(), future=True)
            return True
        if size < self._settings.max_size or now < self._rotate_at or not self._is_all_ours(feed, size):
            return False
        try:
            set_aside(feed, self._stamp())
        except OSError as error:
            self._rotate_at = now + ROTATION_RETRY
            self._trouble = "rotation failed: " + _describe(error)
            return False
        self._prune_at = now
        return True

    def _is_all_ours(self, feed: OpenFeed, size: int) -> bool:
        """Reads the whole file anew when it looks ours: it may have been rewritten in place."""
        if not self._scan.is_ours(size):
            return False
        self._scan.forget()
        self._scan.advance(feed.fd, size, self._machine.progress, limit=size)
        return self._scan.is_ours(size)

    # --- the write

    def _write(self, feed: OpenFeed, beat: Beat, last_ms: int) -> dict[str, Any]:
        size = os.fstat(feed.fd).st_size
        floor_ms = beat.floor_ms
        if floor_ms - beat.event["ts_epoch_ms"] > CLAMP_LIMIT_MS:
            floor_ms = 0
        found = _find_beats(feed.fd, size, str(beat.event.get("run_id")), beat.doubt)
        event, clamped_ms = restamp(_less_dropped(beat.event, len(found)), max(last_ms, floor_ms))
        line = encode(event)
        written = os.write(feed.fd, line)
        if written != len(line):
            self._roll_back(feed.fd, size, written)
            raise FeedLostError(f"short write: {written} of {len(line)} bytes, taken back")
        self._sync(feed.fd, size, written)
        if self._scan.offset == size:
            self._scan.wrote(written)
        after = os.fstat(feed.fd)
        alone = after.st_size == size + written
        self._left, self._left_ms = (_identity(after), event["ts_epoch_ms"]) if alone else ((), None)
        self._prune_when_due(feed)
        return {
            "ok": True,
            "at_ms": event["ts_epoch_ms"],
            "clamped_ms": clamped_ms,
            "found": found,
            "note": self._note(),
        }

    def _roll_back(self, fd: int, size: int, written: int) -> None:
        """Takes a part of a line, or a line that was not synced, out again, unless something follows it."""
        if os.fstat(fd).st_size != size + written:
            raise FeedLostError(f"a write of {written} bytes failed and others' bytes follow it")
        os.ftruncate(fd, size)

    def _sync(self, fd: int, size: int, written: int) -> None:
        try:
            os.fdatasync(fd)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return
            self._roll_back(fd, size, written)
            raise

    # --- after the write

    def _prune_when_due(self, feed: OpenFeed) -> None:
        now = self._machine.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_EVERY
            prune(feed, now=self._machine.wall(), keep=self._settings.keep)

    def _note(self) -> str | None:
        if self._scan.foreign:
            return f"holds {self._scan.foreign} lines of other writers: never rotated"
        return self._trouble

    def _stamp(self) -> str:
        text = utc_text(max(0, int(self._machine.wall() * 1000)))
        return text.replace("-", "").replace(":", "")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Changes whenever the file is replaced, appended to or rewritten."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _find_beats(fd: int, size: int, run_id: str, doubt: Sequence[int]) -> list[int]:
    """Which beats of a run are among the feed's last lines after all.

    A helper that was killed between writing and answering leaves its beat's fate unknown.
    """
    if not doubt:
        return []
    start = max(0, size - READ_SIZE)
    mark = b'"run_id":"' + run_id.encode("ascii", "replace") + b'"'
    lines = [line for line in os.pread(fd, size - start, start).split(b"\n") if mark in line]
    return [seq for seq in doubt if any(b'"heartbeat_seq":%d,' % seq in line + b"," for line in lines)]


def _less_dropped(event: Mapping[str, Any], found: int) -> Mapping[str, Any]:
    """The event without the beats that `meta.dropped` counts and that are in the feed after all."""
    if not found or "dropped" not in event.get("meta", {}):
        return event
    meta = {**event["meta"], "dropped": event["meta"]["dropped"] - found}
    if meta["dropped"] <= 0:
        del meta["dropped"]
    told = {**event, "meta": meta}
    if not meta:
        del told["meta"]
    return told


def _describe(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{name}: {error.strerror or error}"
