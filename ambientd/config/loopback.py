"""Whether an address is of this machine alone; the usual ones are known without `ipaddress` (220 KiB)."""

import ipaddress

_USUAL = frozenset(("127.0.0.1", "::1"))


def canonical(address: str) -> str:
    """An address in its one spelling. Raises ValueError for what is none, a name for one."""
    return address if address in _USUAL else str(ipaddress.ip_address(address))


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it; False for what is no address."""
    if address in _USUAL:
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
