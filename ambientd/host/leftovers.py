"""Processes of a run whose shim is gone: found by the mark in their environment, ended best effort."""

import os
import select
import signal

import trio

from ambientd.host.threads import RunSync

MARK = "AMBIENT_SESSION_ID"
SWEEPS = 40
PAUSE = 0.05


async def end_leftovers(session_id: str, *, run_sync: RunSync) -> int:
    """Kills every process that carries the session's mark; returns how many. Bounded: about 2 seconds.

    A process that has wiped its environment is not found, and one that another user owns is not ours to
    see: this is what can be done without the shim, and `RunResult.proof` stays false.
    """
    ended: set[tuple[int, int]] = set()
    for _ in range(SWEEPS):
        found = await run_sync(lambda: _sweep(session_id))
        ended |= found
        if not found:
            break
        await trio.sleep(PAUSE)
    return len(ended)


def _sweep(session_id: str) -> set[tuple[int, int]]:
    mark = f"{MARK}={session_id}".encode()
    reached = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and _is_marked(int(name), mark):
            who = _kill(int(name), mark)
            if who is not None:
                reached.add(who)
    return reached


def _kill(pid: int, mark: bytes) -> tuple[int, int] | None:
    """Kills the process if it carries the mark; looked at after its descriptor was opened, so that a
    number given to someone else in between is not hit."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        marked, born = _is_marked(pid, mark), _start_time(pid)
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        if not marked or born is None or poller.poll(0):
            return None
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return None
    finally:
        os.close(handle)
    return pid, born


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def _start_time(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return None
