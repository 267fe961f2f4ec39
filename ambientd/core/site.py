"""Whether a request on TCP comes from where it may: Host, Origin, Sec-Fetch-Site, and whose address counts.

A page on a name that leads to loopback (DNS rebinding) has a foreign Host, one that posts across sites a
foreign Origin. Both are compared exactly, with the port, as a browser writes them (R3.40, FAULTS B2).
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ambientd.config.loopback import is_loopback

if TYPE_CHECKING:  # 220 KiB, for listeners behind a proxy
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - an address to compare with
_OWN = ("same-origin", "none")  # `none`: typed by the user, or no page at all
_FORWARDED_MAX = 16  # hops; more are nobody's real path


class Site(NamedTuple):
    """What this listener is called."""

    hosts: frozenset[str]
    origins: frozenset[str]


def build_site(address: str, port: int, *, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> Site:
    """The names of a listener on `address`: its own, localhost on loopback, those that are configured."""
    names = [f"[{address}]" if ":" in address else address]
    if is_loopback(address):
        names.append("localhost")
    own = {f"{name}:{port}" for name in names}
    if port == 80:
        own.update(names)  # which is how a browser writes it
    own = set() if address in _EVERYWHERE else own
    return Site(
        frozenset((*own, *hosts)),
        frozenset((*(f"http://{host}" for host in (*own, *hosts)), *origins)),
    )


def fault_of_site(site: Site, headers: Mapping[str, str]) -> str | None:
    """Why a request is refused, without repeating what it said; None when it may pass."""
    if headers.get("host") not in site.hosts:
        return "the Host header is not this node's address (http.hosts)"
    origin = headers.get("origin")
    if origin is not None and origin not in site.origins:
        return "the Origin header is not this node's (http.origins)"
    if headers.get("sec-fetch-site", "none") not in _OWN:
        return "the request comes from a page of another site (Sec-Fetch-Site)"
    return None


def client_address(peer: str, forwarded: str | None, trusted: "Iterable[Network]") -> str:
    """Whose request it is: the peer, or what a trusted proxy says of it.

    The list is read from its end, where the nearest proxy writes; the first address that is no trusted
    proxy is the client. What cannot be read ends the search at the last address that could be believed.
    """
    networks = tuple(trusted)
    if forwarded is None or not networks or not _is_in(peer, networks):
        return peer
    found = peer
    for word in reversed(forwarded.split(",")[-_FORWARDED_MAX:]):
        try:
            found = str(ipaddress.ip_address(word.strip()))
        except ValueError:
            return found
        if not _is_in(found, networks):
            return found
    return found


def _is_in(address: str, networks: "tuple[Network, ...]") -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks)
