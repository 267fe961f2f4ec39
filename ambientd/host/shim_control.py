"""The control socket: how a daemon asks, and how it is told that there is something new.

Part of the stand-alone shim: standard library only, no `ambientd`.
"""

from __future__ import annotations

import json
import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLIENTS_MAX = 8
REQUEST_LIMIT = 4096
NEWS_INTERVAL = 0.05  # output is announced at once, and then at most this often


class Client:
    """One daemon on the control socket."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.inbox = b""
        self.outbox = b""
        self.due = True  # each client is told once at the start how things are


class Control:
    """The socket `ctl`: JSON lines, `{"verb":"status"}` and `{"verb":"end","grace":seconds}`.

    Each request gets one line with "ok"; lines with "news" come unasked, never more than one ahead of a
    reader. No client can make the shim wait or grow.
    """

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind("ctl")
        os.chmod("ctl", 0o600)
        self._listener.setblocking(False)
        self._listener.listen(CLIENTS_MAX)
        self._clients: dict[int, Client] = {}
        poller.register(self._listener.fileno(), select.POLLIN)
        self._news_at = 0.0
        self.changed = False

    @property
    def listener(self) -> int:
        """The descriptor to watch for connections."""
        return self._listener.fileno()

    def due_at(self) -> float | None:
        """When news must be told."""
        return self._news_at if self.changed else None

    def accept(self) -> None:
        """Takes a connection; the oldest client gives way when there are too many."""
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        link.setblocking(False)
        if len(self._clients) >= CLIENTS_MAX:
            self.drop(next(iter(self._clients)))
        self._clients[link.fileno()] = Client(link)
        self._poller.register(link.fileno(), select.POLLIN)

    def drop(self, descriptor: int) -> None:
        """Lets one client go."""
        self._poller.unregister(descriptor)
        self._clients.pop(descriptor).link.close()

    def requests(self, descriptor: int) -> list[dict[str, Any]]:
        """Requests that have arrived; a client that breaks the rules or hangs up is dropped."""
        client = self._clients.get(descriptor)
        if client is None:
            return []
        try:
            data = client.link.recv(REQUEST_LIMIT)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        *lines, client.inbox = (client.inbox + data).split(b"\n")
        found = [parse_request(line) for line in lines]
        if not data or len(client.inbox) > REQUEST_LIMIT or None in found:
            self.drop(descriptor)
        return [request for request in found if request is not None]

    def say(self, descriptor: int, reply: dict[str, Any]) -> None:
        """Queues a reply."""
        client = self._clients.get(descriptor)
        if client is None:
            return
        if len(client.outbox) > 16 * REQUEST_LIMIT:  # asks and never reads
            self.drop(descriptor)
            return
        client.outbox += json.dumps(reply).encode() + b"\n"

    def tell(self, now: float, news: dict[str, Any]) -> None:
        """Marks due clients and moves every queue as far as it goes."""
        if self.changed and now >= self._news_at:
            self.changed, self._news_at = False, now + NEWS_INTERVAL
            for client in self._clients.values():
                client.due = True
        for descriptor, client in list(self._clients.items()):
            if client.due and not client.outbox:
                client.due = False
                client.outbox = json.dumps({"news": news}).encode() + b"\n"
            if client.outbox:
                self._push(descriptor, client)

    def _push(self, descriptor: int, client: Client) -> None:
        try:
            client.outbox = client.outbox[client.link.send(client.outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(descriptor)
            return
        waiting = select.POLLOUT if client.outbox or client.due else 0
        self._poller.modify(descriptor, select.POLLIN | waiting)


def parse_request(line: bytes) -> dict[str, Any] | None:
    """A request, or None for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def seconds(value: object, default: float) -> float:
    """A grace as someone sent it, or the default."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 86400
    return float(value) if good else default  # type: ignore[arg-type]
