"""Reading a feed as others do: line by line in bounded memory, and following it while it grows."""

import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

CHUNK = 64 * 1024
LINE_KEPT = 1024 * 1024


class RawLine(NamedTuple):
    """One line without its LF. `length` is its whole length; a longer one than LINE_KEPT is not kept."""

    data: bytes
    length: int
    ended: bool


def open_for_reading(path: str) -> BinaryIO:
    """Opens a regular file; raises OSError, IsADirectoryError for anything that is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise IsADirectoryError(0, "not a regular file", path)
    return open(fd, "rb", buffering=0)


def read_lines(file: BinaryIO) -> Iterator[RawLine]:
    """All lines up to the present end."""
    splitter = _Splitter()
    while chunk := file.read(CHUNK):
        yield from splitter.feed(chunk)
    yield from splitter.end()


class _Splitter:
    """Cuts chunks into lines, keeping at most LINE_KEPT bytes of one."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> Iterator[RawLine]:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._add(line)
            yield self._take(ended=True)
        self._add(rest)

    def end(self) -> Iterator[RawLine]:
        if self._length:
            yield self._take(ended=False)

    def _add(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= LINE_KEPT:
            self._parts.append(part)

    def _take(self, *, ended: bool) -> RawLine:
        kept = b"" if self._length > LINE_KEPT else b"".join(self._parts)
        line = RawLine(kept, self._length, ended)
        self._parts, self._length = [], 0
        return line


def last_lines(file: BinaryIO, count: int) -> list[RawLine]:
    """The last `count` whole lines; the file stands behind the last LF afterwards."""
    size = os.fstat(file.fileno()).st_size
    start, found = size, 0
    while start > 0 and found <= count:
        step = min(CHUNK, start)
        start -= step
        found += os.pread(file.fileno(), step, start).count(b"\n")
    file.seek(start)
    lines = [line for line in read_lines(file) if line.ended]
    torn = _torn_length(file.fileno(), size)
    file.seek(size - torn)
    return lines[-count:] if count else []


def _torn_length(fd: int, size: int) -> int:
    """How many bytes stand behind the last LF."""
    end = size
    while end > 0:
        start = max(0, end - CHUNK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return size - (start + found + 1)
        end = start
    return size


def follow_lines(path: str, file: BinaryIO, pause: Callable[[], None]) -> Iterator[RawLine]:
    """New lines for ever, over rotation (another file at `path`) and truncation; closes `file`.

    `pause` is called when there is nothing new. A renamed file is read to its end before the new one.
    """
    try:
        splitter = _Splitter()
        while True:
            chunk = file.read(CHUNK)
            if chunk:
                yield from splitter.feed(chunk)
            elif os.fstat(file.fileno()).st_size < file.tell():
                file.seek(0)
                splitter = _Splitter()
            elif (newer := _replacement(path, file)) is not None:
                yield from splitter.feed(file.read(CHUNK))  # written between the read and the rename
                file.close()
                file, splitter = newer, _Splitter()
            else:
                pause()
    finally:
        file.close()


def _replacement(path: str, file: BinaryIO) -> BinaryIO | None:
    """The file at `path` when it is another one than `file`."""
    try:
        if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return None
        return open_for_reading(path)
    except OSError:  # between rename and re-creation: the old file goes on for a while
        return None
