"""The agent's output: two pipes read without ever holding the agent up, one bounded file.

Part of the stand-alone shim: standard library only, no `ambientd`.
"""

from __future__ import annotations

import os
import time

READ_SIZE = 256 * 1024


def wall_ms() -> int:
    """Epoch milliseconds, for records; intervals use the monotonic clock."""
    return time.time_ns() // 1_000_000


class Spool:
    """The bounded file `output`: records `<at_ms> <o|e><0|1> <length>\\n<bytes>\\n`, appended in batches.

    1 in the second field means that the line goes on in the next record of its stream. The file never
    shrinks below a complete record, since a reader may have used it. From the first record that does not
    fit, everything is counted and dropped.
    """

    def __init__(self, limit: int) -> None:
        self._file = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._limit = limit
        self._batch: list[tuple[bytes, int]] = []
        self._batch_size = 0
        self.size = 0
        self.read = 0
        self.dropped = 0
        self.full = False

    def add(self, stream: bytes, part: bytes, *, more: bool, cost: int, at_ms: int) -> None:
        """Queues one record; `cost` is how many bytes of the agent it stands for."""
        record = b"%d %s%d %d\n%s\n" % (at_ms, stream, more, len(part), part)
        if self.full or self.size + self._batch_size + len(record) > self._limit:
            self.full = True
            self.dropped += cost
            return
        self._batch.append((record, cost))
        self._batch_size += len(record)

    def flush(self) -> None:
        """Writes what is queued at once. What a full disk does not take is dropped and counted."""
        if not self._batch:
            return
        batch, self._batch, self._batch_size = self._batch, [], 0
        data = b"".join(record for record, _ in batch)
        try:
            written = os.pwrite(self._file, data, self.size)
        except OSError:
            written = 0
        if written == len(data):
            self.size += written
            return
        for record, cost in batch:
            if len(record) <= written:
                written -= len(record)
                self.size += len(record)
            else:
                written = 0
                self.dropped += cost
        self._trim()

    def _trim(self) -> None:
        try:
            os.ftruncate(self._file, self.size)
        except OSError:
            self.full = True  # a torn record that cannot be removed must stay the last one

    def sync(self) -> None:
        """Makes the file durable, as far as the disk can."""
        try:
            os.fdatasync(self._file)
        except OSError:
            self.full = True


class Source:
    """One output pipe of the agent, cut into lines."""

    def __init__(self, descriptor: int, stream: bytes, limit: int, spool: Spool) -> None:
        self.descriptor = descriptor
        self._stream = stream
        self._limit = limit
        self._spool = spool
        self._tail = b""
        self._buffer = bytearray(READ_SIZE)

    def pull(self) -> bool:
        """Reads once; false at the end of the pipe. Never blocks."""
        try:
            count = os.readv(self.descriptor, [self._buffer])
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._spool.read += count
        if self._spool.full:
            self._spool.dropped += count
        elif count:
            self._cut(bytes(memoryview(self._buffer)[:count]), wall_ms())
        return count > 0

    def _cut(self, data: bytes, at_ms: int) -> None:
        *lines, tail = (self._tail + data).split(b"\n")
        for line in lines:
            rest = self._split(line, at_ms)
            self._spool.add(self._stream, rest, more=False, cost=len(rest) + 1, at_ms=at_ms)
        self._tail = self._split(tail, at_ms)

    def _split(self, line: bytes, at_ms: int) -> bytes:
        """Takes parts off an overlong line, never inside a UTF-8 character; returns what is left."""
        start = 0
        while len(line) - start > self._limit:
            end = start + self._limit
            while end > start + self._limit - 4 and line[end] & 0xC0 == 0x80:
                end -= 1
            self._spool.add(self._stream, line[start:end], more=True, cost=end - start, at_ms=at_ms)
            start = end
        return line[start:] if start else line

    def close(self) -> None:
        """The last line may have no end."""
        if self._tail:
            tail, self._tail = self._tail, b""
            self._spool.add(self._stream, tail, more=False, cost=len(tail), at_ms=wall_ms())
        os.close(self.descriptor)
