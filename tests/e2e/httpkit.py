"""HTTP on TCP as a stranger speaks it: every header line is written by the test."""

import json
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.e2e.harness import Node

SECRET = "marker-7f3a9c51d2e84b60a1c9d7e5f3b2a486"


class Reply(NamedTuple):
    """One answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Web:
    """The TCP side of a node."""

    def __init__(self, node: Node, key: str | None = SECRET) -> None:
        self.node = node
        self.key = key
        address = node.status()["http"]["address"]
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.name = address

    def link(self) -> socket.socket:
        link = socket.create_connection((self.host, self.port), timeout=20)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link

    def raw(self, data: bytes) -> Reply:
        """Sends bytes as they are and reads until the other side closes or the body is whole."""
        with self.link() as link:
            link.sendall(data)
            return read_reply(link)

    def head(self, method: str, path: str, *headers: str, host: str | None = None) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.name if host is None else host}"]
        if self.key is not None:
            lines.append(f"X-Secret-Key: {self.key}")
        return "\r\n".join((*lines, *headers, "", "")).encode("latin-1")

    def get(self, path: str, *headers: str, host: str | None = None) -> Reply:
        return self.raw(self.head("GET", path, *headers, host=host))

    def post(self, path: str, body: Any, *headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        more = ("Content-Type: application/json", f"Content-Length: {len(data)}")
        return self.raw(self.head("POST", path, *more, *headers) + data)


def read_reply(link: socket.socket) -> Reply:
    """The next answer on a connection."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = link.recv(65536)
        assert piece, got
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        piece = link.recv(65536)
        assert piece, got
        body += piece
    return Reply(int(first.split(" ")[1]), headers, body)


def http_config(**more: Any) -> dict[str, Any]:
    """A node that listens on a free port."""
    return {"http": {"listen": "127.0.0.1:0", **more}}


def everything_said(node: Node) -> str:
    """All files of the node's state, and its log."""
    files = [path for path in node.state.rglob("*") if path.is_file()]
    return "\n".join([node.log, *(path.read_bytes().decode("latin-1") for path in files)])


def logs(page: Any) -> Sequence[dict[str, Any]]:
    """The lines of `/api/logs`."""
    found: list[dict[str, Any]] = page["logs"]
    return found
