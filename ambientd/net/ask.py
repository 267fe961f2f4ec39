"""One question to a daemon on its Unix socket, from a program without a loop. Blocks."""

import http.client
import socket
from typing import NamedTuple

ANSWER_MAX = 8 * 1024 * 1024


class Told(NamedTuple):
    """The answer."""

    status: int
    body: bytes


class AskError(Exception):
    """Somebody listens and gives no answer that is one; the message is a sentence."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, target: str, *, seconds: float) -> Told:
    """GETs `target`; `seconds` is for each step. Raises OSError when nobody listens, and AskError."""
    link = UnixConnection(path, seconds)
    try:
        link.connect()
        return _ask(link, target)
    finally:
        link.close()


def _ask(link: http.client.HTTPConnection, target: str) -> Told:
    try:
        link.request("GET", target)
        answer = link.getresponse()
        return Told(answer.status, answer.read(ANSWER_MAX))
    except TimeoutError:
        raise AskError("it does not answer in time") from None
    except (http.client.HTTPException, OSError) as error:
        raise AskError(f"it speaks no HTTP ({type(error).__name__})") from None
