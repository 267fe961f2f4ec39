"""Trust, floors, the own line and last sightings in SQLite."""

from datetime import timedelta

import pytest

from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.peerbook import PeerSeen, TrustedPeer
from ambientd.core.peers.floors import LineFloor, SendLine, SignerFloor
from ambientd.store.unit import SqliteTransaction
from tests.store.kit import AT, in_memory

KEY, OTHER = public_of(bytes(32)), public_of(bytes([1]) * 32)


@pytest.fixture
def tx() -> SqliteTransaction:
    return SqliteTransaction(in_memory(), AT)


def trusted(key: bytes = KEY, name: str = "edge-03", minute: int = 0) -> TrustedPeer:
    return TrustedPeer(
        key=show_key(key), name=name, added_at=AT + timedelta(minutes=minute), added_by="uid:0"
    )


def test_trust_is_kept_renamed_and_taken_back(tx: SqliteTransaction) -> None:
    tx.peers.trust(trusted())
    tx.peers.trust(trusted(OTHER, "", 1))
    tx.peers.trust(trusted(name="edge-04", minute=9))
    assert tx.peers.trusted() == [trusted(name="edge-04"), trusted(OTHER, "", 1)]
    assert tx.peers.untrust(show_key(KEY))
    assert not tx.peers.untrust(show_key(KEY))
    assert tx.peers.trusted() == [trusted(OTHER, "", 1)]


@pytest.mark.parametrize("key", ["", "ed25519:", "ed25519:" + "a" * 63, "rsa:" + "a" * 68])
def test_what_is_no_key_cannot_be_trusted(tx: SqliteTransaction, key: str) -> None:
    with pytest.raises(ValueError, match="trusted peer"):
        tx.peers.trust(TrustedPeer(key=key, name="", added_at=AT, added_by="uid:0"))


def test_floors_begin_with_the_own_line_and_are_read_as_written(tx: SqliteTransaction) -> None:
    assert tx.peers.floors() is None
    assert tx.peers.own_line() is None
    tx.peers.begin(SendLine("ab" * 8, 1025), 77)
    tx.peers.begin(SendLine("cd" * 8, 2049), 99)
    assert tx.peers.own_line() == SendLine("cd" * 8, 2049)
    floor = SignerFloor(1, 5, (LineFloor("11" * 8, 7, 100), LineFloor("22" * 8, 1, 200)))
    tx.peers.raise_floor(KEY, floor)
    floors = tx.peers.floors()
    assert floors is not None
    assert floors.since == 77
    assert floors.of(KEY) == floor
    assert floors.of(OTHER) == SignerFloor()


def test_a_floor_never_sinks(tx: SqliteTransaction) -> None:
    tx.peers.begin(SendLine("ab" * 8), 0)
    tx.peers.raise_floor(KEY, SignerFloor(2, 9, (LineFloor("11" * 8, 7, 100),)))
    tx.peers.raise_floor(KEY, SignerFloor(1, 0, (LineFloor("11" * 8, 3, 50), LineFloor("22" * 8, 1, 60))))
    floors = tx.peers.floors()
    assert floors is not None
    kept = floors.of(KEY)
    assert (kept.version, kept.since) == (2, 9)
    assert kept.line("11" * 8) == LineFloor("11" * 8, 7, 100)
    assert kept.line("22" * 8) == LineFloor("22" * 8, 1, 60)


def test_trust_that_ends_leaves_the_floor(tx: SqliteTransaction) -> None:
    """Otherwise what was refused as old would be new after an untrust and a trust."""
    tx.peers.begin(SendLine("ab" * 8), 0)
    tx.peers.trust(trusted())
    tx.peers.raise_floor(KEY, SignerFloor(1, 0, (LineFloor("11" * 8, 7, 100),)))
    tx.peers.untrust(show_key(KEY))
    floors = tx.peers.floors()
    assert floors is not None
    assert floors.of(KEY).lines


def test_sightings_are_replaced_and_a_comparison_is_remembered(tx: SqliteTransaction) -> None:
    key = show_key(KEY)
    tx.peers.put_seen(PeerSeen(key=key, name="a", address="10.0.0.1", seen_at=AT, synced_at=AT))
    later = AT + timedelta(hours=1)
    tx.peers.put_seen(PeerSeen(key=key, name="b", address="10.0.0.2", seen_at=later))
    (seen,) = tx.peers.seen()
    assert seen == PeerSeen(key=key, name="b", address="10.0.0.2", seen_at=later, synced_at=AT)
    tx.peers.untrust(key)
    assert tx.peers.seen() == []


def test_the_own_line_starts_at_one_at_least(tx: SqliteTransaction) -> None:
    with pytest.raises(ValueError, match="own line"):
        tx.peers.begin(SendLine("ab" * 8, 0), 0)
