"""What must hold for the settings of `[http]`: addresses to listen on, names that are compared exactly.

Imported only where the section is given.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ambientd.config.checks import Finding
from ambientd.config.loopback import canonical, is_loopback
from ambientd.config.problems import show_text

_PORT = re.compile(r"[0-9]{1,5}")
# Lower case, for a browser sends nothing else; what is compared exactly must be written exactly.
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LISTEN = 'an address and a port ("127.0.0.1:7777", "[::1]:7777")'


class Listen(NamedTuple):
    """An address to listen on, without brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    @property
    def shown(self) -> str:
        """As a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Listen | None:
    """`address:port`; a name is none, but for localhost, which is 127.0.0.1 here."""
    host, colon, port = text.rpartition(":")
    if not colon or _PORT.fullmatch(port) is None or int(port) > 65535:
        return None
    if host.startswith("[") != (":" in host) or host.startswith("[") != host.endswith("]"):
        return None
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        return Listen(canonical(host), int(port))
    except ValueError:
        return None


def check_http(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Findings about the given settings; those that were refused already are absent."""
    if "listen" in values:
        yield from _check_listen(values["listen"], values.get("allow_non_loopback", False))
    secret = values.get("secret_file")
    if secret is not None and not secret.startswith("/"):
        yield Finding("secret_file", "must be an absolute path", expected="an absolute path")
    for host in values.get("hosts", ()):
        if _HOST.fullmatch(host) is None:
            yield wrong("hosts", host, 'as the header has it, in lower case ("node.example.net:7777")')
    for origin in values.get("origins", ()):
        scheme, mark, host = origin.partition("://")
        if scheme not in ("http", "https") or not mark or _HOST.fullmatch(host) is None:
            yield wrong("origins", origin, 'as the header has it ("https://node.example.net")')
    yield from check_networks(values.get("trusted_proxies", ()))


def check_networks(networks: Iterable[str]) -> Iterator[Finding]:
    """Addresses of proxies."""
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield wrong("trusted_proxies", network, 'an address or a network ("10.0.0.1", "10.0.0.0/24")')


def _check_listen(text: str, allowed: bool) -> Iterator[Finding]:
    listen = parse_listen(text)
    if listen is None:
        yield wrong("listen", text, _LISTEN)
    elif not listen.is_loopback and not allowed:
        yield Finding(
            "listen",
            f"is {show_text(text)}, which other machines reach without TLS; "
            "say allow_non_loopback = true if that is meant",
            value=show_text(text),
            expected="an address of this machine alone",
            suggestion=show_text(f"127.0.0.1:{listen.port}"),
        )


def wrong(name: str, text: str, expected: str) -> Finding:
    """A setting with a text that it cannot have."""
    shown = show_text(text)
    return Finding(name, f"has {shown}, but must be {expected}", value=shown, expected=expected)
