"""Which addresses are dialled when: those of the configuration for as long as nobody is linked there, those
that were found on the LAN seldom, because anybody can announce anything.
"""

from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address

import msgspec

from ambientd.config.peers import PeerAddress

FIRST_PAUSE_SEC = 0.5
LONGEST_PAUSE_SEC = 30.0
# After that long a link's end is no reason to wait longer and longer.
GOOD_LINK_SEC = 60.0
# Of something that moved everywhere at once (a switch that came back) not all nodes dial in one instant.
HURRY_SPREAD_SEC = 0.3
# It is this node itself; addresses move, so it is looked at again some day.
OWN_PAUSE_SEC = 600.0
# Found addresses: of one host, of all, and the pause between two dials of one host.
FOUND_PER_HOST = 8
FOUND_MAX = 256
FOUND_PAUSE_SEC = 30.0
FOUND_FORGOTTEN_SEC = 3600.0
# At once: each waits some seconds for an answer, and whoever makes addresses up must not make many of them.
FOUND_BUSY_MAX = 8
HINT_DIGITS = 16


class _Entry(msgspec.Struct):
    due: float
    hint: str = ""
    noted: float = 0.0
    key: bytes | None = None
    attempts: int = 0
    busy: bool = False
    reason: str = ""

    @property
    def is_found(self) -> bool:
        return self.hint != ""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended. `lasted`: seconds that a link stood; `key`: who was there, if it was proved;
    `own`: it was this node."""

    lasted: float = 0.0
    key: bytes | None = None
    own: bool = False
    reason: str = ""


def hint_of(key: bytes) -> str:
    """What an announcement says of a key: enough not to dial in vain, nothing that is believed."""
    return key.hex()[:HINT_DIGITS]


class DialBook:
    """The addresses, and when each is to be dialled. `now` is a clock that does not step, in seconds."""

    def __init__(
        self, static: Iterable[PeerAddress], *, now: float, jitter: Callable[[], float], longest: float
    ) -> None:
        """`jitter` gives numbers from 0 to 1; `longest` is the longest pause between two attempts."""
        self._jitter = jitter
        self._longest = min(longest, LONGEST_PAUSE_SEC)
        self._entries = {address: _Entry(due=now) for address in static}
        self._hosts: dict[str, float] = {}
        self._found: dict[str, int] = {}  # by host, how many of its addresses were found
        self._full_until = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, address: PeerAddress, hint: str, now: float) -> bool:
        """An announcement; whether the address is in the book afterwards. Costs no dial by itself."""
        entry = self._entries.get(address)
        if entry is not None:
            if entry.is_found:
                entry.hint, entry.noted = hint, now
            return True
        if not _is_near(address.host) or len(hint) != HINT_DIGITS or not 0 < address.port < 65536:
            return False
        if self._found.get(address.host, 0) >= FOUND_PER_HOST:
            return False
        if sum(self._found.values()) >= FOUND_MAX and not self._forget_oldest(now):
            return False
        self._entries[address] = _Entry(due=now + self._jitter() * HURRY_SPREAD_SEC, hint=hint, noted=now)
        self._found[address.host] = self._found.get(address.host, 0) + 1
        return True

    def _forget_oldest(self, now: float) -> bool:
        """Makes room by what was not heard of for longest; what is linked or fresh stays."""
        if now < self._full_until:
            return False
        idle = [address for address, entry in self._entries.items() if entry.is_found and not entry.busy]
        oldest = min(idle, key=lambda address: self._entries[address].noted, default=None)
        heard = now if oldest is None else self._entries[oldest].noted
        if oldest is None or heard > now - FOUND_FORGOTTEN_SEC:
            # A flood is not worth looking through the table for each of what it brings.
            self._full_until = min(heard + FOUND_FORGOTTEN_SEC, now + FOUND_PAUSE_SEC)
            return False
        del self._entries[oldest]
        self._found[oldest.host] -= 1
        if not self._found[oldest.host]:
            del self._found[oldest.host]
        return True

    def take(
        self, now: float, *, linked: Collection[bytes], hints: Collection[str]
    ) -> tuple[list[PeerAddress], float]:
        """What is to be dialled now, and when to ask again. `linked` are keys that need no other link,
        `hints` those of trusted keys that are not linked: nothing else that was found is dialled.

        Every address that is given must come back through `ended`.
        """
        due, again = [], float("inf")
        room = FOUND_BUSY_MAX - sum(entry.busy for entry in self._entries.values() if entry.is_found)
        for address, entry in self._entries.items():
            if entry.busy or entry.key in linked or (entry.is_found and entry.hint not in hints):
                continue
            at = max(entry.due, self._hosts.get(address.host, 0.0)) if entry.is_found else entry.due
            if at > now:
                again = min(again, at)
                continue
            if entry.is_found:
                if room <= 0:
                    continue  # `ended` of one of those makes the next one due
                room -= 1
                self._pause_host(address.host, now)
            entry.busy = True
            due.append(address)
        return due, again

    def _pause_host(self, host: str, now: float) -> None:
        self._hosts = {other: until for other, until in self._hosts.items() if until > now}
        self._hosts[host] = now + FOUND_PAUSE_SEC

    def ended(self, address: PeerAddress, ended: Ended, now: float) -> None:
        """An attempt, or the link that it brought, is over."""
        entry = self._entries.get(address)
        if entry is None:
            return
        entry.busy, entry.reason = False, ended.reason
        if ended.key is not None:
            entry.key = ended.key
        entry.attempts = 1 if ended.lasted >= GOOD_LINK_SEC else entry.attempts + 1
        if ended.own:
            entry.due = now + OWN_PAUSE_SEC
            return
        pause = min(FIRST_PAUSE_SEC * 2.0 ** min(entry.attempts - 1, 16), self._longest)
        entry.due = now + pause * (0.5 + self._jitter() / 2)

    def hurry(self, now: float) -> None:
        """The links have changed, or trust has: everything that waits is tried soon."""
        for entry in self._entries.values():
            entry.attempts = 0
            entry.due = min(entry.due, now + self._jitter() * HURRY_SPREAD_SEC)

    def unlinked(self, key: bytes, now: float, *, lasted: float) -> None:
        """The link to a key has ended, whoever had dialled it: if it was a good one, its addresses are tried
        soon."""
        if lasted < GOOD_LINK_SEC:
            return
        for entry in self._entries.values():
            if entry.key == key and not entry.busy:
                entry.due = min(entry.due, now + FIRST_PAUSE_SEC * self._jitter())

    def reasons(self) -> dict[PeerAddress, str]:
        """Why nobody is linked at an address, as far as there was an attempt."""
        return {address: entry.reason for address, entry in self._entries.items() if entry.reason}

    def key_at(self, address: PeerAddress) -> bytes | None:
        """Who was at an address last."""
        entry = self._entries.get(address)
        return None if entry is None else entry.key


def _is_near(host: str) -> bool:
    """Announcements name addresses of private networks and of the link; others can be configured."""
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if found.is_loopback or found.is_multicast or found.is_unspecified or found.is_reserved:
        return False
    return found.is_private or found.is_link_local
