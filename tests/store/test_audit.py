"""The chain in the table: what the schema lets nobody do, and what is found when somebody did it anyway."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import apsw
import pytest

from ambientd.core.audit import BEGINNING, RESTORED, AuditQuery, Break, Place
from ambientd.core.identity import Keys, roll_over
from ambientd.core.records import AuditEntry
from ambientd.flows.audit import (
    Found,
    Stretch,
    look,
    note_break,
    own_keys,
    restored_entry,
    sign_head,
    verify_stretch,
    walk_on,
)
from ambientd.store.unit import SqliteTransaction
from tests.core.auditkit import HOST, KEY, OTHER_KEY, OTHER_SEED, SEED, checkpoint_of, note_of
from tests.fakes.identity import SeedIdentity
from tests.store.kit import AT, in_memory

IDENTITY = SeedIdentity(SEED, host_id=f"sha256:{HOST}")
UNLOCKED = """
DROP TRIGGER audit_records_keep; DROP TRIGGER audit_records_fixed;
DROP TRIGGER audit_checkpoints_keep; DROP TRIGGER audit_checkpoints_fixed;
PRAGMA ignore_check_constraints = ON;
"""


SWAP = """
UPDATE audit_records SET seq = 40 WHERE seq = 3; UPDATE audit_records SET seq = 3 WHERE seq = 4;
UPDATE audit_records SET seq = 4 WHERE seq = 40;
"""
COPY = (
    "INSERT INTO audit_records SELECT {seq}, kind, at, actor, subject, detail_json, {prev}, hash"
    " FROM audit_records WHERE seq = 7"
)


class Chain:
    """A database with records, and whoever writes into it past the program."""

    def __init__(self, records: int = 0) -> None:
        self.connection = in_memory()
        self.tx = SqliteTransaction(self.connection, AT)
        self.grow(records)

    def grow(self, count: int, kind: str = "control.kill", actor: str = "uid:0") -> None:
        for _ in range(count):
            seq = self.tx.audit.head().seq + 1
            self.append(kind, actor=actor, subject=f"s{seq}", detail={"n": seq}, seconds=seq)

    def append(self, kind: str, seconds: int = 0, **fields: Any) -> int:
        facts = {"actor": "uid:0", "subject": "s"} | fields
        return self.tx.audit.append(AuditEntry(kind=kind, at=AT + timedelta(seconds=seconds), **facts))

    def sign(self, place: Place = BEGINNING) -> str:
        made = sign_head(self.tx, place, IDENTITY, AT)
        assert made is not None
        assert not isinstance(made, Found), made
        return made.note

    def force(self, sql: str, *values: Any) -> None:
        """As somebody does who has the file, and no scruples."""
        self.connection.execute(UNLOCKED)
        self.connection.execute(sql, values)

    def verify(self, *, rows: int = 1000, file_note: str | None = None) -> Stretch:
        keys, place = own_keys(self.tx, KEY), BEGINNING
        checked = checkpoints = others = 0
        while True:
            found = verify_stretch(self.tx, place, keys=keys, rows=rows, file_note=file_note)
            checked, checkpoints = checked + found.checked, checkpoints + found.checkpoints
            others += found.other_keys
            if found.ended:
                return found._replace(checked=checked, checkpoints=checkpoints, other_keys=others)
            place = found.place

    def bad(self, **more: Any) -> int | None:
        found = self.verify(**more).bad
        return None if found is None else found.seq


# --- what the schema refuses


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audit_records WHERE seq = 3",
        "DELETE FROM audit_records",
        "UPDATE audit_records SET actor = 'x' WHERE seq = 3",
        "UPDATE audit_state SET acknowledged_seq = 6",
        "UPDATE audit_state SET acknowledged_seq = 2",
        "UPDATE audit_state SET pruned_seq = 4",
        "UPDATE audit_state SET pruned_hash = hex(randomblob(32))",
        "UPDATE audit_state SET pruned_seq = 2, pruned_hash = hex(randomblob(32))",
        "UPDATE audit_state SET pruned_seq = 0",
        "DELETE FROM audit_state",
        "INSERT INTO audit_state (one) VALUES (2)",
        "DELETE FROM audit_checkpoints",
        "UPDATE audit_checkpoints SET note = 'x'",
        "DELETE FROM audit_breaks",
        "DELETE FROM identity_rollovers",
        "UPDATE identity_rollovers SET statement = 'x'",
    ],
)
def test_the_schema_refuses(sql: str) -> None:
    chain = Chain(5)
    chain.sign()
    chain.tx.audit.acknowledge(3)
    chain.tx.audit.prune(1, 10)
    chain.tx.audit.note_break(Break(2, "x"), found_at="2026-11-20T12:00:00.000Z", note=None)
    chain.tx.identity.keep_rollover(old_key="ed25519:a", new_key="ed25519:b", statement="s")
    with pytest.raises(apsw.ConstraintError):
        chain.connection.execute(sql)
    assert chain.verify().checked == 4


# --- acknowledging and pruning


def test_only_what_was_acknowledged_is_pruned_and_the_chain_goes_on() -> None:
    chain = Chain(10)
    audit = chain.tx.audit
    with pytest.raises(ValueError, match="no record 11"):
        audit.acknowledge(11)
    with pytest.raises(ValueError, match="only records up to 0"):
        audit.prune(1, 100)
    assert [record.seq for record in audit.unacknowledged(3)] == [1, 2, 3]
    audit.acknowledge(6)
    audit.acknowledge(4)
    assert audit.state().acknowledged_seq == 6
    assert [record.seq for record in audit.unacknowledged(100)] == [7, 8, 9, 10]
    with pytest.raises(ValueError, match="only records up to 6"):
        audit.prune(7, 100)
    assert [audit.prune(5, 2), audit.prune(5, 2), audit.prune(5, 2), audit.prune(5, 2)] == [2, 2, 1, 0]
    assert audit.state().pruned.seq == 5
    chain.grow(3)
    found = chain.verify(rows=2)
    assert (found.bad, found.checked, found.pruned, found.head) == (None, 8, 5, 13)
    assert audit.hash_at(5) == audit.stored(5, 1)[0].prev_hash
    assert audit.hash_at(4) is None


def test_a_chain_that_was_pruned_wholly_goes_on_behind_its_anchor() -> None:
    chain = Chain(4)
    chain.sign()
    before = chain.tx.audit.head()
    chain.tx.audit.acknowledge(4)
    assert chain.tx.audit.prune(4, 100) == 4
    assert chain.tx.audit.head() == before
    assert chain.bad() is None
    assert chain.append("after") == 5
    assert chain.tx.audit.stored(0, 10)[0].prev_hash == before.hash
    found = chain.verify()
    assert (found.bad, found.checked, found.checkpoints) == (None, 1, 0)
    assert chain.tx.audit.newest_checkpoint() is not None, "the newest one stays, to be compared with"
    chain.force("UPDATE audit_records SET prev_hash = ?", "0" * 64)
    assert chain.bad() == 5


def test_checkpoints_go_with_the_records_that_they_sign() -> None:
    chain = Chain(3)
    chain.sign()
    chain.grow(3)
    chain.sign(Place(3, chain.tx.audit.hash_at(3) or ""))
    chain.tx.audit.acknowledge(4)
    chain.tx.audit.prune(4, 100)
    assert [seq for _, seq, _ in chain.tx.audit.checkpoints(0, 100, 10)] == [6]
    assert chain.bad() is None


def test_the_anchor_is_part_of_the_chain() -> None:
    chain = Chain(5)
    chain.tx.audit.acknowledge(3)
    chain.tx.audit.prune(3, 10)
    chain.connection.execute("DROP TRIGGER audit_state_forward")
    chain.connection.execute("UPDATE audit_state SET pruned_hash = ?", ("1" * 64,))
    assert chain.bad() == 4


# --- what somebody does past the program


READ = "SELECT CAST({} AS BLOB) FROM audit_records WHERE seq = ?"
WRITE = "UPDATE audit_records SET {} = CAST(? AS TEXT) WHERE seq = ?"
COLUMNS = ("kind", "at", "actor", "subject", "detail_json", "prev_hash", "hash")


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(
    "change",
    [
        lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 0x80]),
        lambda raw: raw[:-1],
        lambda raw: raw + b" ",
        lambda raw: b"",
        lambda raw: raw.replace(raw[-1:], b"\xff"),
    ],
)
@pytest.mark.parametrize("seq", [1, 4, 7])
def test_a_flipped_byte_is_found_at_its_record(
    column: str, change: Callable[[bytes], bytes], seq: int
) -> None:
    chain = Chain(7)
    raw = chain.connection.execute(READ.format(column), (seq,)).get
    chain.force(WRITE.format(column), change(raw), seq)
    assert chain.bad(rows=3) == seq
    assert chain.tx.audit.page(AuditQuery(limit=10))[-seq].seq == seq, "it can still be listed"
    assert chain.append("control.kill") == 8, "and orders can still be recorded"
    assert chain.bad() == seq


@pytest.mark.parametrize(
    ("sql", "bad"),
    [
        ("DELETE FROM audit_records WHERE seq = 3", 3),
        ("DELETE FROM audit_records WHERE seq < 3", 1),
        ("UPDATE audit_records SET seq = 99 WHERE seq = 7", 7),
        (SWAP, 3),
        (COPY.format(seq=8, prev="hash"), 8),
        (COPY.format(seq=9, prev="prev_hash"), 8),
    ],
)
def test_records_taken_away_moved_or_put_in_are_found(sql: str, bad: int) -> None:
    chain = Chain(7)
    chain.force(sql)
    assert chain.bad() == bad
    assert chain.bad(rows=2) == bad


def forged(chain: Chain, after: int) -> None:
    """All records behind one are written anew, with hashes that fit."""
    chain.force("DELETE FROM audit_records WHERE seq > ?", after)
    chain.grow(10 - after, actor="nobody")


@pytest.mark.parametrize("after", range(10))
def test_a_rewritten_chain_is_found_by_the_checkpoint_behind(after: int) -> None:
    chain = Chain(8)
    chain.sign()
    chain.grow(2)
    forged(chain, after)
    assert chain.bad() == (8 if after < 8 else None)


@pytest.mark.parametrize("left", range(10))
def test_a_cut_tail_is_found_as_long_as_a_checkpoint_signed_it(left: int) -> None:
    chain = Chain(8)
    note = chain.sign()
    chain.grow(2)
    chain.force("DELETE FROM audit_records WHERE seq > ?", left)
    expected = left + 1 if left < 8 else None
    assert chain.bad() == expected, "by the checkpoint of the table"
    chain.connection.execute("DELETE FROM audit_checkpoints")
    assert chain.bad() is None
    assert chain.bad(file_note=note) == expected, "by the one of the file"


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda note: note.replace("\n8\n", "\n7\n"), 8),
        (lambda note: note[:-3] + "A\n", 8),
        (lambda note: "", 8),
        (lambda note: note.replace("—", "-"), 8),
    ],
)
def test_a_changed_checkpoint_is_found(change: Callable[[str], str], bad: int) -> None:
    chain = Chain(8)
    note = chain.sign()
    chain.force("UPDATE audit_checkpoints SET note = ?", change(note))
    assert chain.bad() == bad
    assert Chain(8).bad(file_note=change(note)) == bad


def test_a_checkpoint_that_was_moved_is_found() -> None:
    chain = Chain(8)
    chain.sign()
    chain.force("UPDATE audit_checkpoints SET seq = 5")
    assert chain.bad() == 5


def test_checkpoints_of_another_key_are_counted_and_still_held_against_the_chain() -> None:
    chain = Chain(4)
    head = chain.tx.audit.head()
    chain.tx.audit.keep_checkpoint(4, note_of(head, OTHER_SEED))
    found = chain.verify()
    assert (found.bad, found.checkpoints, found.other_keys) == (None, 1, 1)
    statement = roll_over(
        Keys(seed=OTHER_SEED, public=OTHER_KEY, host=""), Keys(seed=SEED, public=KEY, host=""), AT
    )
    chain.tx.identity.keep_rollover(old_key="ed25519:o", new_key="ed25519:n", statement=statement.text)
    assert chain.verify().other_keys == 0
    chain.tx.audit.keep_checkpoint(4, note_of(Place(4, "1" * 64), OTHER_SEED))
    assert chain.bad() == 4


def test_many_checkpoints_are_all_looked_at() -> None:
    chain = Chain(3)
    for _ in range(2_500):
        chain.tx.audit.keep_checkpoint(2, note_of(Place(2, chain.tx.audit.hash_at(2) or "")))
    chain.tx.audit.keep_checkpoint(3, note_of(Place(3, "1" * 64)))
    assert chain.bad() == 3


# --- signing, noting, marking


def test_nothing_is_signed_over_a_break() -> None:
    chain = Chain(5)
    chain.force("UPDATE audit_records SET actor = 'x' WHERE seq = 4")
    found = sign_head(chain.tx, BEGINNING, IDENTITY, AT)
    assert isinstance(found, Found)
    assert found.at.seq == 4
    assert chain.tx.audit.newest_checkpoint() is None


def test_records_that_were_exchanged_since_are_noticed() -> None:
    chain = Chain(5)
    seen = chain.tx.audit.head()
    forged(chain, 2)
    _, bad, _ = walk_on(chain.tx, seen, 100)
    assert bad == Break(5, "record 5 was another one a while ago")
    chain.connection.execute("DELETE FROM audit_records WHERE seq > 3")
    _, bad, _ = walk_on(chain.tx, seen, 100)
    assert bad == Break(4, "records 4 to 5 are gone; they were there a while ago")


def test_a_break_is_noted_once_recorded_and_named_for_ever() -> None:
    chain = Chain(4)
    note = chain.sign()
    chain.force("DELETE FROM audit_records WHERE seq > 2")
    found = look(chain.tx, note, IDENTITY).found
    assert [one.at.seq for one in found] == [3]
    assert note_break(chain.tx, found[0], AT) is True
    assert note_break(chain.tx, look(chain.tx, note, IDENTITY).found[0], AT) is False
    assert note_break(chain.tx, Found(found[0].at), AT) is False
    (record,) = chain.tx.audit.latest("audit.broken", 10)
    assert (record.seq, record.actor, record.detail["seq"]) == (3, "node", 3)
    assert chain.bad() == 3
    chain.connection.execute("DELETE FROM audit_checkpoints")
    assert chain.bad() == 3, "by what was noted"
    chain.tx.audit.accept_breaks(at="2026-11-20T12:00:00.000Z", by="uid:0")
    assert chain.bad() == 3, "accepted, not mended"


def test_orders_are_marked_while_a_break_is_open_and_nothing_else_is() -> None:
    chain = Chain(2)
    note_break(chain.tx, Found(Break(2, "x")), AT)
    chain.append("control.spawn", detail={"agent": "a"})
    chain.append("backup.made", detail={"bytes": 1})
    chain.tx.audit.accept_breaks(at="2026-11-20T12:00:00.000Z", by="uid:0")
    chain.append("control.spawn", detail={"agent": "a"})
    details = [dict(record.detail) for record in chain.tx.audit.records(3, 10)]
    assert details == [{"agent": "a", "audit_broken": 2}, {"bytes": 1}, {"agent": "a"}]


def test_a_restored_chain_explains_the_checkpoint_that_it_replaced_and_no_other() -> None:
    longer = Chain(9)
    note = longer.sign()
    chain = Chain(5)
    former = checkpoint_of(longer.tx.audit.head())
    entry = restored_entry(at=AT, actor="uid:0", made_at="2026-11-19", records=5, former=former)
    assert [one.at.seq for one in look(chain.tx, note, IDENTITY).found] == [6]
    chain.tx.audit.append(entry)
    seen = look(chain.tx, note, IDENTITY)
    assert (seen.found, seen.replaced) == ((), True)
    assert chain.bad(file_note=note) is None
    longer.grow(1)
    assert chain.bad(file_note=longer.sign()) == 7, "only the one that was there at the restore"
    assert chain.tx.audit.latest(RESTORED, 5)[0].detail["former_seq"] == 9


def test_a_look_knows_where_to_go_on() -> None:
    chain = Chain(6)
    first = chain.sign()
    chain.grow(2)
    seen = look(chain.tx, first, IDENTITY)
    assert (seen.place.seq, seen.signed, seen.known, seen.found) == (6, 6, True, ())
    assert seen.signer == KEY
    assert look(Chain().tx, None, IDENTITY).place == BEGINNING
    other = look(chain.tx, note_of(chain.tx.audit.head(), OTHER_SEED), IDENTITY)
    assert (other.known, other.signed) == (False, 8)


# --- listing


def test_records_are_listed_newest_first_by_kind_actor_and_time() -> None:
    chain = Chain(3)
    chain.append("control.kill.refused", seconds=10)
    chain.append("controller", seconds=11)
    chain.append("backup.made", seconds=12, actor="node")

    def seqs(**query: Any) -> list[int]:
        return [record.seq for record in chain.tx.audit.page(AuditQuery(**query))]

    assert seqs() == [6, 5, 4, 3, 2, 1]
    assert seqs(kind="control") == [4, 3, 2, 1]
    assert seqs(kind="control.kill", limit=2) == [4, 3]
    assert seqs(kind="control.kill", limit=2, before=3) == [2, 1]
    assert seqs(actor="node") == [6]
    assert seqs(since=AT + timedelta(seconds=3), until=AT + timedelta(seconds=12)) == [5, 4, 3]
    assert seqs(kind="' OR 1=1 --") == []


@pytest.mark.parametrize(
    "damage",
    [
        "detail_json = CAST(x'7b2261223a22ff227d' AS TEXT)",
        f"detail_json = '{{\"a\":{'[' * 6000}{']' * 6000}}}'",
        "detail_json = 'no'",
        "detail_json = '[]'",
        "at = 'yesterday'",
        "at = CAST(x'ff' AS TEXT)",
        "actor = CAST(x'ff' AS TEXT)",
        "subject = CAST(x'00ff' AS TEXT)",
    ],
)
def test_a_damaged_record_is_shown_as_far_as_it_can_be_and_stops_nobody(damage: str) -> None:
    chain = Chain(2)
    chain.append(RESTORED, detail={"former_seq": 1, "former_hash": "x"})
    chain.append(RESTORED, detail={"former_seq": 2, "former_hash": "x"})
    chain.force(f"UPDATE audit_records SET {damage} WHERE seq = 4")  # noqa: S608 - constants
    assert [record.seq for record in chain.tx.audit.page(AuditQuery())] == [4, 3, 2, 1]
    assert [record.seq for record in chain.tx.audit.latest(RESTORED, 2)] == [4, 3]
    assert [line.seq for line in chain.tx.activity.latest(RESTORED, 2)] == [4, 3]
    assert chain.bad() == 4


def test_a_key_is_followed_once() -> None:
    chain = Chain()
    keep = chain.tx.identity.keep_rollover
    assert keep(old_key="ed25519:a", new_key="ed25519:b", statement="s") is True
    assert keep(old_key="ed25519:a", new_key="ed25519:b", statement="s") is False
    with pytest.raises(ValueError, match="rollover"):
        keep(old_key="ed25519:c", new_key="ed25519:b", statement="t")
    assert chain.tx.identity.rollovers() == ["s"]
