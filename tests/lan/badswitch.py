"""A switch in user space that does to frames what a bad network does: late, lost, doubled, out of order.

    python -m tests.lan.badswitch DELAY_MS LOSS_PERCENT DOUBLE_PERCENT NAMESPACE…

Each namespace has a TAP interface `lan0`, made before. A frame is late by the delay, half of it more or less,
so that frames overtake each other. Prints `ready`, and ends with its standard input.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from itertools import count

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
FRAME_MAX = 2048
# More than this on the way is a flood, and lost as on a real line.
ON_THE_WAY_MAX = 20_000

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str) -> None:
    """Puts this thread into a network namespace."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(handle)


def open_tap(namespace: str) -> int:
    """The other end of a namespace's `lan0`."""
    enter(f"/run/netns/{namespace}")
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", b"lan0", IFF_TAP | IFF_NO_PI))
    finally:
        enter(_HOME)
    return tap


_HOME = f"/proc/{os.getppid()}/ns/net"


class Switch:
    """Learns where addresses are, and delivers when it is time."""

    def __init__(self, taps: list[int], *, delay: float, loss: float, double: float) -> None:
        self._taps = taps
        self._delay, self._loss, self._double = delay, loss, double
        self._chance = random.Random(20261128)
        self._where: dict[bytes, int] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._numbers = count()

    def run(self) -> None:
        poller = select.poll()
        for tap in (*self._taps, 0):
            poller.register(tap, select.POLLIN)
        while True:
            now = time.monotonic()
            wait = max(0.0, self._waiting[0][0] - now) * 1000 if self._waiting else None
            for ready, _ in poller.poll(wait):
                if ready == 0:
                    return
                self._take(ready)
            self._deliver()

    def _take(self, tap: int) -> None:
        for _ in range(64):
            try:
                frame = os.read(tap, FRAME_MAX)
            except BlockingIOError:
                return
            self._where[frame[6:12]] = tap
            found = self._where.get(frame[:6])
            for out in [found] if found is not None else [one for one in self._taps if one != tap]:
                self._send(out, frame)

    def _send(self, tap: int, frame: bytes) -> None:
        if self._chance.random() < self._loss or len(self._waiting) > ON_THE_WAY_MAX:
            return
        for _ in range(2 if self._chance.random() < self._double else 1):
            late = self._delay * self._chance.uniform(0.5, 1.5)
            heapq.heappush(self._waiting, (time.monotonic() + late, next(self._numbers), tap, frame))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, tap, frame = heapq.heappop(self._waiting)
            try:
                os.write(tap, frame)
            except OSError:
                continue


def main(delay_ms: str, loss: str, double: str, *namespaces: str) -> None:
    taps = [open_tap(namespace) for namespace in namespaces]
    print("ready", flush=True)
    Switch(taps, delay=float(delay_ms) / 1000, loss=float(loss) / 100, double=float(double) / 100).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
