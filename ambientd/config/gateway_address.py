"""Where a gateway is: its URL, parsed once, and whether a token may be sent there."""

from urllib.parse import urlsplit

import msgspec

from ambientd.config.loopback import is_loopback

DEFAULT_URL = "ws://127.0.0.1:18789"
_PORTS = {"ws": 80, "wss": 443}
LONGEST_URL = 2048


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """`dial` is what is connected to; `host` is the name in the URL, for TLS and the Host header."""

    host: str
    port: int
    resource: str
    tls: bool
    dial: str

    @property
    def url(self) -> str:
        """The address in one spelling: the same for every way to write it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "wss" if self.tls else "ws"
        return f"{scheme}://{name}:{self.port}" + ("" if self.resource == "/" else self.resource)

    @property
    def is_loopback(self) -> bool:
        """Whether it names this host, by an address or as `localhost`."""
        return _local(self.host) is not None

    @property
    def host_header(self) -> str:
        """The Host header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == _PORTS["wss" if self.tls else "ws"] else f"{name}:{self.port}"


class BadAddress(msgspec.Struct, frozen=True):
    """Why a URL cannot be used; the sentence goes on after "gateway.url"."""

    reason: str


def parse_address(url: str, *, allow_plain: bool = False) -> Address | BadAddress:
    """The address of a `ws://` or `wss://` URL.

    Unencrypted only to this host, named by an IP address or as `localhost` (which is then 127.0.0.1,
    whatever a resolver says), unless `allow_plain`: the token would be readable on the way.
    """
    if not 0 < len(url) <= LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return BadAddress("must be printable ASCII without blanks")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return BadAddress("is not a URL")
    if parts.scheme not in _PORTS or not host:
        return BadAddress("must be ws:// or wss:// and a host")
    if parts.username is not None or parts.password is not None:
        return BadAddress("must not hold a user name or password; the token has its own setting")
    if parts.query or parts.fragment or port == 0:
        return BadAddress("must be scheme, host, port and path alone")
    tls, local = parts.scheme == "wss", _local(host)
    if not tls and local is None and not allow_plain:
        return BadAddress(
            "must be wss:// unless it names this host by its IP address (see gateway.allow_plain)"
        )
    return Address(
        host=host,
        port=port or _PORTS[parts.scheme],
        resource=parts.path or "/",
        tls=tls,
        dial=local or host,
    )


def _local(host: str) -> str | None:
    if host == "localhost":
        return "127.0.0.1"
    return host if is_loopback(host) else None
