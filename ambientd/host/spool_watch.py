"""Tells at once when a file was handed in (inotify); without it the next cycle finds it."""

import ctypes
import os
from collections.abc import AsyncIterator
from pathlib import Path

import trio

_IN_CLOSE_WRITE = 0x8
_IN_MOVED_TO = 0x80
_IN_ONLYDIR = 0x0100_0000
_READ_SIZE = 16 * 1024
# After the folder vanished, or while inotify is not to be had, look again this often.
RETRY_SEC = 60.0


async def changes(folder: Path) -> AsyncIterator[None]:
    """Yields after files appeared in the folder; bursts are merged. Never raises OSError."""
    while True:
        descriptor = _watch(folder)
        if descriptor is None:
            await trio.sleep(RETRY_SEC)
            continue
        yield
        try:
            while _drain(descriptor):
                await trio.lowlevel.wait_readable(descriptor)
                yield
        finally:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)


def _watch(folder: Path) -> int | None:
    """An inotify descriptor that watches the folder, or None."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, AttributeError):
        return None
    if descriptor < 0:
        return None
    mask = _IN_CLOSE_WRITE | _IN_MOVED_TO | _IN_ONLYDIR
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        os.close(descriptor)
        return None
    return descriptor


def _drain(descriptor: int) -> bool:
    """Reads what is pending; False when the watch itself has ended."""
    try:
        while data := os.read(descriptor, _READ_SIZE):
            if data[4:8] == b"\x00\x80\x00\x00":  # IN_IGNORED: the folder was removed
                return False
    except BlockingIOError:
        return True
    return False
