"""Accepting connections for as long as the program lives (FAULTS H4, 3.6).

Running out of descriptors or memory is survived: accepting pauses, says so once a minute at most, and
goes on when the shortage ends. A connection that died in the queue is nobody's problem.
"""

import errno
import socket
from collections.abc import Callable

import trio
from trio import lowlevel

from ambientd.ports.http import HttpLog

# Shortages end when another connection closes; the kernel keeps new ones waiting in the meantime.
PAUSE_FIRST, PAUSE_MAX = 0.05, 1.0
# OK-5 allows one line a second per cause; a minute is enough to see that it lasts.
SAY_AGAIN = 60.0

_SHORTAGE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# accept(2): errors of the new connection itself, to be treated like EAGAIN.
_PASSING = frozenset(
    (
        errno.EAGAIN,
        errno.EINTR,
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
    )
)


class Seldom:
    """Lets a line through at most once per `SAY_AGAIN` seconds and counts the others."""

    def __init__(self) -> None:
        self._next = float("-inf")
        self._kept_back = 0

    def due(self, now: float) -> int | None:
        """How many were kept back since the last line, or None when it is not time yet."""
        if now < self._next:
            self._kept_back += 1
            return None
        kept_back, self._kept_back = self._kept_back, 0
        self._next = now + SAY_AGAIN
        return kept_back


async def accept_forever(
    listener: socket.socket, take: Callable[[socket.socket], None], *, log: HttpLog
) -> None:
    """Gives every new connection to `take`, which must not wait. Ends only by cancellation.

    Raises OSError when the listener itself is unusable (not listening), ClosedResourceError when it is
    closed meanwhile.
    """
    listener.setblocking(False)
    pause, shortage = PAUSE_FIRST, Seldom()
    while True:
        try:
            await lowlevel.wait_readable(listener)
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in _PASSING:
                continue
            if error.errno not in _SHORTAGE:
                raise
            kept_back = shortage.due(trio.current_time())
            if kept_back is not None:
                log.note("accept_paused", reason=errno.errorcode[error.errno], kept_back=kept_back)
            await trio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX)
        else:
            pause = PAUSE_FIRST
            take(sock)
