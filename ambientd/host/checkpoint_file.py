"""`<state>/audit.checkpoint`: the newest signed head of the audit chain, beside the database that holds it.

Somebody who cuts the table without knowing of it is found out by it; so is a database that was swapped.
"""

import os
import stat
from functools import partial
from pathlib import Path

from ambientd.core.checkpoint import NOTE_MAX
from ambientd.host.private_file import replace_private, sync_folder
from ambientd.host.threads import RunSync, run_in_thread

NAME = "audit.checkpoint"
_BYTES_MAX = 4 * NOTE_MAX


class DiskCheckpointFile:
    """Implements `ports.audit.CheckpointFile`."""

    def __init__(self, state_dir: Path, *, run_sync: RunSync = run_in_thread) -> None:
        self.path = state_dir / NAME
        self._run_sync = run_sync

    async def read(self) -> str | None:
        """The note, whatever it is; None when there is no file."""
        return await self._run_sync(partial(read_checkpoint, self.path))

    async def write(self, note: str) -> None:
        """Replaces it; durable when it returns."""
        await self._run_sync(partial(replace_private, self.path, note))

    async def set_aside(self, why: str, stamp: str) -> None:
        """Renames it."""
        await self._run_sync(partial(self._rename, f"{NAME}.{why}-{stamp}"))

    def _rename(self, name: str) -> None:
        if os.path.lexists(self.path):
            os.rename(self.path, self.path.with_name(name))
            sync_folder(self.path.parent)


def read_checkpoint(path: Path) -> str | None:
    """The note at a path, empty when something else than a file is there; None when nothing is. Blocks.
    Raises OSError."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        return file.read(_BYTES_MAX).decode(errors="replace")
