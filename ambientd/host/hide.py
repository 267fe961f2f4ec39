"""Keeping this process's memory, variables and open files from other processes of the same user.

Under the units agents run as the daemon's user, shut out of its state. `/proc/<pid>/root`, `fd`, `environ`
and `mem` of the daemon would be the way around that; the kernel refuses them for a process that is hidden,
and where `/proc` shows only what may be looked at (`ProtectProc=invisible`) it is not there at all.
"""

import ctypes
import os

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


def hide() -> None:
    """From now on only root may look into this process or trace it. A new program ends it. Raises OSError."""
    if _prctl(_PR_SET_DUMPABLE, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def is_hidden() -> bool:
    """Whether `hide` was called in this process."""
    return _prctl(_PR_GET_DUMPABLE, 0) == 0


def _prctl(option: int, value: int) -> int:
    result: int = ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
    return result
