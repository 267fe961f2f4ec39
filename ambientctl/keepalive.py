"""Many requests over one connection each: for commands that send more than a few. Not for hot verbs."""

import http.client
import socket
from typing import NamedTuple

from ambientctl.transport import ANSWER_MAX, AnswerError, AwayError
from ambientd import __version__

_HEADERS = {"Content-Type": "application/json", "User-Agent": f"ambientctl/{__version__}"}


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class Link:
    """A connection to the daemon that is opened when needed and kept. One thread at a time."""

    def __init__(self, sockets: tuple[str, ...], limit: float) -> None:
        """`sockets` are tried in order; `limit` is in seconds, for every wait."""
        self._sockets = sockets
        self._limit = limit
        self._connection: _UnixConnection | None = None

    def post(self, target: str, body: bytes) -> Reply:
        """The answer to a POST of JSON. Raises AwayError, and AnswerError when no whole answer came."""
        if self._connection is None:
            self._connection = self._open()
        try:
            self._connection.request("POST", target, body, _HEADERS)
            answer = self._connection.getresponse()
            return Reply(answer.status, answer.read(ANSWER_MAX))
        except TimeoutError:
            self.close()
            raise AnswerError("the daemon did not answer in time", sent=True, late=True) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise AnswerError(
                f"the connection broke ({str(error) or type(error).__name__})", sent=True
            ) from None

    def close(self) -> None:
        """Lets the connection go. Repeating it is harmless."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> "_UnixConnection":
        attempts: list[tuple[str, int | None]] = []
        for path in self._sockets:
            connection = _UnixConnection(path, self._limit)
            try:
                connection.connect()
            except (OSError, ValueError) as error:
                connection.close()
                attempts.append((path, getattr(error, "errno", None)))
            else:
                return connection
        raise AwayError(attempts)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, limit: float) -> None:
        super().__init__("localhost", timeout=limit)
        self._path = path

    def connect(self) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(self.timeout)
        try:
            link.connect(self._path)
        except BaseException:
            link.close()
            raise
        self.sock = link
