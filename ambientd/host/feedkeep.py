"""Whose lines the feed holds, and what follows: rotation of our own feed, nothing for others' (R2.66).

Rotated files are `<feed without .jsonl>.ambient-<UTC>.jsonl` beside the feed. They and the files in
quarantine are removed by age, and there are never more than `ROTATED_KEPT` rotated ones (R2.67). Runs
in the feed's helper process: standard library only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from ambientd.core.feedchain import is_chained, may_be_chained
from ambientd.core.feedline import decode, is_own_line
from ambientd.host.feedopen import OpenFeed, make_folder, sync_folder
from ambientd.host.feedtail import LINE_KEPT, NAME_TRIES, QUARANTINE, TORN_SUFFIX

SCAN_CHUNK = 32 * 1024
SCAN_PER_BEAT = 32 * 1024 * 1024
"""How much of a large feed is read before one beat; the rest follows with the next beats."""
ROTATED_KEPT = 8
"""At an interval below some seconds the size, not the age, must bound what is kept."""
FUTURE_SUFFIX = ".future"


class Scan:
    """What is known of one file's lines, kept from beat to beat by device and inode."""

    def __init__(self, host_id: str) -> None:
        self._host_id = host_id
        self._device_inode = (0, 0)
        self.forget()

    def forget(self) -> None:
        """Starts over, for a file that was replaced or rewritten."""
        self.offset = 0
        self.foreign = 0
        self.chained = False
        self._carry = b""
        self._skipping = False

    def follow(self, found: os.stat_result) -> None:
        """Starts over when this is another file than before, or it became shorter."""
        here = (found.st_dev, found.st_ino)
        if here != self._device_inode or found.st_size < self.offset:
            self._device_inode = here
            self.forget()

    def advance(self, fd: int, size: int, progress: Callable[[], None], limit: int = SCAN_PER_BEAT) -> None:
        """Reads on towards `size`, at most `limit` bytes."""
        stop = min(size, self.offset + limit)
        while self.offset < stop:
            chunk = os.pread(fd, min(SCAN_CHUNK, stop - self.offset), self.offset)
            if not chunk:
                return
            self.offset += len(chunk)
            self._take(chunk)
            progress()

    def wrote(self, count: int) -> None:
        """A line of ours of `count` bytes was appended at the end of what was scanned."""
        self.offset += count

    def is_ours(self, size: int) -> bool:
        """Whether the whole file was read and every line of it is ours."""
        return self.offset == size and not self.foreign and not self._carry and not self._skipping

    def _take(self, chunk: bytes) -> None:
        lines = (self._carry + chunk).split(b"\n")
        self._carry = lines.pop()
        if self._skipping:
            if not lines:
                self._carry = b""
                return
            lines[0] = b""
            self._skipping = False
        for line in lines:
            if not is_own_line(line, self._host_id):
                self._take_foreign(line)
        if len(self._carry) > LINE_KEPT:
            self._carry, self._skipping = b"", True

    def _take_foreign(self, line: bytes) -> None:
        self.foreign += 1
        if may_be_chained(line):
            event = decode(line)
            self.chained = self.chained or (event is not None and is_chained(event))


def _rotated_prefix(feed_name: str) -> str:
    return feed_name.removesuffix(".jsonl") + ".ambient-"


def set_aside(feed: OpenFeed, stamp: str, *, future: bool = False) -> str:
    """Renames the feed, so that the next open makes a new one; returns the new name.

    `future`: into quarantine, because its stamps are ahead of the clock and must not be read as the
    history before the new file. Call it under the feed's lock.
    """
    base = feed.name + "." if future else _rotated_prefix(feed.name)
    end = FUTURE_SUFFIX if future else ".jsonl"
    place = QUARANTINE + "/" if future else ""
    if future:
        make_folder(QUARANTINE, feed.folder_fd)
    for attempt in range(NAME_TRIES):
        name = f"{place}{base}{stamp}{f'.{attempt}' if attempt else ''}{end}"
        try:
            os.stat(name, dir_fd=feed.folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(feed.name, name, src_dir_fd=feed.folder_fd, dst_dir_fd=feed.folder_fd)
            sync_folder(feed)
            return name
    raise FileExistsError(f"{NAME_TRIES} rotated files with one name")


def prune(feed: OpenFeed, *, now: float, keep: float) -> int:
    """Removes rotated files and quarantined pieces older than `keep` seconds; returns how many.

    Only regular files whose name is of our own making are touched. `now` is in seconds since 1970.
    """
    prefix = _rotated_prefix(feed.name)
    rotated = _ours_in(feed, ".", lambda name: name.startswith(prefix) and name.endswith(".jsonl"))
    ends = (TORN_SUFFIX, TORN_SUFFIX + ".json", FUTURE_SUFFIX)
    pieces = _ours_in(feed, QUARANTINE, lambda name: name.startswith(feed.name + ".") and name.endswith(ends))
    old = [path for changed, path in rotated + pieces if changed < now - keep]
    surplus = [path for _, path in sorted(rotated, reverse=True)[ROTATED_KEPT:]]
    removed = 0
    for path in set(old + surplus):
        try:
            os.unlink(path, dir_fd=feed.folder_fd)
        except OSError:
            continue
        removed += 1
    return removed


def _ours_in(feed: OpenFeed, place: str, is_ours: Callable[[str], bool]) -> list[tuple[float, str]]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(place, flags, dir_fd=feed.folder_fd)
    except OSError:  # no such folder, or one that cannot be listed
        return []
    found = []
    try:
        for name in filter(is_ours, os.listdir(fd)):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, f"{place}/{name}"))
    except OSError:
        return found
    finally:
        os.close(fd)
    return found
