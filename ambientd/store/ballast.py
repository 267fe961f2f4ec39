"""A reserve file beside the database: given up, it makes room to clean a full disk (FAULTS B 3.2)."""

import os
from pathlib import Path

# The reserve is taken again only when this many times its size is free, so that it never takes the last
# room from the writes it is meant to save.
_ROOM_FACTOR = 2


class Ballast:
    """The reserve; a size of 0 means none is kept. Its calls block on the disk."""

    def __init__(self, database: Path, size: int) -> None:
        """The file stands beside `database`; `size` is in bytes."""
        self.path = database.with_name(database.name + ".ballast")
        self._size = size

    def present(self) -> bool:
        """Whether the whole reserve is there (or none is wanted)."""
        try:
            return self._size == 0 or self.path.stat().st_size == self._size
        except OSError:
            return False

    def ensure(self) -> bool:
        """Takes the reserve if it is missing and there is room; never raises for want of room."""
        if self.present():
            return True
        try:
            facts = os.statvfs(self.path.parent)
            if facts.f_bavail * facts.f_frsize < self._size * _ROOM_FACTOR:
                return False
            return self._allocate()
        except OSError:
            self.give_up()
            return False

    def _allocate(self) -> bool:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self.path, flags, 0o600)
        try:
            os.posix_fallocate(handle, 0, self._size)
        finally:
            os.close(handle)
        return True

    def give_up(self) -> bool:
        """Frees the reserve; False when there was none."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True
