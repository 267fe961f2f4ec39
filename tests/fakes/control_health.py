"""The health route of a control plane, or a captive portal in its place, as a process of its own.

    python -m tests.fakes.control_health HOST PORT [--portal]

Prints a line when it listens and one for each request.
"""

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEALTH = "/api/v1/health"
GOOD = b'{"status":"healthy","version":"1.0.0","timestamp":"2026-11-20T15:40:03Z"}'
PAGE = b"<html><body>Please log in to use this network.</body></html>"


class Handler(BaseHTTPRequestHandler):
    """One request: health where it belongs, else 404; a portal answers everything with its page."""

    portal = False

    def do_GET(self) -> None:
        """Answers; the name is the base class's."""
        print(f"asked {self.path}", flush=True)
        if self.portal:
            self._answer(200, "text/html", PAGE)
        elif self.path == HEALTH:
            self._answer(200, "application/json", GOOD)
        else:
            self._answer(404, "application/json", b"{}")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as of the base class
        """Says nothing more."""


class Server(ThreadingHTTPServer):
    """On either family."""

    allow_reuse_address = True


def main() -> None:
    """Serves until it is ended."""
    host, port, *rest = sys.argv[1:]
    Handler.portal = "--portal" in rest
    if ":" in host:
        Server.address_family = socket.AF_INET6
    with Server((host, int(port)), Handler) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
