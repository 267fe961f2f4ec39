"""When which address is dialled (FAULTS N1, P13)."""

import random

from ambientd.config.peers import PeerAddress
from ambientd.core.peerdials import (
    FOUND_BUSY_MAX,
    FOUND_FORGOTTEN_SEC,
    FOUND_MAX,
    FOUND_PAUSE_SEC,
    FOUND_PER_HOST,
    LONGEST_PAUSE_SEC,
    OWN_PAUSE_SEC,
    DialBook,
    Ended,
    hint_of,
)

ONE, OTHER = PeerAddress("10.0.0.1", 7946), PeerAddress("10.0.0.2", 7946)
KEY = bytes(range(32))
HINT = hint_of(KEY)


def book(*static: PeerAddress, longest: float = 30.0) -> DialBook:
    return DialBook(static, now=0.0, jitter=lambda: 1.0, longest=longest)


def taken(
    made: DialBook, now: float, linked: set[bytes] | None = None, hints: set[str] | None = None
) -> list[PeerAddress]:
    return made.take(now, linked=linked or set(), hints=hints or set())[0]


def test_configured_addresses_are_dialled_at_once_and_only_once_at_a_time() -> None:
    made = book(ONE, OTHER)
    assert taken(made, 0.0) == [ONE, OTHER]
    assert taken(made, 100.0) == []


def test_pauses_grow_to_a_bound_and_a_good_link_makes_them_short_again() -> None:
    made, now, pauses = book(ONE), 0.0, []
    for _ in range(12):
        assert taken(made, now) == [ONE]
        made.ended(ONE, Ended(reason="nobody listens there"), now)
        _, again = made.take(now, linked=set(), hints=set())
        pauses.append(again - now)
        now = again
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_PAUSE_SEC
    assert taken(made, now) == [ONE]
    made.ended(ONE, Ended(lasted=3600.0, key=KEY), now)
    assert made.take(now, linked=set(), hints=set())[1] - now == 0.5


def test_the_longest_pause_follows_a_shorter_interval() -> None:
    made, now = book(ONE, longest=5.0), 0.0
    for _ in range(10):
        assert taken(made, now) == [ONE]
        made.ended(ONE, Ended(), now)
        now = made.take(now, linked=set(), hints=set())[1]
    assert taken(made, now) == [ONE]
    made.ended(ONE, Ended(), now)
    assert made.take(now, linked=set(), hints=set())[1] - now <= 5.0


def test_who_is_linked_needs_no_other_link_and_is_dialled_soon_when_it_ends() -> None:
    made = book(ONE)
    assert taken(made, 0.0) == [ONE]
    made.ended(ONE, Ended(key=KEY, reason="another link stays"), 0.0)
    assert taken(made, 1000.0, linked={KEY}) == []
    made.unlinked(KEY, 1000.0, lasted=900.0)
    assert taken(made, 1001.0) == [ONE]


def test_a_link_that_ends_at_once_is_no_reason_to_hurry() -> None:
    made = book(ONE)
    for _ in range(6):
        made.hurry(0.0)
        taken(made, 1.0)
    made.ended(ONE, Ended(key=KEY), 1.0)
    for _ in range(6):
        made.ended(ONE, Ended(key=KEY), 1.0)
    made.unlinked(KEY, 1.0, lasted=0.1)
    assert taken(made, 10.0) == []


def test_changed_links_are_a_reason_to_try_everything_soon() -> None:
    made, now = book(ONE), 0.0
    for _ in range(10):
        taken(made, now)
        made.ended(ONE, Ended(), now)
        now = made.take(now, linked=set(), hints=set())[1] - 0.001
        now += 0.001
    taken(made, now)
    made.ended(ONE, Ended(), now)
    made.hurry(now)
    assert taken(made, now + 1.0) == [ONE]


def test_this_node_itself_is_left_alone() -> None:
    made = book(ONE)
    taken(made, 0.0)
    made.ended(ONE, Ended(own=True), 0.0)
    assert taken(made, OWN_PAUSE_SEC - 1) == []
    assert taken(made, OWN_PAUSE_SEC) == [ONE]


def test_what_was_found_is_dialled_for_a_trusted_key_only() -> None:
    made = book()
    assert made.note(ONE, HINT, 0.0)
    assert taken(made, 1.0) == []
    assert taken(made, 1.0, hints={HINT}) == [ONE]


def test_one_host_costs_one_dial_in_half_a_minute_whatever_it_announces() -> None:
    made, dials, now = book(), [], 0.0
    for number in range(100):
        made.note(PeerAddress("10.0.0.9", 1000 + number), HINT, 0.0)
    assert len(made) == FOUND_PER_HOST
    while now < 300.0:
        for address in taken(made, now, hints={HINT}):
            dials.append(now)
            made.ended(address, Ended(), now)
        now += 0.25
    assert len(dials) <= 300 / FOUND_PAUSE_SEC + 1


def test_a_flood_of_announcements_takes_a_bounded_table() -> None:
    made, chance = book(ONE), random.Random(7)
    for _ in range(20_000):
        host = f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}"
        made.note(PeerAddress(host, chance.randrange(1, 65536)), HINT, 0.0)
    assert len(made) == FOUND_MAX + 1
    assert made.note(OTHER, HINT, FOUND_FORGOTTEN_SEC + 1)
    assert len(made) == FOUND_MAX + 1


def test_made_up_addresses_are_dialled_few_at_once() -> None:
    made = book(ONE)
    for number in range(100):
        made.note(PeerAddress(f"10.0.1.{number}", 7946), HINT, 0.0)
    first = taken(made, 1.0, hints={HINT})
    assert len(first) == FOUND_BUSY_MAX + 1
    assert taken(made, 1.0, hints={HINT}) == []
    made.ended(first[-1], Ended(), 1.0)
    assert len(taken(made, 1.0, hints={HINT})) == 1


def test_announcements_lead_nowhere_but_to_the_neighbourhood() -> None:
    made = book()
    for host in ("8.8.8.8", "127.0.0.1", "::1", "224.0.0.1", "0.0.0.0", "example.net", "2606:4700::1", ""):
        assert not made.note(PeerAddress(host, 7946), HINT, 0.0)
    assert not made.note(ONE, "short", 0.0)
    assert not made.note(PeerAddress("10.0.0.1", 0), HINT, 0.0)
    assert made.note(PeerAddress("fe80::1%eth0", 7946), HINT, 0.0)


def test_a_configured_address_does_not_become_a_found_one() -> None:
    made = book(ONE)
    assert made.note(ONE, HINT, 0.0)
    assert taken(made, 0.0) == [ONE]
