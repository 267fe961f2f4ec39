"""Asks a control plane itself, with an account's token: for those who are not on a node."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ambientctl.client import not_understood, quote
from ambientctl.transport import Answer
from ambientctl.trouble import CommandError, refusal
from ambientd import __version__
from ambientd.wire import exits

if TYPE_CHECKING:
    import http.client

ANSWER_MAX = 16 * 1024 * 1024
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ControlPlane:
    """One control plane. Nothing is sent over http:// to another machine, and no redirect is followed."""

    def __init__(self, url: str, token: str, *, timeout: float, ca_file: str | None = None) -> None:
        """Raises CommandError for an address or a file that cannot be used."""
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _usage(f"{url!r} is no address") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise _usage("the address must be https:// (or http://) and a host, without a user name")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise _usage("http:// is not encrypted, and the token would go over the wire as it is")
        self._url = url
        self._tls = parts.scheme == "https"
        self._host, self._port, self._path = parts.hostname, port, parts.path.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._ca_file = ca_file
        if ca_file and not os.access(ca_file, os.R_OK):
            raise _usage(f"{ca_file} cannot be read")

    def get(self, path: str, query: Mapping[str, str]) -> tuple[Any, Mapping[str, str]]:
        """The JSON value at a path, and the headers by lower-case name. Raises CommandError."""
        import http.client

        pairs = "&".join(f"{name}={quote(value)}" for name, value in query.items() if value)
        target = self._path + path + (f"?{pairs}" if pairs else "")
        link = self._opened()
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/json",
            "User-Agent": f"ambientctl/{__version__}",
        }
        try:
            link.request("GET", target, headers=headers)
            answer = link.getresponse()
            body = answer.read(ANSWER_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self._url, error) from None
        finally:
            link.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        if 300 <= answer.status < 400:
            raise CommandError(
                exits.FAILED, f"Error: {self._url} redirects elsewhere; the token is not sent there."
            )
        if answer.status != 200:
            raise refusal(Answer(answer.status, found, body))
        try:
            return json.loads(body), found
        except (ValueError, RecursionError):
            raise not_understood("it is no JSON document") from None

    def _opened(self) -> "http.client.HTTPConnection":
        import http.client

        if not self._tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        if self._ca_file:
            os.environ["SSL_CERT_FILE"] = self._ca_file  # read when the connection makes its context
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout)


def _usage(why: str) -> CommandError:
    return CommandError(exits.USAGE, f"Error: {why}.")


def _unreachable(url: str, error: Exception) -> CommandError:
    why = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    text = f"Error: {url} cannot be asked: {str(why or type(error).__name__).lower()}."
    return CommandError(exits.UNREACHABLE, text)
