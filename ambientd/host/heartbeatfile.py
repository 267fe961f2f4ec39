"""`<state>/heartbeat.json`: replaced whole each cycle, and never in the dispatcher's way (R2.35, R2.79)."""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

WRITE_TIMEOUT = 5.0
CANCEL_GRACE, CANCEL_LOOK = 0.5, 0.005


async def run_in_thread(work: Callable[[], None]) -> None:
    """Runs `work` in a thread of its own; cancellation leaves it behind."""
    limiter = trio.CapacityLimiter(1)  # a hung thread must not take one of the daemon's shared places
    await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)


class DiskHeartbeatFile:
    """`ports.feed.HeartbeatFile` at an absolute path. One writer at a time, and at most one thread."""

    def __init__(
        self,
        path: str,
        *,
        timeout: float = WRITE_TIMEOUT,
        run_sync: Callable[[Callable[[], None]], Awaitable[None]] = run_in_thread,
    ) -> None:
        """`timeout` in seconds; tests on virtual time pass a `run_sync` that runs the work in place."""
        self._path = path
        self._timeout = timeout
        self._run_sync = run_sync
        self._working = False
        self._tidied = False
        self.failures = 0
        self.last_error: str | None = None
        self.error: str | None = None  # of the newest write; None when it was good

    async def write(self, document: Mapping[str, Any]) -> bool:
        """See HeartbeatFile. Cancellation is passed on; the file is then the old or the new one, whole.

        A write that is cancelled is given `CANCEL_GRACE` seconds to end, so that the next one can be made.
        While an earlier write still hangs in the file system nothing is tried: False, counted.
        """
        if self._working:
            return self._failed("an earlier write still hangs in the file system")
        data = json.dumps(document).encode("ascii") + b"\n"
        await trio.lowlevel.checkpoint_if_cancelled()  # from here on the thread is sure to start
        self._working = True

        def work() -> None:
            try:
                self._tidy_once()
                replace_file(self._path, data)
            finally:
                self._working = False

        try:
            with trio.move_on_after(self._timeout):
                await self._run_sync(work)
                self.error = None
                return True
        except trio.Cancelled:
            await self._let_end()
            raise
        except OSError as error:
            return self._failed(error.strerror or str(error))
        except RuntimeError as error:  # the machine has no thread to give
            self._working = False
            return self._failed(str(error))
        return self._failed(f"not written within {self._timeout:g} s")

    async def _let_end(self) -> None:
        with trio.move_on_after(CANCEL_GRACE, shield=True):
            while self._working:
                await trio.sleep(CANCEL_LOOK)

    def _failed(self, reason: str) -> bool:
        self.failures += 1
        self.last_error = self.error = reason
        return False

    def _tidy_once(self) -> None:
        """Removes what killed processes left beside the file; a state directory has one daemon at a time."""
        if self._tidied:
            return
        self._tidied = True
        folder, _, name = self._path.rpartition("/")
        for found in os.listdir(folder):
            middle = found.removeprefix(name + ".").removesuffix(".tmp")
            if middle.isdecimal() and found == f"{name}.{middle}.tmp":
                with suppress(OSError):  # the beat matters more
                    os.unlink(f"{folder}/{found}")


def replace_file(path: str, data: bytes) -> None:
    """Replaces a file's content: readers see the old bytes or the new ones, also after a power cut.

    Raises OSError, and leaves no temporary file behind then.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o644)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
