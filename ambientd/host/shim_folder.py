"""What a shim leaves in its folder (the current directory): lock, claim, result.

`shim.lock` is locked while the shim lives. `claim` is a file when a shim was here, and a directory when the
daemon has made sure that none will be. `result.json` is the end. `host/run_folder.py` reads them.

Part of the stand-alone shim: standard library only, no `ambientd`.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The agent can put a link or a pipe where a file of ours was: neither is followed or waited for.
_ITSELF = os.O_NOFOLLOW | os.O_NONBLOCK
RESULT_RESERVE = 4096  # set aside at the start, so that a full disk cannot keep the truth from being written


class RefusedError(Exception):
    """This shim must not start anything; the sentence goes to the launcher."""


def enter(folder: str) -> None:
    """Makes the folder the current directory, locked until this process is gone. Raises RefusedError."""
    os.chdir(folder)
    lock = os.open("shim.lock", os.O_RDWR | os.O_CREAT, 0o600)  # never closed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError("another shim runs in this folder") from None
    if os.path.lexists("claim"):
        raise RefusedError("the folder is claimed already")
    reserve = os.open("result.part", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(reserve, 0, RESULT_RESERVE)
    finally:
        os.close(reserve)


def claim() -> None:
    """Takes the folder for good, durably: after a power cut too, nobody starts this run again."""
    try:
        descriptor = os.open("claim", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise RefusedError("the folder is claimed already") from None
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _sync_folder()


def note_started(at_ms: int) -> None:
    """Adds the start to the claim, for a daemon that comes later; a full disk only loses this note."""
    try:
        descriptor = os.open("claim", os.O_WRONLY | os.O_APPEND | _ITSELF)
    except OSError:
        return
    try:
        os.write(descriptor, b'{"started_at_ms": %d}\n' % at_ms)
    except OSError:
        return
    finally:
        os.close(descriptor)


def write_result(result: dict[str, Any] | None) -> bool:
    """Replaces `result.json` durably; false when the disk refuses."""
    data = json.dumps(result).encode()
    try:
        descriptor = _open_reserve()
        try:
            whole = os.pwrite(descriptor, data, 0) == len(data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if whole:
            os.rename("result.part", "result.json")
            _sync_folder()
    except OSError:
        return False
    return whole


def _open_reserve() -> int:
    """What was set aside at the start, or a new file if the agent has put another kind of thing there."""
    if os.path.lexists("result.part") and not stat.S_ISREG(os.lstat("result.part").st_mode):
        os.unlink("result.part")
    return os.open("result.part", os.O_WRONLY | os.O_CREAT | _ITSELF, 0o600)


def _sync_folder() -> None:
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
