"""Processor time by session: of everything that a session's shim started and that still lives."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ambientd.host.leftovers import MARK

PROCESSES_MAX = 20_000
_READ_MAX = 256 * 1024
_MARK = MARK.encode() + b"="
_FOLDER = b"/sessions/"
_ROUNDS_MAX = 64  # generations of processes


class _Process(NamedTuple):
    parent: int
    ticks: int


class SessionCpu:
    """Core-seconds since the call before. Asked now and then, for it looks at every process."""

    def __init__(self, proc: Path, ticks_per_sec: int) -> None:
        self._proc = proc
        self._rate = ticks_per_sec
        self._before: dict[str, int] | None = None

    def take(self, sessions: Collection[str]) -> dict[str, float]:
        """Of those sessions whose processes are found. At the first call nothing is known of before."""
        ticks = self._ticks(frozenset(sessions)) if sessions else {}
        before, self._before = self._before, ticks
        if before is None:
            return {}
        # A process that nobody waited for takes its time with it: a sum may fall.
        return {name: max(0, now - before.get(name, 0)) / self._rate for name, now in ticks.items()}

    def _ticks(self, wanted: frozenset[str]) -> dict[str, int]:
        found = dict(self._processes())
        owners = {pid: name for pid in found if (name := self._named(pid)) in wanted}
        for _ in range(_ROUNDS_MAX):  # what has wiped its environment belongs to who started it
            below = {
                pid: owners[process.parent]
                for pid, process in found.items()
                if pid not in owners and process.parent in owners
            }
            if not below:
                break
            owners |= below
        ticks: dict[str, int] = {}
        for pid, name in owners.items():
            ticks[name] = ticks.get(name, 0) + found[pid].ticks
        return ticks

    def _processes(self) -> Iterator[tuple[int, _Process]]:
        try:
            names = [name for name in os.listdir(self._proc) if name.isdigit()][:PROCESSES_MAX]
        except OSError:
            return
        for name in names:
            try:
                fields = self._read(name, "stat").rpartition(b")")[2].split()
                # utime, stime, and those of children that were waited for
                yield int(name), _Process(int(fields[1]), sum(map(int, fields[11:15])))
            except (OSError, ValueError, IndexError):
                continue

    def _named(self, pid: int) -> str:
        """The session that a process is marked with: a shim's folder, or the variable that agents get."""
        try:
            folder = self._read(str(pid), "cmdline").partition(_FOLDER)[2]
            if b"/run-" in folder:
                return folder.partition(b"/")[0].decode("ascii", "replace")
            for variable in self._read(str(pid), "environ").split(b"\0"):
                if variable.startswith(_MARK):
                    return variable[len(_MARK) :].decode("ascii", "replace")
        except OSError:
            return ""
        return ""

    def _read(self, pid: str, name: str) -> bytes:
        with open(self._proc / pid / name, "rb", buffering=0) as file:
            return file.read(_READ_MAX) or b""
