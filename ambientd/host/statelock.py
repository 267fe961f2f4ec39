"""One daemon per state directory and database: the directory is made and checked, and locks are held."""

import errno
import fcntl
import json
import os
import select
import stat
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from ambientd.core.timefmt import rfc3339_ms

LOCK_NAME = "lock"
_LONGEST_RECORD = 4096
# Someone who deletes the lock file between our open and our lock; more often than this is no accident.
_TRIES = 5
_NAME_TRIES, _NAME_PAUSE = 20, 0.02


class StateDirError(Exception):
    """The state directory cannot be used; the message is a sentence that says why and what helps."""


class StateLockedError(Exception):
    """Another process holds the state (exit 75). `pid` is None when it did not say who it is."""

    def __init__(self, state_dir: str, pid: int | None, since: str | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        started = f", started {since}" if since else ""
        super().__init__(f"{state_dir} is in use by {holder}{started}.")
        self.state_dir = state_dir
        self.pid = pid
        self.since = since


@dataclass(slots=True)
class StateLock:
    """The held lock. It ends with `release`, and with the process however that dies."""

    state_dir: str
    _fds: list[int]

    def release(self) -> None:
        """Lets go; harmless when repeated. The files stay, so that nobody locks a deleted one."""
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def acquire(state_dir: str, at: datetime, *, database: str | os.PathLike[str] = "") -> StateLock:
    """Makes `state_dir` (0700) when it is missing, checks it, and locks `<state_dir>/lock`.

    A `database` that lies elsewhere has a lock of its own, `<database>.lock`: two daemons with two state
    directories would take each other's sessions for lost. The files then hold `{"pid", "start_ticks",
    "since"}`; `since` is `at`. Raises StateDirError, or StateLockedError when another process holds one: at
    once, or shortly later when a holder that has just started has yet to write its name.
    """
    prepare(state_dir)
    lock = StateLock(state_dir, [_lock(os.path.join(state_dir, LOCK_NAME), state_dir, at)])
    place = os.path.realpath(database) if os.fspath(database) else ""
    if place and os.path.dirname(place) != os.path.realpath(state_dir):
        try:
            lock._fds += _lock_database(place, at)
        except StateLockedError:
            lock.release()
            raise
    return lock


def _lock_database(database: str, at: datetime) -> list[int]:
    """The lock; none where no file can be made: no database can be written there, and the store says so."""
    try:
        return [_lock(database + ".lock", database, at)]
    except StateDirError:
        return []


def _lock(path: str, what: str, at: datetime) -> int:
    for _ in range(_TRIES):
        fd = _open_lock(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, since = _named_holder(fd)
            os.close(fd)
            raise StateLockedError(what, pid, since) from None
        except OSError as error:
            os.close(fd)
            raise StateDirError(f"{path} cannot be locked: {_reason(error)}.") from None
        if _is_current(fd, path):
            _write_holder(fd, path, at)
            return fd
        os.close(fd)
    raise StateDirError(f"{path} is removed by something again and again.")


def prepare(state_dir: str) -> None:
    """Makes the directory when missing and checks that it is ours alone. Raises StateDirError."""
    try:
        os.makedirs(os.path.dirname(os.path.abspath(state_dir)), mode=0o755, exist_ok=True)
        os.mkdir(state_dir, 0o700)
    except FileExistsError:
        pass
    except (OSError, ValueError) as error:
        raise StateDirError(f"The state directory {state_dir!r} cannot be made: {_reason(error)}.") from None
    try:
        facts = os.stat(state_dir)
    except OSError as error:
        raise StateDirError(f"The state directory {state_dir} cannot be read: {_reason(error)}.") from None
    _check(state_dir, facts, os.geteuid())


def _check(state_dir: str, facts: os.stat_result, uid: int) -> None:
    name = f"The state directory {state_dir}"
    if not stat.S_ISDIR(facts.st_mode):
        raise StateDirError(f"{name} is not a directory.")
    if facts.st_uid != uid:
        raise StateDirError(
            f"{name} belongs to user {facts.st_uid}, but this is user {uid}: run as that user, "
            "or name another directory with --state-dir."
        )
    if facts.st_mode & stat.S_IWOTH:
        raise StateDirError(f"{name} can be changed by every user (chmod o-w {state_dir}).")
    if not os.access(state_dir, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise StateDirError(f"{name} is not readable and writable for user {uid} (chmod u+rwx {state_dir}).")


def _open_lock(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else _reason(error)
        raise StateDirError(f"{path} cannot be opened: {reason}.") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StateDirError(f"{path} is not a regular file.")
    return fd


def _is_current(fd: int, path: str) -> bool:
    """Whether the locked file is still the one that the next process would open."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _write_holder(fd: int, path: str, at: datetime) -> None:
    record = {"pid": os.getpid(), "start_ticks": process_start_ticks(os.getpid()), "since": rfc3339_ms(at)}
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(record).encode() + b"\n", 0)
    except OSError as error:
        # A full disk must not keep the daemon from starting and cleaning it: the lock itself holds.
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            os.close(fd)
            raise StateDirError(f"{path} cannot be written: {_reason(error)}.") from None


def _named_holder(fd: int) -> tuple[int | None, str | None]:
    """Who holds it; a holder that has just got the lock writes its name within milliseconds."""
    for _ in range(_NAME_TRIES):
        pid, since = _holder(fd)
        if pid is not None:
            return pid, since
        select.select([], [], [], _NAME_PAUSE)
    return None, None


def _holder(fd: int) -> tuple[int | None, str | None]:
    try:
        record: Any = json.loads(os.pread(fd, _LONGEST_RECORD, 0))
    except (OSError, ValueError, RecursionError):
        return None, None
    if not isinstance(record, dict):
        return None, None
    pid, since = record.get("pid"), record.get("since")
    return (
        pid if type(pid) is int and pid > 0 else None,
        since if isinstance(since, str) and since.isprintable() and len(since) < 40 else None,
    )


def process_start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names one process for good."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name in parentheses and may hold anything.
            return int(file.read(_LONGEST_RECORD).rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or "error").lower()
    return "the path has a NUL character"
