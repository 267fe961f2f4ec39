"""This machine's own interfaces, the kernel's formats, and a network namespace where links come and go."""

import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from ambientd.core.connectivity import Link, Links
from ambientd.host.links import (
    SystemLinks,
    addresses_v4,
    addresses_v6,
    default_routes_v4,
    default_routes_v6,
    read_links,
)
from tests.netns import Namespace, namespaces

ROUTES4 = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth1	00000000	010200C0	0002	0	0	0	00000000	0	0	0
*	00000000	00000000	0201	0	0	0	00000000	0	0	0
tun0	00000000	00000000	0001	0	0	0	00000080	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
wg0	00000000	00000000	0001	0	0	100	00000000	0	0	0
torn	00000000	0000
bad	00000000	00000000	zz	0	0	0	00000000	0	0	0
"""
ZERO = "0" * 32
ROUTES6 = f"""\
fd000000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0
{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
{ZERO} 00 {ZERO} 00 {ZERO} 00000400 00000001 00000000 00200200       lo
{ZERO} 01 {ZERO} 00 {ZERO} 00000400 00000001 00000000 00000001     tun0
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 02 40 00 80     eth0
fe8000000000000000fc00fffe000001 02 40 20 80     eth0
fe8000000000000000fc00fffe000002 03 40 20 80     eth1
fd000000000000000000000000000003 04 40 00 c0     eth2
fd000000000000000000000000000004 04 40 00 88     eth2
torn
"""


def test_default_routes_are_found_and_other_routes_are_not() -> None:
    assert default_routes_v4(ROUTES4.splitlines()) == {"eth0", "wg0"}
    assert default_routes_v6(ROUTES6.splitlines()) == {"eth0"}
    assert default_routes_v4([]) == default_routes_v6([]) == frozenset()


def test_addresses_are_told_from_those_of_the_link_alone() -> None:
    def ifreq(label: bytes, address: bytes) -> bytes:
        body = struct.pack("16sHH4s", label, 2, 0, address)
        return body.ljust(struct.calcsize("16sLLHBBB3x"), b"\0")

    raw = ifreq(b"eth0", bytes((169, 254, 3, 3))) + ifreq(b"eth0:1", bytes((10, 0, 0, 1)))
    raw += ifreq(b"usb0", bytes((169, 254, 9, 9)))
    assert addresses_v4(raw) == {"eth0": {(4, False), (4, True)}, "usb0": {(4, False)}}
    assert addresses_v4(raw[:-1]) == {"eth0": {(4, False), (4, True)}}
    found = addresses_v6(IF_INET6.splitlines())
    assert found == {"lo": {(6, True)}, "eth0": {(6, True), (6, False)}, "eth1": {(6, False)}}


def test_this_machine_can_be_read_and_quickly() -> None:
    began = time.perf_counter()
    links = read_links()
    assert time.perf_counter() - began < 0.5
    assert links.error == ""
    assert bool(links.usable) != bool(links.none)
    assert "lo" not in [link.name for link in links.usable]


def test_a_machine_that_tells_nothing_is_an_error_and_no_link(tmp_path: Path) -> None:
    assert "cannot be read" in read_links(str(tmp_path)).error


async def test_a_kernel_that_does_not_answer_is_waited_for_by_one_thread_at_most() -> None:
    release, calls = trio.Event(), []

    def slow() -> Links:
        calls.append(1)
        trio.from_thread.run(release.wait)
        return Links(none="x")

    links = SystemLinks(slow)
    for _ in range(3):
        with trio.move_on_after(0.05):
            await links.read()
    assert len(calls) == 1
    release.set()
    assert (await SystemLinks(lambda: Links(none="x")).read()).none == "x"


@pytest.fixture
def net() -> Iterator[Namespace]:
    """A namespace with a link `eth0` that leads to another one's `eth0`."""
    with namespaces("node", "world") as (node, world):
        node.join(world)
        yield node


def links_in(net: Namespace) -> Links:
    code = (
        "import msgspec; from ambientd.host.links import *; print(msgspec.json.encode(read_links()).decode())"
    )
    told = net.run(sys.executable, "-c", code)
    return msgspec.json.decode(told, type=Links)


def wait_for(net: Namespace, wanted: Links) -> None:
    until = time.monotonic() + 10
    while (found := links_in(net)) != wanted:
        assert time.monotonic() < until, f"{found} instead of {wanted}"


def test_a_link_goes_through_all_it_can_be(net: Namespace) -> None:
    """FAULTS N9: no carrier, no address, no default route, IPv6 alone, an address that changes."""
    down, bare = Links(none="no link is up"), Links(usable=(Link("eth0"),))
    routed = Links(usable=(Link("eth0", routed=True),))
    assert links_in(net) == down
    net.ip("link", "set", "eth0", "up")
    assert links_in(net) == down, "up, but without a carrier"
    assert net.peer is not None
    net.peer.ip("link", "set", "eth0", "up")
    wait_for(net, bare)  # its own link-local address, once nobody else has claimed it
    net.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
    wait_for(net, Links(none="no link has an address"))
    net.ip("address", "add", "169.254.7.7/16", "dev", "eth0")
    net.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
    assert links_in(net) == bare, "a default route, but no address that it could be used with"
    net.ip("address", "add", "10.77.0.2/24", "dev", "eth0")
    assert links_in(net) == routed
    net.ip("address", "add", "10.78.0.2/24", "dev", "eth0")
    net.ip("address", "del", "10.77.0.2/24", "dev", "eth0")
    assert links_in(net) == routed, "another address"
    net.peer.ip("link", "set", "eth0", "down")
    wait_for(net, down)
    net.peer.ip("link", "set", "eth0", "up")
    wait_for(net, routed)
    net.ip("route", "del", "default")
    assert links_in(net) == bare
    net.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
    net.ip("address", "flush", "dev", "eth0")
    net.ip("address", "add", "fd00:77::2/64", "dev", "eth0", "nodad")
    assert links_in(net) == bare
    net.ip("-6", "route", "add", "default", "via", "fd00:77::1", "dev", "eth0")
    assert links_in(net) == routed
    net.ip("-6", "route", "del", "default")
    net.ip("-6", "route", "add", "unreachable", "default")
    assert links_in(net) == bare
