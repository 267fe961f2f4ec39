"""The audit chain as a whole: pages, verification in stretches, checkpoints, breaks, pruning."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ambientd.core.audit import (
    BROKEN,
    RESTORED,
    AuditQuery,
    AuditRecord,
    Break,
    KnownBreak,
    Place,
    Walk,
)
from ambientd.core.auditcheck import explains, first, judge, read_genuine
from ambientd.core.checkpoint import ORIGIN, Checkpoint, build_note
from ambientd.core.identity import parse_rollover, vouched
from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms
from ambientd.ports.clock import Clock
from ambientd.ports.errors import UnavailableError
from ambientd.ports.identity import IdentityControl
from ambientd.ports.store import Store, Transaction
from ambientd.wire.audit_messages import (
    AuditAcceptAnswer,
    AuditBreakView,
    AuditPage,
    AuditRecordView,
    AuditStretchView,
)
from ambientd.wire.audit_routes import STRETCH_MAX

if TYPE_CHECKING:
    from ambientd.ports.audit import CheckpointFile

ACTOR = "node"
NODE = "node"
_END = 2**62  # past every number
_CHECKPOINTS = 1_000  # read at a time
_RESTORES = 20  # the newest ones: each explains the one checkpoint that it replaced
PRUNE_BATCH = 500


class Auditing(msgspec.Struct, frozen=True, kw_only=True):
    """What the use cases need, given once."""

    store: Store
    clock: Clock
    identity: IdentityControl
    file: CheckpointFile


# --- reading


def parse_page(query: Mapping[str, str], *, limit: int) -> AuditQuery | Rejected:
    """The query of a list; times are RFC 3339."""
    problems: list[tuple[str, str, str]] = []
    since, until = (_instant(query, name, problems) for name in ("since", "until"))
    if problems:
        return reject("VALIDATION_ERROR", "the query is not valid", *problems)
    before = query.get("after")
    return AuditQuery(
        kind=query.get("kind") or None,
        actor=query.get("actor") or None,
        since=since,
        until=until,
        before=None if before is None else int(before),
        limit=limit,
    )


def _instant(query: Mapping[str, str], name: str, problems: list[tuple[str, str, str]]) -> datetime | None:
    text = query.get(name)
    try:
        return parse_rfc3339(text) if text else None
    except ValueError:
        problems.append((name, "format", "must be RFC 3339 with an offset"))
        return None


async def list_records(store: Store, query: AuditQuery) -> AuditPage:
    """A page, newest first. Raises what `Store.read` raises."""

    def work(tx: Transaction) -> AuditPage:
        found = tx.audit.page(msgspec.structs.replace(query, limit=query.limit + 1))
        state = tx.audit.state()
        rows = [view_of(record) for record in found[: query.limit]]
        return AuditPage(
            rows=rows,
            head_seq=tx.audit.head().seq,
            pruned_seq=state.pruned.seq,
            acknowledged_seq=state.acknowledged_seq,
            next=str(rows[-1].seq) if len(found) > query.limit else None,
        )

    return await store.read(work)


def view_of(record: AuditRecord) -> AuditRecordView:
    """A record as it goes out."""
    return AuditRecordView(
        seq=record.seq,
        kind=record.kind,
        at=record.at,
        actor=record.actor,
        subject=record.subject,
        detail=dict(record.detail),
        prev_hash=record.prev_hash,
        hash=record.hash,
    )


# --- verification


class Stretch(NamedTuple):
    """What one stretch of a verification came to; `place` is the last record that held. `own` says that it
    began at a place of this chain, so that a break is one of the chain and not of what somebody asked."""

    place: Place
    checked: int
    checkpoints: int
    other_keys: int
    ended: bool
    head: int
    pruned: int
    bad: Break | None
    own: bool

    @property
    def view(self) -> AuditStretchView:
        """As it goes out."""
        bad = None if self.bad is None else AuditBreakView(seq=self.bad.seq, reason=self.bad.reason)
        return AuditStretchView(
            after=self.place.seq,
            hash=self.place.hash,
            checked=self.checked,
            checkpoints=self.checkpoints,
            other_keys=self.other_keys,
            ended=self.ended,
            head_seq=self.head,
            pruned_seq=self.pruned,
            bad=bad,
        )


def own_keys(tx: Transaction, current: bytes | None) -> frozenset[bytes]:
    """The node's key and those that it followed; none when it is not known."""
    if current is None:
        return frozenset()
    found = (parse_rollover(text) for text in tx.identity.rollovers())
    return vouched(current, [rollover for rollover in found if rollover is not None])


def verify_stretch(
    tx: Transaction,
    start: Place,
    *,
    keys: Collection[bytes],
    rows: int = STRETCH_MAX,
    file_note: str | None = None,
) -> Stretch:
    """Checks up to `rows` records behind `start`, and every checkpoint for them.

    With the last of them, also what tells of records that are missing at the end: later checkpoints, the
    one in the file, and breaks that were noted. `start` before the anchor begins at the anchor.
    """
    state, head = tx.audit.state(), tx.audit.head().seq
    begin = start if start.seq > state.pruned.seq else state.pruned
    records = tx.audit.stored(begin.seq, rows)
    walk = Walk(begin)
    bad = walk.take(records)
    ended = bad is not None or len(records) < rows
    hashes = {begin.seq: begin.hash, **{record.seq: record.hash for record in records}}
    upto = _END if ended and bad is None else walk.place.seq
    checkpoints, others, contradiction = _judge_table(tx, begin.seq, upto, hashes, head, keys)
    found = [bad, contradiction]
    if ended:
        known = tx.audit.breaks()
        notes = [noted.note for noted in known if noted.note is not None]
        found += [Break(noted.seq, noted.reason) for noted in known if noted.seq > state.pruned.seq]
        found += [_judge_note(tx, note, head, keys) for note in (*notes, file_note) if note is not None]
    return Stretch(
        place=walk.place,
        checked=walk.place.seq - begin.seq,
        checkpoints=checkpoints,
        other_keys=others,
        ended=ended or contradiction is not None,
        head=head,
        pruned=state.pruned.seq,
        bad=first(found),
        own=begin == state.pruned or tx.audit.hash_at(begin.seq) == begin.hash,
    )


def _judge_table(
    tx: Transaction, after: int, upto: int, hashes: dict[int, str], head: int, keys: Collection[bytes]
) -> tuple[int, int, Break | None]:
    count = others = 0
    place = after - 1  # the checkpoint of the place itself may have come later
    while found := tx.audit.checkpoints(place, upto, _CHECKPOINTS):
        for _, seq, note in found:
            verdict = judge(note, seq=seq, hashes=hashes, head=head, keys=keys)
            if verdict.bad is not None:
                return count, others, verdict.bad
            count += seq > after
            others += seq > after and not verdict.known
        place = found[-1][1]
    return count, others, None


def _judge_note(tx: Transaction, note: str, head: int, keys: Collection[bytes]) -> Break | None:
    signed = read_genuine(note)
    if isinstance(signed, str):
        return Break(max(head, 1), signed)
    seq = signed.checkpoint.seq
    if seq < tx.audit.state().pruned.seq:
        return None
    found = tx.audit.hash_at(seq)
    hashes = {} if found is None else {seq: found}
    bad = judge(note, seq=None, hashes=hashes, head=head, keys=keys).bad
    if bad is not None and explains(tx.audit.latest(RESTORED, _RESTORES), signed.checkpoint):
        return None
    return bad


async def verify(auditing: Auditing, start: Place, *, rows: int) -> Stretch:
    """One stretch of a verification. Raises what `Store.read` raises, and UnavailableError while the file of
    the checkpoint cannot be read."""
    identity = auditing.identity
    try:
        note = await auditing.file.read()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise UnavailableError(f"the file of the last checkpoint cannot be read: {why}") from None

    def work(tx: Transaction) -> Stretch:
        return verify_stretch(tx, start, keys=own_keys(tx, identity.known_key), rows=rows, file_note=note)

    return await auditing.store.read(work)


# --- a look at the newest checkpoints


class Found(NamedTuple):
    """A break, and the checkpoint that shows it, if one does."""

    at: Break
    note: str | None = None


class Look(NamedTuple):
    """What the newest checkpoints say. The chain holds up to `place` as far as they tell; `signed` is the
    last record under one, by `signer`. `replaced`: the file is of the chain that a backup has replaced."""

    place: Place
    signed: int
    signer: bytes | None
    own: bytes | None
    known: bool
    replaced: bool
    found: tuple[Found, ...]
    breaks: tuple[KnownBreak, ...]
    pruned: int
    acknowledged: int


def look(
    tx: Transaction, file_note: str | None, identity: IdentityControl, *, opened: int | None = None
) -> Look:
    """Holds the newest checkpoint of the table and the one of the file against the records they sign.

    `opened` is where the chain ended before this process wrote to it: what it has appended since does not
    stand in for records that were missing by then.
    """
    state, head = tx.audit.state(), tx.audit.head().seq
    head = head if opened is None else min(head, opened)
    newest = tx.audit.newest_checkpoint()
    notes = [note for note in (file_note, newest[1] if newest else None) if note is not None]
    current = identity.known_key if notes else None  # the key's library is loaded where it is needed
    keys = own_keys(tx, current)
    place, signed, signer, replaced, found = state.pruned, 0, None, False, []
    for note in dict.fromkeys(notes):
        bad = _judge_note(tx, note, head, keys)
        read = read_genuine(note)
        if bad is not None:
            found.append(Found(bad, note))
        elif not isinstance(read, str):
            checkpoint = read.checkpoint
            if checkpoint.seq >= state.pruned.seq and tx.audit.hash_at(checkpoint.seq) != checkpoint.hash:
                replaced = True  # explained by a restored backup
            elif checkpoint.seq >= signed:
                signed, signer = checkpoint.seq, read.key
                place = max(place, checkpoint.place, key=lambda one: one.seq)
    return Look(
        place=place,
        signed=signed,
        signer=signer,
        own=current,
        known=signer is None or signer in keys or current is None,
        replaced=replaced,
        found=tuple(found),
        breaks=tuple(tx.audit.breaks()),
        pruned=state.pruned.seq,
        acknowledged=state.acknowledged_seq,
    )


def walk_on(tx: Transaction, place: Place, rows: int) -> tuple[Place, Break | None, bool]:
    """Checks up to `rows` records behind a place: the new place, a break, and whether that was the end."""
    head = tx.audit.head()
    if head.seq < place.seq:
        text = f"records {head.seq + 1} to {place.seq} are gone; they were there a while ago"
        return place, Break(head.seq + 1, text), True
    if tx.audit.hash_at(place.seq) not in (place.hash, None) and place.seq > 0:
        return place, Break(place.seq, f"record {place.seq} was another one a while ago"), True
    walk = Walk(place)
    records = tx.audit.stored(place.seq, rows)
    bad = walk.take(records)
    return walk.place, bad, bad is not None or len(records) < rows


# --- checkpoints


class Signed(NamedTuple):
    """A checkpoint that was made: its record and its note."""

    place: Place
    note: str


def sign_head(
    tx: Transaction, place: Place, identity: IdentityControl, at: datetime
) -> Signed | Found | None:
    """Signs the head after a check of the records behind `place`; a break is found instead of signed.

    None when too many records are behind the place for one write: walk on first. Raises IdentityError.
    """
    reached, bad, ended = walk_on(tx, place, STRETCH_MAX)
    if bad is not None:
        return Found(bad)
    if not ended:
        return None
    checkpoint = Checkpoint(
        origin=ORIGIN + identity.host_id.removeprefix("sha256:"),
        seq=reached.seq,
        hash=reached.hash,
        at=rfc3339_ms(at),
    )
    note = build_note(checkpoint, identity.public_key, identity.sign)
    tx.audit.keep_checkpoint(reached.seq, note)
    return Signed(reached, note)


# --- breaks


def note_break(tx: Transaction, found: Found, at: datetime) -> bool:
    """Notes a break and records it in the chain, which goes on behind it; False for one that is known."""
    if not tx.audit.note_break(found.at, found_at=rfc3339_ms(at), note=found.note):
        return False
    detail = {"seq": found.at.seq, "reason": found.at.reason}
    tx.audit.append(AuditEntry(kind=BROKEN, at=at, actor=ACTOR, subject=NODE, detail=detail))
    return True


async def accept(auditing: Auditing, *, actor: str) -> AuditAcceptAnswer:
    """Marks the open breaks as looked into: they are no problem of this moment any more, while every
    verification goes on to name them. Raises what `Store.write` raises."""
    at = auditing.clock.now()

    def work(tx: Transaction) -> tuple[list[KnownBreak], int | None]:
        breaks = tx.audit.accept_breaks(at=rfc3339_ms(at), by=actor)
        if not breaks:
            return [], None
        detail = {"breaks": [one.seq for one in breaks]}
        entry = AuditEntry(kind="audit.accepted", at=at, actor=actor, subject=NODE, detail=detail)
        return breaks, tx.audit.append(entry)

    breaks, audit_id = await auditing.store.write(work)
    views = [
        AuditBreakView(
            seq=one.seq,
            reason=one.reason,
            found_at=one.found_at,
            accepted_at=rfc3339_ms(at),
            accepted_by=actor,
        )
        for one in breaks
    ]
    return AuditAcceptAnswer(breaks=views, audit_id=audit_id)


# --- pruning


async def prune(store: Store, upto: int, *, rest: Callable[[], Awaitable[None]]) -> int:
    """Removes acknowledged records up to a number, in small writes with a rest between; returns how many.

    The chain goes on. Raises ValueError for records that nobody has acknowledged, and what `Store.write`
    raises; what was removed until then stays removed.
    """
    removed = 0
    while count := await store.write(lambda tx: tx.audit.prune(upto, PRUNE_BATCH)):
        removed += count
        await rest()
    return removed


def restored_entry(
    *, at: datetime, actor: str, made_at: str, records: int, former: Checkpoint | None
) -> AuditEntry:
    """The record that an older chain was put in the place of the one that was there."""
    detail: dict[str, object] = {"made_at": made_at, "records": records}
    if former is not None:
        detail |= {"former_seq": former.seq, "former_hash": former.hash, "former_at": former.at}
    return AuditEntry(kind=RESTORED, at=at, actor=actor, subject=NODE, detail=detail)
