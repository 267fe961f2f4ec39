"""The end of the feed: is its last line whole, and if not, how the damage is cut out.

A closing newline alone repairs nothing (R2.60): the damaged bytes move, byte for byte, into
`<folder>/quarantine/<feed>.<UTC>.<offset>.torn`, with a report `….torn.json` beside it. Runs in the
feed's helper process: standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from ambientd.core.feedline import decode
from ambientd.host.feedopen import FeedLostError, FeedRefusedError, OpenFeed, make_folder, sync_folder

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost the helper 0.7 MiB
    from typing import Any

QUARANTINE = "quarantine"
TORN_SUFFIX = ".torn"

READ_SIZE = 16 * 1024
BACKWARD_SIZE = 1024 * 1024
LINE_KEPT = 1024 * 1024
"""A longer line is never held in memory."""
DAMAGED_LINES = 1000
"""More damaged lines than this at the end are no torn tail: the file is something else."""
NAME_TRIES = 100


class Tail:
    """How the feed ends. `good_end` is where the last good line ends, its LF included.

    Bytes from `good_end` to `size` are damage, unless `lacks_newline`: then the last line is whole but
    for its LF. `last` is the last good line.
    """

    __slots__ = ("good_end", "lacks_newline", "last", "size")

    def __init__(
        self, size: int, good_end: int, last: dict[str, Any] | None, *, lacks_newline: bool = False
    ) -> None:
        self.size = size
        self.good_end = good_end
        self.last = last
        self.lacks_newline = lacks_newline

    @property
    def damaged(self) -> bool:
        """Whether there is something to cut."""
        return self.good_end < self.size and not self.lacks_newline


class Quarantined:
    """What was cut, and where it is now: a name in the quarantine folder."""

    __slots__ = ("name", "offset", "reason", "size")

    def __init__(self, name: str, offset: int, size: int, reason: str) -> None:
        self.name = name
        self.offset = offset
        self.size = size
        self.reason = reason

    def as_document(self) -> dict[str, Any]:
        """For the report and the answer."""
        return {"name": self.name, "offset": self.offset, "bytes": self.size, "reason": self.reason}


def read_tail(fd: int, size: int, progress: Callable[[], None]) -> Tail:
    """Looks at the end of a feed of `size` bytes, in bounded memory whatever the length of its lines.

    Raises FeedRefusedError when the file does not look like a feed at all: nothing of it may be cut.
    """
    end = size
    for _ in range(DAMAGED_LINES):
        if end == 0:
            break
        ended = os.pread(fd, 1, end - 1) == b"\n"
        body_end = end - 1 if ended else end
        start = _line_start(fd, body_end, progress)
        event = _read_line(fd, start, body_end, ended)
        if event is not None:
            return Tail(size, size if end == size else end, event, lacks_newline=not ended)
        end = start
    if size and (end or os.pread(fd, 1, 0) not in (b"{", b"\0")):
        raise FeedRefusedError("the file holds something else than JSON lines: it is no activity feed")
    return Tail(size, 0, None)


def _read_line(fd: int, start: int, end: int, ended: bool) -> dict[str, Any] | None:
    """The object in a line. A long ended line with the outline of one is somebody's, and passes unread."""
    if end - start <= LINE_KEPT:
        return decode(os.pread(fd, end - start, start))
    is_whole = ended and os.pread(fd, 1, start) == b"{" and os.pread(fd, 1, end - 1) == b"}"
    return {} if is_whole else None


def _line_start(fd: int, end: int, progress: Callable[[], None]) -> int:
    """Where the line that ends at `end` (its LF excluded) begins."""
    chunk_size = READ_SIZE
    while end > 0:
        start = max(0, end - chunk_size)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end, chunk_size = start, BACKWARD_SIZE
        progress()
    return 0


def end_line(feed: OpenFeed, tail: Tail) -> None:
    """Gives a whole last line the LF that it lacks. Raises OSError, FeedLostError."""
    if os.fstat(feed.fd).st_size != tail.size:
        raise FeedLostError("the feed's last line is still being written")
    os.write(feed.fd, b"\n")


def cut_tail(feed: OpenFeed, tail: Tail, *, stamp: str, progress: Callable[[], None]) -> Quarantined:
    """Moves the damaged end into quarantine: durable there before it is cut here.

    Raises OSError (nothing cut; a half-made copy is removed) and FeedLostError when somebody appended
    meanwhile (nothing cut).
    """
    head = os.pread(feed.fd, 1, tail.good_end)
    reason = "NUL bytes, as after a power cut" if head == b"\0" else "torn or damaged line"
    cut = Quarantined(
        f"{feed.name}.{stamp}.{tail.good_end}{TORN_SUFFIX}",
        tail.good_end,
        tail.size - tail.good_end,
        reason,
    )
    folder_fd = _open_quarantine(feed)
    try:
        _copy_out(feed.fd, folder_fd, cut, progress)
        if os.fstat(feed.fd).st_size != tail.size:
            os.unlink(cut.name, dir_fd=folder_fd)
            raise FeedLostError("the feed's damaged end is still being written")
        os.ftruncate(feed.fd, tail.good_end)
        os.fdatasync(feed.fd)
        _write_report(folder_fd, feed, cut, stamp)
    finally:
        os.close(folder_fd)
    return cut


def _open_quarantine(feed: OpenFeed) -> int:
    if make_folder(QUARANTINE, feed.folder_fd):
        sync_folder(feed)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(QUARANTINE, flags, dir_fd=feed.folder_fd)


def _create(folder_fd: int, name: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o640, dir_fd=folder_fd)


def _create_new(folder_fd: int, cut: Quarantined) -> int:
    """Makes the quarantine file, under a numbered name when the first is taken."""
    base = cut.name.removesuffix(TORN_SUFFIX)
    for attempt in range(NAME_TRIES):
        if attempt:
            cut.name = f"{base}.{attempt}{TORN_SUFFIX}"
        try:
            return _create(folder_fd, cut.name)
        except FileExistsError:
            continue
    raise FileExistsError(f"{NAME_TRIES} quarantine files with one name")


def _copy_out(source: int, folder_fd: int, cut: Quarantined, progress: Callable[[], None]) -> None:
    fd = _create_new(folder_fd, cut)
    try:
        _copy_range(source, fd, cut.offset, cut.size, progress)
        os.fsync(fd)
        os.fsync(folder_fd)
    except OSError:
        os.unlink(cut.name, dir_fd=folder_fd)
        raise
    finally:
        os.close(fd)


def _copy_range(source: int, target: int, offset: int, count: int, progress: Callable[[], None]) -> None:
    while count:
        chunk = os.pread(source, min(BACKWARD_SIZE, count), offset)
        if not chunk:
            raise FeedLostError("the feed became shorter while its damaged end was saved")
        offset, count = offset + len(chunk), count - len(chunk)
        while chunk:
            chunk = chunk[os.write(target, chunk) :]
        progress()


def _write_report(folder_fd: int, feed: OpenFeed, cut: Quarantined, stamp: str) -> None:
    report = {"feed": feed.name, "cut_at": stamp, **cut.as_document()}
    try:
        fd = _create(folder_fd, cut.name + ".json")
    except OSError:  # the bytes are safe; the answer to the daemon reports them too
        return
    try:
        os.write(fd, json.dumps(report).encode("ascii") + b"\n")
    except OSError:
        return
    finally:
        os.close(fd)
