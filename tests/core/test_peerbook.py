"""Whom a node trusts, and which words an operator may use for it."""

import pytest

from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.peerbook import PeerBook, TrustedPeer, check_trust, find_trusted
from ambientd.core.peerrefusals import OTHERS, SENDERS_MAX, SUMMARY_SEC, RefusalBook
from ambientd.core.peerviews import label_of
from ambientd.core.rejection import Rejected
from tests.fakes.clock import EPOCH

KEYS = [show_key(public_of(bytes([number]) * 32)) for number in range(4)]


def named(key: str, name: str) -> TrustedPeer:
    return TrustedPeer(key=key, name=name, added_at=EPOCH, added_by="uid:0")


BOOK = PeerBook((KEYS[0],)).with_named([named(KEYS[1], "edge-01"), named(KEYS[2], "")])


def test_a_book_has_both_kinds_of_keys_and_knows_which() -> None:
    assert {show_key(key) for key in BOOK.keys} == set(KEYS[:3])
    assert [BOOK.source(key) for key in KEYS] == ["configuration", "operator", "operator", ""]
    assert BOOK.called(KEYS[1]) == "edge-01"


def test_a_roster_adds_keys_and_the_operators_word_stands_over_it() -> None:
    listed = {KEYS[0]: "a", KEYS[1]: "b", KEYS[3]: "edge-03"}
    book = BOOK.with_listed(listed)
    assert [book.source(key) for key in KEYS] == ["configuration", "operator", "operator", "roster"]
    assert [book.called(KEYS[1]), book.called(KEYS[3])] == ["edge-01", "edge-03"]
    assert find_trusted(book, "edge-03") == KEYS[3]
    refused = book.with_named(book.named.values(), [KEYS[3], KEYS[0]])
    assert {show_key(key) for key in refused.keys} == set(KEYS[:3])
    assert (refused.source(KEYS[3]), refused.called(KEYS[3])) == ("", "")
    assert refused.with_listed({}).with_listed(listed) == refused
    assert refused.with_named([]).refused == refused.refused


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("", ""),
        ("ed25519:" + "0" * 64, ""),  # a point of small order: anybody could sign under it
        (KEYS[3].upper(), ""),
        (KEYS[3], "x" * 65),
        (KEYS[3], "a\nb"),
        (KEYS[3], "a\x1b[2J"),
        (KEYS[3], "\u202eedge"),
        (KEYS[3], " edge"),
        (KEYS[3], "edge-01"),
    ],
)
def test_what_may_not_be_trusted_is_refused_with_the_field(key: str, name: str) -> None:
    refused = check_trust(BOOK, key, name, own=None)
    assert isinstance(refused, Rejected)
    assert refused.details[0].field in ("key", "name")


def test_the_own_key_is_no_peer() -> None:
    assert check_trust(BOOK, KEYS[3], "", own=KEYS[3]) is not None
    assert check_trust(BOOK, KEYS[3], "Kante 3 – Büro", own=KEYS[0]) is None


def test_a_peer_is_found_by_key_part_or_name() -> None:
    digits = KEYS[1].partition(":")[2]
    for word in (KEYS[1], digits[:6], digits[-6:], KEYS[1][:14], "edge-01", digits[:6].upper()):
        assert find_trusted(BOOK, word) == KEYS[1]
    for word in ("", "ed25519:", "edge", digits[:3], KEYS[3]):
        found = find_trusted(BOOK, word)
        assert isinstance(found, Rejected)
    assert isinstance(found := find_trusted(BOOK, "ed25519:"[:7]), Rejected)
    assert found.code == "AMBIGUOUS"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("edge-03", "edge-03"),
        ("Büro 2", "B-ro-2"),
        ("日本", "node"),
        ("", "node"),
        ("-x-", "x"),
        ("a" * 99, "a" * 64),
    ],
)
def test_a_nodes_name_becomes_what_peers_may_read(name: str, label: str) -> None:
    assert label_of(name) == label


def test_the_first_refusal_of_a_kind_is_told_at_once_and_the_rest_as_a_sum() -> None:
    book = RefusalBook()
    assert book.note("a", "replayed", "t", 0.0) is not None
    for second in range(1, 500):
        assert book.note("a", "replayed", f"t{second}", float(second)) is None
    assert book.note("a", "expired", "t", 1.0) is not None
    assert book.note("b", "replayed", "t", 1.0) is not None
    assert book.due(SUMMARY_SEC - 1) == []
    assert book.next_due() == SUMMARY_SEC
    (told,) = book.due(SUMMARY_SEC)
    assert (told.sender, told.reason, told.count, told.text) == ("a", "replayed", 499, "t499")
    assert book.next_due() is None
    assert book.of("a") == {"replayed": 500, "expired": 1}


def test_a_flood_of_senders_is_counted_in_a_bounded_table() -> None:
    book = RefusalBook()
    told = [book.note(f"10.0.{n >> 8}.{n & 255}", "not_trusted", "t", 0.0) for n in range(10_000)]
    assert sum(one is not None for one in told) == SENDERS_MAX + 1
    assert book.total == 10_000
    assert book.of(OTHERS) == {"not_trusted": 10_000 - SENDERS_MAX}
    assert sum(one.count for one in book.due(1.0, all_of_it=True)) == 10_000 - SENDERS_MAX - 1
