"""The network interfaces of this machine, as its kernel tells.

Asked by ioctl and read from `/proc`, not over netlink as libraries do: the unit's sandbox knows no other
sockets than those of Unix and the internet, and would have to be opened for it.
"""

import ctypes
import fcntl
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

import trio

from ambientd.core.connectivity import Link, Links

NET = "/proc/self/net"
# A router with a full table has a million routes. The kernel lists the default one early (IPv4: first).
ROUTES_MAX = 256 * 1024

ADDRESSES_MAX = 1024  # of all interfaces together

_SIOCGIFCONF, _SIOCGIFFLAGS = 0x8912, 0x8913  # <linux/sockios.h>
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40  # <linux/if.h>; RUNNING: it has a carrier
_NAME_MAX = 16
_IFREQ = struct.calcsize("16sLLHBBB3x")  # the name and the largest member of the union behind it
_RTF_UP, _RTF_REJECT = 0x1, 0x200  # <linux/route.h>
_ZERO4, _ZERO6 = "0" * 8, "0" * 32
# What a machine gives itself when no DHCP server answers; fe80::/10, by the kernel's own word for it.
_LINK_LOCAL4 = bytes((169, 254))
_SCOPE_LINK = 0x20
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40  # <linux/if_addr.h>: somebody else has it, or may have it

Addresses = dict[str, set[tuple[int, bool]]]
"""By interface: family (4 or 6), and whether an address is good beyond the link."""


class SystemLinks:
    """Implements `ports.prober.LinkReader`. The kernel's lock around interfaces may be held by others for
    seconds, so a thread waits for it; of those that nobody waits for any more there is one at most."""

    def __init__(self, read: Callable[[], Links] | None = None) -> None:
        """`read` blocks; by default it reads this machine's."""
        self._read = read or read_links
        self._limiter = trio.CapacityLimiter(1)

    async def read(self) -> Links:
        """See `LinkReader`."""
        return await trio.to_thread.run_sync(self._read, abandon_on_cancel=True, limiter=self._limiter)


def read_links(net: str = NET) -> Links:
    """All usable links; blocks for less than a millisecond, rarely for longer."""
    try:
        names = _names(f"{net}/dev")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            up = [name for name in names if _is_up(sock, name)]
            addresses = addresses_v4(_ifconf(sock))
    except OSError as error:
        return Links(error=f"the interfaces cannot be read ({error.strerror or type(error).__name__})")
    for name, found in addresses_v6(_head(f"{net}/if_inet6")).items():
        addresses.setdefault(name, set()).update(found)
    routed = {4: default_routes_v4(_head(f"{net}/route")), 6: default_routes_v6(_head(f"{net}/ipv6_route"))}
    links = [
        Link(name, any(good and name in routed[family] for family, good in addresses[name]))
        for name in up
        if name in addresses
    ]
    why = "" if links else "no link has an address" if up else "no link is up"
    return Links(usable=tuple(links), none=why)


def _names(path: str) -> list[str]:
    """All interfaces, with and without addresses. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read(ROUTES_MAX).splitlines()
    return sorted(name.strip() for name, colon, _ in (line.rpartition(":") for line in lines) if colon)


def _is_up(sock: socket.socket, name: str) -> bool:
    """Whether it is up, has a carrier and is no loopback; False for one that has just gone."""
    request = struct.pack(f"16s{_IFREQ - _NAME_MAX}x", name.encode(errors="surrogateescape"))
    try:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
    except OSError:
        return False
    flags = int(struct.unpack_from("H", answer, _NAME_MAX)[0])
    return flags & (_IFF_UP | _IFF_RUNNING | _IFF_LOOPBACK) == _IFF_UP | _IFF_RUNNING


def _ifconf(sock: socket.socket) -> bytes:
    """All IPv4 addresses, as an array of `struct ifreq`."""
    buffer = ctypes.create_string_buffer(_IFREQ * ADDRESSES_MAX)
    asked = struct.pack("iP", len(buffer), ctypes.addressof(buffer))
    (size,) = struct.unpack_from("i", fcntl.ioctl(sock, _SIOCGIFCONF, asked))
    return buffer.raw[:size]


def own_ipv4() -> list[str]:
    """The IPv4 addresses of this machine on its links, in the kernel's order; none when it does not tell.
    Blocks for less than a millisecond, rarely for longer."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            ifreqs = _ifconf(sock)
    except OSError:
        return []
    places = range(_NAME_MAX + 4, len(ifreqs) - _IFREQ + _NAME_MAX + 5, _IFREQ)
    packed = (ifreqs[place : place + 4] for place in places)
    return [socket.inet_ntoa(one) for one in packed if not one.startswith((b"\x7f", b"\0"))]


def addresses_v4(ifreqs: bytes) -> Addresses:
    """What an array of `struct ifreq` says; a label (`eth0:1`) counts for its interface."""
    found: Addresses = {}
    for start in range(0, len(ifreqs) - _IFREQ + 1, _IFREQ):
        label = ifreqs[start : start + _NAME_MAX].partition(b"\0")[0].decode(errors="surrogateescape")
        address = ifreqs[start + _NAME_MAX + 4 : start + _NAME_MAX + 8]  # behind family and port
        found.setdefault(label.partition(":")[0], set()).add((4, not address.startswith(_LINK_LOCAL4)))
    return found


def addresses_v6(lines: Iterable[str]) -> Addresses:
    """What `/proc/net/if_inet6` says."""
    found: Addresses = {}
    for scope, name in _scopes(lines):
        found.setdefault(name, set()).add((6, scope != _SCOPE_LINK))
    return found


def _scopes(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        words = line.split()
        if len(words) == 6 and not int(words[4], 16) & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE):
            yield int(words[3], 16), words[5]


def _head(path: str) -> list[str]:
    """The lines at the beginning of a file of the kernel; none when it cannot be read (IPv6 is off)."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(ROUTES_MAX).splitlines()
    except OSError:
        return []


def default_routes_v4(lines: Iterable[str]) -> frozenset[str]:
    """Interfaces that a usable default route of `/proc/net/route` leads out of."""
    return _default_routes(lines, iface=0, flags=3, zeros={1: _ZERO4, 7: _ZERO4}, fields=11)


def default_routes_v6(lines: Iterable[str]) -> frozenset[str]:
    """Interfaces that a usable default route of `/proc/net/ipv6_route` leads out of."""
    return _default_routes(lines, iface=9, flags=8, zeros={0: _ZERO6, 1: "00"}, fields=10)


def _default_routes(
    lines: Iterable[str], *, iface: int, flags: int, zeros: dict[int, str], fields: int
) -> frozenset[str]:
    found = set()
    for line in lines:
        words = line.split()
        if len(words) < fields or any(words[place] != zero for place, zero in zeros.items()):
            continue
        try:
            bits = int(words[flags], 16)
        except ValueError:
            continue
        if bits & _RTF_UP and not bits & _RTF_REJECT:
            found.add(words[iface])
    return frozenset(found)
