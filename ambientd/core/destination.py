"""Where traffic may go: patterns that an issuer writes, and destinations that are held against them.

A destination is taken apart as a URL and compared part by part, never as the beginning of a text: so
`https://allowed.example` lets neither `https://allowed.example.evil.test/` nor
`https://allowed.example@evil.test/` through. Everything that two programs might read in two ways (a user
before `@`, percent signs, backslashes, odd numbers) is refused instead of guessed.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    Address = IPv4Address | IPv6Address


class Protocol(StrEnum):
    """What a session may speak."""

    TCP = "tcp"
    UDP = "udp"
    HTTP = "http"
    HTTPS = "https"
    QUIC = "quic"


DEFAULT_PORTS = {Protocol.HTTP: 80, Protocol.HTTPS: 443, Protocol.QUIC: 443}
DESTINATION_MAX = 2048  # characters of a URL; no port, host or scheme needs more
HOST_MAX, PORT_MAX = 253, 65535

_ALIASES = {"ws": Protocol.HTTP, "wss": Protocol.HTTPS}
# HTTP/3 speaks QUIC to what is written https://.
_SPOKEN_AS = {Protocol.HTTPS: (Protocol.HTTPS, Protocol.QUIC)}
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9a-fA-F]*)$")
# Services that hand out a machine's credentials, of several clouds: no wildcard and no network covers them.
_METADATA_NAMES = frozenset(
    (
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "instance-data.ec2.internal",
        "metadata.tencentyun.com",
    )
)
_METADATA = frozenset(
    ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64 = ("64:ff9b::/96", "64:ff9b:1::/48")


class BadDestinationError(ValueError):
    """A text that names no destination, or in a way that is not unmistakable. Says why, without the text."""


class Destination(msgspec.Struct, frozen=True):
    """One destination as it is compared: ASCII, lower case, an address in its one written form."""

    protocol: Protocol
    host: str
    port: int

    @property
    def text(self) -> str:
        """`https://api.example.com:443`."""
        return f"{self.protocol}://{_bracketed(self.host)}:{self.port}"


class Pattern(msgspec.Struct, frozen=True):
    """One pattern. `host` is a name, `*.` and a name, an address or a network; ports 0 to 0 are the
    protocol's default one."""

    protocol: Protocol | None
    host: str
    first_port: int
    last_port: int

    @property
    def text(self) -> str:
        """The one way to write this pattern."""
        scheme = "" if self.protocol is None else f"{self.protocol}://"
        default = DEFAULT_PORTS.get(self.protocol) if self.protocol is not None else 0
        ports = str(self.first_port)
        if self.last_port != self.first_port:
            ports += f"-{self.last_port}"
        shown = "" if ports == str(default) else f":{ports}"
        return f"{scheme}{_bracketed(self.host)}{shown}"

    def matches_port(self, destination: Destination) -> bool:
        """Whether protocol and port are this pattern's."""
        if self.protocol is not None and self.protocol is not destination.protocol:
            return False
        if self.first_port == 0:
            return destination.port == DEFAULT_PORTS.get(destination.protocol)
        return self.first_port <= destination.port <= self.last_port


# --- patterns


def parse_pattern(text: str) -> Pattern:
    """The pattern in a text: `[scheme://]host[:port[-port]]`.

    Raises BadDestinationError. Only the one way to write it is taken: `normal_pattern` makes it of others.
    """
    pattern = _pattern(text)
    if pattern.text != text:
        raise BadDestinationError(f"is written {pattern.text}")
    return pattern


def normal_pattern(text: str) -> str:
    """The one way to write what a person has written: lower case, ASCII, no default port, no last `/`."""
    return _pattern(text.strip().removesuffix("/")).text


def _pattern(text: str) -> Pattern:
    _check_text(text)
    scheme, rest = _split_scheme(text)
    protocol = None if scheme is None else _protocol(scheme)
    if "/" in rest and not _is_network(rest):
        raise BadDestinationError("has a path; only scheme, host and port are compared")
    host_text, port_text = _split_port(rest)
    first, last = _ports(port_text)
    if first == 0 and protocol is not None:
        first = last = DEFAULT_PORTS.get(protocol, 0)
        if first == 0:
            raise BadDestinationError(f"needs a port: {protocol} has no default one")
    return Pattern(protocol, _pattern_host(host_text), first, last)


def _is_network(rest: str) -> bool:
    return re.fullmatch(r"(?:\[[^\]]*/[0-9]+\]|[0-9.]+/[0-9]+)(?::.*)?", rest) is not None


def _pattern_host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "/" in bare:
        return _network(bare)
    if text.startswith("*."):
        host = parse_host(text[2:])
        if "." not in host or is_address(host):
            raise BadDestinationError("a wildcard needs a name of two parts at least behind it")
        return f"*.{host}"
    if "*" in text:
        raise BadDestinationError("a wildcard stands for whole first parts: *.example.com")
    return parse_host(text)


def _network(text: str) -> str:
    from ipaddress import ip_network

    try:
        network = ip_network(text)
    except ValueError:
        raise BadDestinationError(
            "is no network; bits behind the prefix must be 0, as in 10.0.0.0/8"
        ) from None
    return str(network)


def _ports(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 0
    first, dash, last = text.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if high < low:
        raise BadDestinationError("the last port is before the first")
    return low, high


# --- destinations


def parse_destination(text: str, protocol: Protocol | None = None) -> Destination:
    """The destination in a URL, `host:port` or host; raises BadDestinationError.

    Without a scheme the protocol decides, and https where none is given. Path, query and fragment of a URL
    do not count.
    """
    _check_text(text)
    scheme, rest = _split_scheme(text)
    if scheme is not None:
        named = _protocol(scheme)
        if protocol is not None and protocol not in _SPOKEN_AS.get(named, (named,)):
            raise BadDestinationError(f"says {named}, but is to be reached by {protocol}")
        protocol = protocol or named
        rest = re.split(r"[/?#]", rest, maxsplit=1)[0]
    protocol = protocol or Protocol.HTTPS
    if "/" in rest or "?" in rest or "#" in rest:
        raise BadDestinationError("has a path, but no scheme")
    host_text, port_text = _split_port(rest)
    port = DEFAULT_PORTS.get(protocol, 0) if port_text is None else _port(port_text)
    if port == 0:
        raise BadDestinationError(f"needs a port: {protocol} has no default one")
    return Destination(protocol, parse_host(host_text), port)


def parse_host(text: str) -> str:
    """A host in its one written form: an ASCII name in lower case without a last dot, or an address
    (of an IPv4 address in IPv6 the IPv4 address). Raises BadDestinationError."""
    if text.startswith("["):
        return _ipv6(text[1:-1]) if text.endswith("]") else _bad("has a bracket that is not closed")
    if not text:
        raise BadDestinationError("has no host")
    name = text if text.isascii() else _ascii_name(text)
    name = name.lower().removesuffix(".")
    if _ENDS_IN_NUMBER.search(name):
        return _ipv4(name)
    if ":" in name:
        raise BadDestinationError("an IPv6 address stands in brackets: [2001:db8::1]")
    if len(name) > HOST_MAX or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise BadDestinationError("is no host name")
    return name


def _bad(why: str) -> str:
    raise BadDestinationError(why)


def _ascii_name(text: str) -> str:
    """The ASCII form of an international name, as browsers make it (UTS 46, not transitional)."""
    import idna

    try:
        return idna.encode(text, uts46=True, std3_rules=True, transitional=False).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        pass
    # Full-width digits are an address, which IDNA does not take.
    import unicodedata

    mapped = unicodedata.normalize("NFKC", text).replace("。", ".")
    if mapped.isascii() and _ENDS_IN_NUMBER.search(mapped):
        return mapped
    raise BadDestinationError("is no international host name")


def _ipv4(text: str) -> str:
    from ipaddress import IPv4Address

    try:
        return str(IPv4Address(text))
    except ValueError:
        raise BadDestinationError(
            "an IPv4 address is written as four decimal numbers, as in 192.0.2.7"
        ) from None


def _ipv6(text: str) -> str:
    from ipaddress import IPv6Address

    try:
        address = IPv6Address(text)
    except ValueError:
        raise BadDestinationError("is no IPv6 address") from None
    if address.scope_id is not None:
        raise BadDestinationError("names a zone, which is this machine's own business")
    return str(address.ipv4_mapped or address)


def _check_text(text: str) -> None:
    if not text:
        raise BadDestinationError("is empty")
    if len(text) > DESTINATION_MAX:
        raise BadDestinationError(f"is longer than {DESTINATION_MAX} characters")
    if not text.isprintable() or " " in text:
        raise BadDestinationError("holds blanks or characters that cannot be printed")
    if "\\" in text:
        raise BadDestinationError("holds a backslash, which programs read differently")


def _split_scheme(text: str) -> tuple[str | None, str]:
    found = _SCHEME.match(text)
    if found is not None:
        return found[1].lower(), text[found.end() :]
    return None, text


def _protocol(scheme: str) -> Protocol:
    named = _ALIASES.get(scheme)
    if named is not None:
        return named
    try:
        return Protocol(scheme)
    except ValueError:
        raise BadDestinationError(f"a scheme is one of {', '.join(Protocol)}") from None


def _split_port(rest: str) -> tuple[str, str | None]:
    """Host and port of an authority; refuses a user before `@` and percent signs."""
    if "@" in rest:
        raise BadDestinationError("names a user before @; only a host may stand there")
    if "%" in rest:
        raise BadDestinationError("has a percent sign in its host")
    if rest.startswith("["):
        host, bracket, port = rest.partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise BadDestinationError("has a bracket that is not closed")
        return host + bracket, port[1:] if port else None
    if rest.count(":") > 1:
        raise BadDestinationError("an IPv6 address stands in brackets: [2001:db8::1]")
    name, colon, port = rest.partition(":")
    return name, port if colon else None


def _port(text: str) -> int:
    if _PORT.fullmatch(text) is None or int(text) > PORT_MAX:
        raise BadDestinationError(f"a port is a number from 1 to {PORT_MAX}, without leading zeros")
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# --- comparing hosts


def is_address(host: str) -> bool:
    """Whether a host in its one form is an address and no name."""
    return ":" in host or _ENDS_IN_NUMBER.search(host) is not None


def host_keys(host: str) -> Iterator[str]:
    """Every text that a pattern's host may be to match this host, the closest first: a few for a name, as
    many as an address has bits for an address."""
    yield host
    if is_address(host):
        from ipaddress import ip_address, ip_network

        address = ip_address(host)
        for bits in range(address.max_prefixlen, -1, -1):
            yield str(ip_network((address, bits), strict=False))
        return
    rest = host
    while "." in (rest := rest.partition(".")[2]):
        yield f"*.{rest}"


def matches_host(pattern_host: str, host: str) -> bool:
    """Whether a pattern's host covers a host, both in their one form."""
    if pattern_host == host:
        return True
    if pattern_host.startswith("*."):
        return host.endswith(pattern_host[1:]) and not is_address(host) and not is_own(host)
    if "/" not in pattern_host or not is_address(host):
        return False
    from ipaddress import ip_address, ip_network

    address, network = ip_address(host), ip_network(pattern_host)
    if address.version != network.version or address not in network:
        return False
    return not is_own(host) or _names_private(pattern_host, host)


def is_own(host: str) -> bool:
    """Whether a host leads to this machine, its own network or a cloud's metadata: loopback, private,
    link-local, multicast, reserved, `localhost`, a bare word. Such a host is reached only where a pattern
    names it."""
    if not is_address(host):
        return "." not in host or host.endswith(".localhost") or host in _METADATA_NAMES
    from ipaddress import ip_address

    return any(_is_special(address) for address in _meant(ip_address(host)))


def _meant(address: "Address") -> Iterator["Address"]:
    """The address, and the IPv4 addresses that an IPv6 one stands for."""
    from ipaddress import IPv4Address, IPv6Address, ip_network

    yield address
    if not isinstance(address, IPv6Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if int(address) >> 32 == 0 or any(address in ip_network(network) for network in _NAT64):
        yield low


def _is_special(address: "Address") -> bool:
    return not address.is_global or address.is_multicast or str(address) in _METADATA


def _names_private(network_text: str, host: str) -> bool:
    """Whether a network is itself a part of a private range; loopback, link-local and metadata are never
    reached by a network, however small."""
    from ipaddress import ip_address, ip_network

    address, network = ip_address(host), ip_network(network_text)
    if not address.is_private or address.is_loopback or address.is_link_local or host in _METADATA:
        return False
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        return False
    ranges = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    return any(_inside(network, text) for text in ranges)


def _inside(network: object, outer: str) -> bool:
    from ipaddress import IPv4Network, IPv6Network, ip_network

    whole = ip_network(outer)
    if isinstance(network, IPv4Network) and isinstance(whole, IPv4Network):
        return network.subnet_of(whole)
    if isinstance(network, IPv6Network) and isinstance(whole, IPv6Network):
        return network.subnet_of(whole)
    return False
