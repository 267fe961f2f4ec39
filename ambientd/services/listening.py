"""Keeps a listener open: an address that is taken costs a line and a pause, never the daemon."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable

import trio

from ambientd.services.supervise import Log

FIRST_PAUSE_SEC = 1.0
LONGEST_PAUSE_SEC = 30.0


class Listening:
    """Opens, serves until cancelled, and tries again while the address cannot be had."""

    def __init__(
        self,
        *,
        wanted: str,
        open_socket: Callable[[], socket.socket],
        serve: Callable[[socket.socket], Awaitable[None]],
        log: Log,
    ) -> None:
        """`wanted` is the address in words; `serve` never closes what it is given."""
        self._wanted = wanted
        self._open = open_socket
        self._serve = serve
        self._log = log
        self.is_open = False
        self.problem: str | None = None
        self._tried = trio.Event()

    async def run(self) -> None:
        """Until cancelled; when it ends nobody listens any more."""
        pause = FIRST_PAUSE_SEC
        while True:
            try:
                sock = self._open()
            except OSError as error:
                self._say(_reason(error))
                self._tried.set()
                await trio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SEC)
                continue
            if self.problem is not None:
                self._log.info("http.listening_again", address=self._wanted)
            self.problem, pause = None, FIRST_PAUSE_SEC
            with sock:
                try:
                    self.is_open = True
                    self._tried.set()
                    await self._serve(sock)
                finally:
                    self.is_open = False

    async def wait_tried(self) -> None:
        """Returns when the first attempt to listen has ended, well or not."""
        await self._tried.wait()

    def _say(self, reason: str) -> None:
        problem = f"HTTP does not listen on {self._wanted}: {reason}"
        if problem != self.problem:
            self._log.warning("http.not_listening", address=self._wanted, reason=reason)
        self.problem = problem


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program has the port (http.listen)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address (http.listen)"
    if error.errno == errno.EACCES:
        return "this user may not take the port (http.listen)"
    return os.strerror(error.errno).lower() if error.errno else str(error)
