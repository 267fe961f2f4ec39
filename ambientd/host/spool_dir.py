"""The inbox on disk: `inbox/{running,done,rejected,blocked}`; every step is a rename in one file system."""

import contextlib
import fcntl
import json
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ambientd.core.pruning import Kept, group
from ambientd.core.spool import Refusal, is_candidate
from ambientd.host.private_file import sync_folder
from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.spool import BLOCKED, DONE, REJECTED, RUNNING, Scan

FOLDERS = (RUNNING, DONE, REJECTED, BLOCKED)
SCAN_MAX = 10_000


class DiskSpool:
    """Implements `ports.spool.SpoolFolder` below `<state>/inbox`."""

    def __init__(self, state_dir: Path, *, max_file_size: int, run_sync: RunSync = run_in_thread) -> None:
        self._state = state_dir
        self._inbox = state_dir / "inbox"
        self._max = max_file_size
        self._run = run_sync

    async def prepare(self) -> None:
        """Makes the folders that are missing."""
        await self._run(self._prepare)

    def _prepare(self) -> None:
        for folder in (self._inbox, *(self._inbox / name for name in FOLDERS)):
            folder.mkdir(mode=0o700, exist_ok=True)

    async def scan(self) -> Scan:
        """Lists the inbox; names that start with a dot are hand-ins under way and not counted."""
        return await self._run(self._scan)

    def _scan(self) -> Scan:
        names: list[str] = []
        odd = 0
        with os.scandir(self._inbox) as entries:
            for entry in entries:
                if entry.name in FOLDERS or entry.name.startswith("."):
                    continue
                if is_candidate(entry.name):
                    names.append(entry.name)
                else:
                    odd += 1
                if len(names) + odd >= SCAN_MAX:
                    break
        running = [name for name in os.listdir(self._inbox / RUNNING) if is_candidate(name)]
        return Scan(names=tuple(sorted(names)), odd=odd, running=tuple(sorted(running)))

    async def read(self, name: str, folder: str | None = None) -> bytes | Refusal | None:
        """The content of a whole, regular, small enough file."""
        return await self._run(partial(self._read, self._inbox / (folder or "") / name))

    def _read(self, path: Path) -> bytes | Refusal | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Refusal("not_regular", f"cannot be opened as a plain file: {error.strerror}")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return Refusal("not_regular", "not a plain file")
        with open(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            if _is_being_written(file.fileno()):
                return None
            if facts.st_size > self._max:
                return Refusal("too_large", f"larger than {self._max} bytes")
            return file.read(self._max + 1)

    async def exists(self, path: str) -> bool:
        """Whether `<state>/<path>` exists and really lies there."""
        return await self._run(partial(self._exists, path))

    def _exists(self, path: str) -> bool:
        target = Path(os.path.realpath(self._state / path))
        return target.is_relative_to(os.path.realpath(self._state)) and target.exists()

    async def has_result(self, name: str) -> bool:
        """Whether `done/<name>` has its result beside it."""
        return await self._run((self._inbox / DONE / _note_name(name, "result")).exists)

    async def move(
        self,
        name: str,
        to: str,
        *,
        source: str | None = None,
        note: tuple[str, Mapping[str, Any]] | None = None,
    ) -> str:
        """Moves a file; the note is on disk before the file is."""
        return await self._run(partial(self._move, name, to, source, note))

    def _move(
        self, name: str, to: str, source: str | None, note: tuple[str, Mapping[str, Any]] | None
    ) -> str:
        folder = self._inbox / to
        final = _free_name(folder, name)
        if note is not None:
            kind, document = note
            _write_durably(folder / _note_name(final, kind), document)
        os.rename(self._inbox / (source or "") / name, folder / final)
        sync_folder(folder)
        return final

    async def kept(self, folder: str) -> tuple[Kept, ...]:
        """Ended files of one folder, each with its notes."""
        return await self._run(partial(self._kept, folder))

    def _kept(self, folder: str) -> tuple[Kept, ...]:
        with os.scandir(self._inbox / folder) as entries:
            facts = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        return group((name, fact.st_mtime, fact.st_size) for name, fact in facts)

    async def remove(self, folder: str, names: Sequence[str]) -> None:
        """Removes files of one folder; those that are gone already are no error."""
        await self._run(partial(self._remove, folder, names))

    def _remove(self, folder: str, names: Sequence[str]) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._inbox / folder / name)


def _note_name(name: str, kind: str) -> str:
    return f"{name.removesuffix('.json')}.{kind}.json"


def _free_name(folder: Path, name: str) -> str:
    """The name itself, or `<stem>.2.json` and so on, so that nothing handed in earlier is overwritten."""
    stem = name.removesuffix(".json")
    candidate, number = name, 1
    while os.path.lexists(folder / candidate):
        number += 1
        candidate = f"{stem}.{number}.json"
    return candidate


def _is_being_written(descriptor: int) -> bool:
    """Whether somebody has the file open for writing: the kernel grants a read lease only if nobody has.

    Where leases are not to be had (another owner, some file systems) the answer is no: handing in by
    rename is the documented way, and is whole by itself.
    """
    # Were the lease broken in the instant we hold it, the kernel's default signal would end the daemon;
    # SIGURG is ignored unless somebody asks for it.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _write_durably(path: Path, document: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    data = json.dumps(document, ensure_ascii=True, indent=1).encode() + b"\n"
    # What lies at that name is a rest of ours, or a link or pipe of somebody's: never written into.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
