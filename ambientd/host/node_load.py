"""Loads of this machine for reports, from /proc and the file system."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ambientd.core.pushbodies import Meters


STAT, MEMINFO = "/proc/stat", "/proc/meminfo"
_IDLE = (3, 4)  # idle and waiting for a disk, among the figures of the first line


class NodeLoad:
    """The processor's load is that since the last look; the first look has none."""

    def __init__(self, folder: Path, *, stat: str = STAT, meminfo: str = MEMINFO) -> None:
        """`folder`: whose file system is looked at."""
        self._folder = folder
        self._stat = stat
        self._meminfo = meminfo
        self._before: tuple[int, int] | None = None

    def look(self) -> "Meters":
        """All loads; what cannot be read is None. Blocks for as long as a file system does."""
        from ambientd.core.pushbodies import Meters  # which no node needs that has joined nothing

        return Meters(cpu=self._cpu(), memory=self._memory(), disk=self._disk())

    def _cpu(self) -> float | None:
        try:
            with open(self._stat, encoding="ascii") as file:
                figures = [int(word) for word in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        if len(figures) <= max(_IDLE):
            return None
        now = sum(figures), sum(figures[place] for place in _IDLE)
        before, self._before = self._before, now
        if before is None or now[0] <= before[0]:
            return None
        total, idle = now[0] - before[0], now[1] - before[1]
        return 100.0 * (total - idle) / total

    def _memory(self) -> float | None:
        found = self._meminfo_figures()
        total, free = found.get("MemTotal", 0), found.get("MemAvailable")
        return None if not total or free is None else 100.0 * (total - free) / total

    def memory_gb(self) -> float | None:
        """The machine's memory."""
        total = self._meminfo_figures().get("MemTotal")
        return None if total is None else total / 1024**2

    def _meminfo_figures(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        try:
            with open(self._meminfo, encoding="ascii") as file:
                for line in file:
                    name, _, rest = line.partition(":")
                    if name in ("MemTotal", "MemAvailable"):
                        found[name] = int(rest.split()[0])
                    if len(found) == 2:
                        break
        except (OSError, ValueError, IndexError):
            return {}
        return found

    def _disk(self) -> float | None:
        try:
            facts = os.statvfs(self._folder)
        except OSError:
            return None
        used = facts.f_blocks - facts.f_bfree
        room = used + facts.f_bavail
        return None if room <= 0 else 100.0 * used / room
