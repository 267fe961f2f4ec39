"""What stands before the routes: whose address counts, and how much is read from whom."""

import ipaddress

import pytest

from ambientd.api.fleet.front import BARE_BODY_MAX, FleetDoor
from ambientd.ports.http import Caller, Turned

PEER = Caller(transport="tcp", uid=None, pid=None, may_write=False, ip="10.0.0.1")
DOOR = FleetDoor((ipaddress.ip_network("10.0.0.0/24"),))


def admit(caller: Caller, headers: dict[str, str]) -> Caller | Turned:
    return DOOR.admit("POST", "/api/v1/auth/login", headers, caller)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.7", "198.51.100.7"),  # what the client wrote itself
        ("10.0.0.1", "198.51.100.7, 10.0.0.5", "198.51.100.7"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # no proxy of ours
    ],
)
def test_only_a_trusted_proxy_is_believed_about_the_address(peer: str, forwarded: str, expected: str) -> None:
    found = admit(PEER._replace(ip=peer), {"x-forwarded-for": forwarded})
    assert isinstance(found, Caller)
    assert found.ip == expected


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": str(BARE_BODY_MAX)}, None),
        ({"content-length": str(BARE_BODY_MAX + 1)}, 413),
        ({"content-length": "9" * 30}, 413),
        ({"transfer-encoding": "chunked"}, 411),
        ({"content-length": "1000000", "authorization": "Bearer at_x"}, None),
        ({"content-length": "1000000", "x-api-key": "vcp_x"}, None),
    ],
)
def test_a_large_body_is_not_read_from_who_shows_no_token(
    headers: dict[str, str], status: int | None
) -> None:
    found = admit(PEER, headers)
    assert (found.status if isinstance(found, Turned) else None) == status
