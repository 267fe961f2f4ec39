"""Answers for clients that wait at a socket which this process is not going to serve."""

import socket
from collections.abc import Callable
from contextlib import suppress

from ambientd.net.unix_socket import BACKLOG

ONE_SEC = 0.25  # for the request of one client
ALL_SEC = 2.0  # for all of them together
_LEAST_SEC = 0.001
_REQUEST_MAX = 64 * 1024


def turn_away(listener: socket.socket, answer: bytes, monotonic: Callable[[], float]) -> int:
    """Sends `answer` to everybody who waits in the queue of `listener`; returns to how many.

    Blocks for about `ALL_SEC` seconds at most, whatever the clients do. What a client sent is read, so that
    it gets the answer instead of a reset, but not looked at.
    """
    until, told = monotonic() + ALL_SEC, 0
    listener.setblocking(False)
    for _ in range(2 * BACKLOG):
        try:
            link, _address = listener.accept()
        except OSError:
            break
        with link, suppress(OSError):
            link.settimeout(max(_LEAST_SEC, min(ONE_SEC, until - monotonic())))
            with suppress(TimeoutError):
                link.recv(_REQUEST_MAX)
            link.sendall(answer)
            link.shutdown(socket.SHUT_WR)
            told += 1
    return told
