"""`<state>/backup`: where a copy of the database stands while it is made, and how it is held nameless."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.backup import HASHING, Progress

FOLDER = "backup"
_PIECE = 256 * 1024  # about a millisecond of hashing, during which nothing else runs


class HeldFile:
    """`ports.backup.Held` over an open descriptor."""

    def __init__(self, fd: int, size: int, sha256: str) -> None:
        """Takes the descriptor over."""
        self._fd = fd
        self.size = size
        self.sha256 = sha256

    def read(self, offset: int, length: int) -> bytes:
        """A piece of the file. Raises OSError, also after `close`."""
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        """Frees the space; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DiskBackupPlace:
    """`ports.backup.BackupPlace` in the state directory. For one user at a time."""

    def __init__(
        self,
        state_dir: Path,
        *,
        run_sync: RunSync = run_in_thread,
        still_wanted: Callable[[], None] = trio.from_thread.check_cancelled,
    ) -> None:
        """`still_wanted` is asked in the thread between two pieces; it raises when the wait is cancelled."""
        self._folder = state_dir / FOLDER
        self._run = run_sync
        self._still_wanted = still_wanted

    async def prepare(self) -> str:
        """A path for a new file; what an earlier process left there is removed."""
        return await self._run(self._prepare)

    def _prepare(self) -> str:
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        for name in os.listdir(self._folder):
            (self._folder / name).unlink()
        return str(self._folder / "ambient.db")

    async def hold(self, path: str, progress: Progress) -> HeldFile:
        """Hashes the file and unlinks its name; gives up between two pieces when cancelled."""
        return await self._run(partial(_hold, path, progress, self._still_wanted))

    async def discard(self, path: str) -> None:
        """Removes the file and SQLite's files beside it."""
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(path + suffix)


def _hold(path: str, progress: Progress, still_wanted: Callable[[], None]) -> HeldFile:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        digest, done = hashlib.sha256(), 0
        while piece := os.pread(fd, _PIECE, done):
            still_wanted()
            digest.update(piece)
            done += len(piece)
            progress(HASHING, done, size)
        os.unlink(path)
    except BaseException:
        os.close(fd)
        raise
    return HeldFile(fd, size, digest.hexdigest())
