"""Where the outside is: addresses of the control plane and of targets, parsed once."""

import re
from urllib.parse import urlsplit

import msgspec

LONGEST_URL = 2048
TARGETS_MAX = 16  # they are asked at the same time, and one that answers is enough
_PORTS = {"http": 80, "https": 443}
# A name, an IPv4 address, or an IPv6 address in brackets.
_TARGET = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})"
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A host and a port; `host` is without brackets."""

    host: str
    port: int


class ControlAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane's base address; `path` begins with a slash or is empty, and never ends in one."""

    host: str
    port: int
    tls: bool
    path: str

    @property
    def host_header(self) -> str:
        """The Host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS["https" if self.tls else "http"] else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        """The address in one spelling."""
        return f"{'https' if self.tls else 'http'}://{self.host_header}{self.path}"


def parse_target(text: str) -> Place | None:
    """`host:port`, an IPv6 address in brackets; None for anything else."""
    found = _TARGET.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65536:
        return None
    return Place(host=found[1].strip("[]"), port=int(found[2]))


def parse_control_url(url: str) -> ControlAddress | str:
    """The address of an `http://` or `https://` URL; else why it cannot be used, to go on after its name."""
    if not 0 < len(url) <= LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return "must be printable ASCII without blanks"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return "is not a URL"
    if parts.scheme not in _PORTS or not host:
        return "must be https:// (or http://) and a host"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    if parts.query or parts.fragment or port == 0:
        return "must be scheme, host, port and path alone"
    return ControlAddress(
        host=host,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "https",
        path=parts.path.rstrip("/"),
    )


def is_proxy(url: str) -> bool:
    """Whether a URL can be a proxy's; without user name and password, as everywhere."""
    if not 0 < len(url) <= LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    more = parts.query or parts.fragment or parts.path.strip("/") or parts.username or parts.password
    return parts.scheme in ("http", "socks5") and bool(parts.hostname) and bool(port) and not more
