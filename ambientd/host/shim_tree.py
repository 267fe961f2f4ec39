"""Processes below this one: found by parent links, never signalled by number alone.

Part of the stand-alone shim: standard library only, no `ambientd`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal

WALK_LIMIT = 10_000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
ME = os.getpid()
HIDDEN = ("T", 0, 0)  # what is taken for the state, parent and start of a process that `/proc` does not show
_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """One process control call; raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent() -> None:
    """In a fresh child: the kernel ends it when the shim dies. Raises OSError when that has happened."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != ME:
        raise ProcessLookupError(errno.ESRCH, "the shim is gone")


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """State, parent and start time of a process as the kernel tells it now; None when it is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        text = os.read(descriptor, 2048)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    fields = text[text.rfind(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def descendants() -> list[int]:
    """Everything below this process, by parent links, parents first. May be stale at once.

    Where `/proc` hides what may not be looked at (`hidepid`), a process that has made itself untraceable
    is found only while it is our own child; it becomes that when those above it have ended.
    """
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            seen = stat_of(int(name))
            if seen:
                children.setdefault(seen[1], []).append(int(name))
    seen_below = children.get(ME, [])
    found = seen_below + [pid for pid in own_children() if pid not in seen_below]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def own_children() -> list[int]:
    """Our direct children as the kernel lists them; none where it keeps no such list."""
    try:
        descriptor = os.open(f"/proc/self/task/{ME}/children", os.O_RDONLY)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        return [int(pid) for pid in file.read().split()]


def is_own_child(handle: int) -> bool:
    """Whether the process behind a descriptor is our direct child; it needs no look into `/proc`."""
    try:
        os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def descends(pid: int) -> bool:
    """Whether `pid`, which the caller keeps from being reused, is below this process now.

    The chain of parents is read upwards and then once more downwards. A parent that dies has its children
    moved to another one at once, so a link that reads the same before and after all links above it proves
    that the numbers above it were not given to someone else in between.
    """
    chain: list[tuple[int, int]] = []
    while not chain or chain[-1][1] != ME:
        seen = stat_of(pid)
        if seen is None or seen[1] in {0, 1} - {ME} or len(chain) == WALK_LIMIT:
            return False
        chain.append((pid, seen[1]))
        pid = seen[1]
    return all((again := stat_of(child)) and again[1] == parent for child, parent in reversed(chain))


def send(pid: int, number: int) -> tuple[int, int] | None:
    """Signals a process of the tree; its (pid, start time) if it was alive and ours, else None.

    The descriptor is opened first and looked at last: had the process died before the check, the
    descriptor would say so; so what was checked is what is signalled.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        seen = stat_of(pid) or (HIDDEN if is_own_child(handle) else None)
        if seen is None or not (seen is HIDDEN or descends(pid)) or _is_dead(handle):
            return None
        signal.pidfd_send_signal(handle, number)
        if number == signal.SIGTERM and seen[0] in "Tt":
            signal.pidfd_send_signal(handle, signal.SIGCONT)  # a stopped process cannot act on TERM
    except OSError:
        return None
    finally:
        os.close(handle)
    return pid, seen[2]


def _is_dead(handle: int) -> bool:
    """True when no thread of the process lives any more (a leader may be gone before its threads)."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(0))


def signal_tree(number: int, skip: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Signals all of the tree but `skip`; returns whom."""
    reached = set()
    for pid in descendants():
        seen = stat_of(pid) or HIDDEN
        if (pid, seen[2]) not in skip:
            who = send(pid, number)
            if who:
                reached.add(who)
    return reached
