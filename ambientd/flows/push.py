"""One step of each stream to the control plane: a batch goes out, and is forgotten only after the answer.

Every step may be repeated: what was sent and not acknowledged is sent again under the same numbers.
"""

from collections.abc import Sequence

import msgspec

from ambientd.core.audit import AuditRecord
from ambientd.core.controlreply import number_in, words_of
from ambientd.core.outbox import Meaning, Reply, confirmed, is_number, meaning_of, too_many
from ambientd.core.outboxrecords import DeltaVWindow, Depth, Flight, KeptReport, LedgerItem
from ambientd.core.pushbodies import audit_body, delta_v_body, ledger_bodies, numbered, reports_body
from ambientd.core.records import AuditEntry
from ambientd.core.timefmt import to_ms
from ambientd.ports.clock import Clock
from ambientd.ports.controlplane import ControlCalls
from ambientd.ports.store import Store, Transaction
from ambientd.wire.fleet_api_messages import HeartbeatAnswer, NodeInfo, ReportsAnswer
from ambientd.wire.fleet_push_messages import AuditAnswer, StreamAnswer, StreamsAnswer
from ambientd.wire.outbox_enums import OutboxStream

AUDIT_BATCH = 500
REPORTS_BATCH = 500  # as many as the control plane takes at once
WINDOWS_BATCH = 1000
SESSIONS_BATCH = 200
EVENTS_BATCH = 2000
HISTORY_BATCH = 500  # noted in one write
# What a batch of the ledger may have; the control plane takes four.
BODY_MAX = 3 * 1024 * 1024
MINUTE_MS = 60_000
PUT_BACK = "control_plane.put_back"
# What was sampled in a minute is written by the end of the next one; what was told is not told again.
SETTLED_MS = 60_000


class Pushing(msgspec.Struct, frozen=True, kw_only=True):
    """What the steps need. `base` is the path of this node, `/api/v1/nodes/<id>`; `small` halves batches
    while the way takes no large ones (0: as large as allowed)."""

    store: Store
    calls: ControlCalls
    clock: Clock
    base: str
    small: int = 0

    def batch(self, most: int) -> int:
        """How many records go at once."""
        return max(1, most >> self.small)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step came to: records that are durable there now, or the answer that says why not.

    `again`: the step changed what will be sent, so the same stream may go on at once. `blocked`: smaller
    batches would not help either.
    """

    moved: int = 0
    meaning: Meaning = Meaning.DONE
    reply: Reply | None = None
    text: str = ""
    again: bool = False
    blocked: bool = False


NOTHING = Step()


def failed(reply: Reply, *, again: bool = False) -> Step:
    return Step(meaning=meaning_of(reply), reply=reply, text=words_of(reply), again=again)


def _wrong(text: str) -> Step:
    """An answer that proves nothing: as if there had been none."""
    return Step(meaning=Meaning.AGAIN, text=text)


# --- where the control plane stands


async def align(pushing: Pushing) -> Step:
    """Asks how far the control plane is, which may have been put back, as this node may.

    Numbers that it has are not used again; what it has lost waits again.
    """
    node = await pushing.calls.read(pushing.base, NodeInfo)
    if isinstance(node, Reply):
        return failed(node)
    streams = await pushing.calls.read(f"{pushing.base}/streams", StreamsAnswer)
    if isinstance(streams, Reply):
        return failed(streams)
    there = {view.stream: view.acked_seq for view in streams.streams}
    if not is_number(node.report_seq, *there.values()):
        return _wrong("its numbers are none of this node's")

    def work(tx: Transaction) -> list[str]:
        lost = _reports_lost(tx, pushing, node.report_seq)
        tx.outbox.jump(OutboxStream.REPORTS, node.report_seq)
        # Further on than this node believes is looked into when records are sent: it must be the same chain.
        found = [_go_back(tx, pushing, OutboxStream.AUDIT, there.get(OutboxStream.AUDIT.value, 0))]
        for stream in (OutboxStream.LEDGER, OutboxStream.DELTA_V):
            acked = there.get(stream.value, 0)
            found.append(_go_back(tx, pushing, stream, acked))
            tx.outbox.jump(stream, acked)
        return [one for one in (lost, *found) if one is not None]

    return Step(text="; ".join(await pushing.store.write(work)))


def _reports_lost(tx: Transaction, pushing: Pushing, there: int) -> str | None:
    """Reports that the control plane had and has lost lie nowhere any more, but for those that were not
    removed yet: they are counted as dropped, those of a second loss at the most."""
    stream = tx.outbox.stream(OutboxStream.REPORTS)
    before = stream.acked_seq
    if there >= before:
        return None
    kept = sum(there < mark.seq <= before for mark in tx.outbox.report_marks())
    # Some of the numbers may have been dropped or refused, and were never known there.
    lost = min(before - there - kept, stream.acknowledged)
    tx.outbox.count(OutboxStream.REPORTS, acknowledged=-lost, dropped=lost)
    return _go_back(tx, pushing, OutboxStream.REPORTS, there, lost=lost)


def _go_back(tx: Transaction, pushing: Pushing, stream: OutboxStream, there: int, **more: int) -> str | None:
    """What the control plane had and has no more waits again. Recorded: its database is an older copy, which
    may have lost what this node cannot tell again. In words; None when it has lost nothing."""
    before = tx.outbox.stream(stream).acked_seq
    if there >= before:
        return None
    if stream is OutboxStream.AUDIT:
        pruned = tx.audit.state().pruned.seq
        more = {"removed_here": pruned - there} if pruned > there else {}
        tx.outbox.go_back(stream, max(there, pruned))
    else:
        tx.outbox.go_back(stream, there)
    tx.audit.append(
        AuditEntry(
            kind=PUT_BACK,
            at=pushing.clock.now(),
            actor="node",
            subject=stream.value,
            detail={"there": there, "acknowledged": before, **more},
        )
    )
    return f"{stream.value} is known there up to {there}, not {before}"


async def note_put_back(pushing: Pushing, there: int) -> str:
    """Whether the control plane has lost reports that it had, by the last number that it knew before the one
    that it was told just now: then its database is an older copy. What is lost, in words; empty for nothing.
    """
    acked = await pushing.store.read(lambda tx: tx.outbox.stream(OutboxStream.REPORTS).acked_seq)
    if there >= acked:
        return ""
    return await pushing.store.write(lambda tx: _reports_lost(tx, pushing, there)) or ""


# --- reports


async def send_report(pushing: Pushing, report: KeptReport) -> HeartbeatAnswer | Step:
    """The newest report; its answer says what work this node has."""
    answer = await pushing.calls.change("PUT", f"{pushing.base}/heartbeat", numbered(report), HeartbeatAnswer)
    if not isinstance(answer, Reply):
        return answer
    if meaning_of(answer) is Meaning.REFUSED:
        await _refuse_reports(pushing.store, [report.seq])
    return failed(answer)


async def send_old_reports(pushing: Pushing, done: frozenset[int]) -> Step:
    """Reports that waited, oldest first; `done` were acknowledged and are just not removed yet."""
    wanted = pushing.batch(REPORTS_BATCH)
    found = await pushing.store.read(lambda tx: tx.outbox.reports(0, wanted + len(done)))
    reports = [report for report in found if report.seq not in done][:wanted]
    if not reports:
        return NOTHING
    numbers = [report.seq for report in reports]
    body = reports_body(reports)
    answer = await pushing.calls.change("POST", f"{pushing.base}/reports", body, ReportsAnswer)
    if isinstance(answer, Reply):
        if meaning_of(answer) is Meaning.REFUSED and len(numbers) == 1:
            await _refuse_reports(pushing.store, numbers)
            return failed(answer, again=True)
        return failed(answer)
    acked = confirmed(numbers, answer.acked_seq, numbers[-1])
    if acked is None or acked < numbers[0]:
        return _wrong(f"it confirmed report {answer.acked_seq}, which was not sent")
    durable = [number for number in numbers if number <= acked]
    moved = await pushing.store.write(lambda tx: tx.outbox.acknowledge_reports(durable))
    return Step(moved=moved)


async def _refuse_reports(store: Store, numbers: Sequence[int]) -> None:
    def work(tx: Transaction) -> None:
        gone = tx.outbox.acknowledge_reports(numbers)
        tx.outbox.count(OutboxStream.REPORTS, acknowledged=-gone, refused=gone)

    await store.write(work)


def keep_report(
    tx: Transaction, at_ms: int, priority: int, body: bytes, *, done: Sequence[int], bytes_max: int
) -> KeptReport:
    """Keeps a report, removes those that were acknowledged, and makes room if there is none."""
    if done:
        tx.outbox.acknowledge_reports(done)
    seq = tx.outbox.add_report(at_ms, priority, body)
    count, size = tx.outbox.report_bytes()
    if count > 1 and size > bytes_max:
        tx.outbox.drop_reports(too_many(tx.outbox.report_marks(), bytes_max=bytes_max))
    return KeptReport(seq=seq, at_ms=at_ms, priority=priority, body=body)


# --- audit


async def send_audit(pushing: Pushing) -> Step:
    """The next records of the chain, in order."""

    def look(tx: Transaction) -> tuple[int, int, list[AuditRecord]]:
        acked = tx.outbox.stream(OutboxStream.AUDIT).acked_seq
        return acked, tx.audit.head().seq, tx.audit.records(acked, pushing.batch(AUDIT_BATCH))

    acked, head, records = await pushing.store.read(look)
    if not records:
        return NOTHING
    if records[0].seq != acked + 1:
        text = f"records {acked + 1} to {records[0].seq - 1} were removed before they were told"
        return Step(meaning=Meaning.REFUSED, text=text, blocked=True)
    answer = await pushing.calls.change("POST", f"{pushing.base}/audit", audit_body(records), AuditAnswer)
    if isinstance(answer, Reply):
        if meaning_of(answer) is Meaning.BEHIND:
            return await _meet_chain(pushing, answer)
        return failed(answer)
    seq = confirmed([record.seq for record in records], answer.acked_seq, head)
    if seq is None or seq < records[0].seq:
        return _wrong(f"it confirmed audit record {answer.acked_seq}, which was not sent")
    if seq == answer.acked_seq and answer.head_hash != records[seq - records[0].seq].hash:
        return _wrong("it confirmed an audit record that is not this node's")
    await _acknowledge_audit(pushing.store, seq)
    return Step(moved=seq - acked)


async def _acknowledge_audit(store: Store, seq: int) -> None:
    def work(tx: Transaction) -> None:
        tx.outbox.acknowledge_audit(seq)
        tx.audit.acknowledge(seq)

    await store.write(work)


async def _meet_chain(pushing: Pushing, reply: Reply) -> Step:
    """The control plane's chain of this node ends elsewhere: goes on there if it is the same chain."""
    head, digest = number_in(reply, "head_seq"), reply.details.get("head_hash", "")
    if head is None:
        return failed(reply)

    def work(tx: Transaction) -> str:
        acked = tx.outbox.stream(OutboxStream.AUDIT).acked_seq
        pruned = tx.audit.state().pruned.seq
        if head < pruned:
            return f"audit records {head + 1} to {pruned} are neither here nor at the control plane"
        if head != 0 and tx.audit.hash_at(head) != digest:
            return f"the control plane has another audit chain of this node (record {head})"
        if head == acked:
            return "the control plane refuses the next audit record"
        if head > acked:
            tx.outbox.acknowledge_audit(head)
            tx.audit.acknowledge(head)
        else:
            _go_back(tx, pushing, OutboxStream.AUDIT, head)
        return ""

    trouble = await pushing.store.write(work)
    if not trouble:
        return Step(meaning=Meaning.BEHIND, reply=reply, again=True)
    return Step(meaning=Meaning.REFUSED, reply=reply, text=trouble, blocked=True)


# --- the ledger


async def send_ledger(pushing: Pushing) -> Step:
    """What is new of sessions, with their events and usage."""

    after, items, fresh = await pushing.store.write(lambda tx: _next_items(tx, pushing))
    if not items:
        return NOTHING
    body, sent = ledger_bodies(after, items, bytes_max=BODY_MAX >> pushing.small)
    answer = await pushing.calls.change("POST", f"{pushing.base}/ledger", body, StreamAnswer)
    if isinstance(answer, Reply):
        return await _ledger_refused(pushing, sent, answer)
    acked = confirmed([item.flight.seq for item in sent], answer.acked_seq, items[-1].flight.seq)
    if acked is None:
        return _wrong(f"it confirmed ledger record {answer.acked_seq}, which was not sent")
    if acked < sent[0].flight.seq:
        return _wrong(f"it confirmed no ledger record behind {answer.acked_seq}")
    if fresh and answer.duplicates:
        # Numbers that were never sent are known there: another copy of this node counts as well. What was
        # sent with them was taken for its records, and goes once more behind those.
        taken = max(answer.acked_seq, sent[-1].flight.seq)
        await pushing.store.write(lambda tx: tx.outbox.jump(OutboxStream.LEDGER, taken))
        return Step(meaning=Meaning.BEHIND, text="another copy of this node uses its numbers", again=True)
    mine = {item.flight.seq for item in sent}
    left_out = len(mine.intersection(record.seq for record in answer.left_out if record.seq <= acked))

    def done(tx: Transaction) -> int:
        moved = tx.outbox.acknowledge_ledger(acked)
        if left_out:
            tx.outbox.count(OutboxStream.LEDGER, acknowledged=-left_out, refused=left_out)
        return moved - left_out

    return Step(moved=await pushing.store.write(done))


def _next_items(tx: Transaction, pushing: Pushing) -> tuple[int, list[LedgerItem], bool]:
    """The last number that is durable there, what goes next, and whether its numbers are all new."""
    before = tx.outbox.stream(OutboxStream.LEDGER).last_seq
    room = {"sessions": pushing.batch(SESSIONS_BATCH), "events": pushing.batch(EVENTS_BATCH)}
    flights = tx.outbox.ledger_flight(**room)
    if not flights:
        tx.outbox.note_history(HISTORY_BATCH)
        flights = tx.outbox.ledger_flight(**room)
    items = tx.outbox.ledger_items(flights)
    found = {item.flight.seq for item in items}
    for flight in flights:
        if flight.seq not in found:
            tx.outbox.drop_flight(flight.seq, refused=False)
    fresh = bool(items) and items[0].flight.seq > before
    return tx.outbox.stream(OutboxStream.LEDGER).acked_seq, items, fresh


async def _ledger_refused(pushing: Pushing, sent: Sequence[LedgerItem], reply: Reply) -> Step:
    meaning = meaning_of(reply)
    if meaning is Meaning.BEHIND:
        last = number_in(reply, "after")
        if last is None:
            return failed(reply)
        await pushing.store.write(lambda tx: _go_back(tx, pushing, OutboxStream.LEDGER, last))
        return Step(meaning=Meaning.BEHIND, reply=reply, again=True)
    if meaning not in (Meaning.REFUSED, Meaning.TOO_LARGE) or len(sent) > 1:
        return failed(reply)
    # One record alone: its events are halved, then left out one by one, and at last it goes itself.
    await pushing.store.write(lambda tx: _give_up_part(tx, sent[0].flight))
    return failed(reply, again=True)


def _give_up_part(tx: Transaction, flight: Flight) -> None:
    count = flight.last_event - flight.first_event + 1
    if count > 1:
        tx.outbox.shorten_flight(flight, flight.first_event + count // 2 - 1)
    elif count == 1:
        tx.outbox.shorten_flight(flight, flight.first_event - 1, again=False)
        tx.outbox.count(OutboxStream.LEDGER, refused=1)
    else:
        tx.outbox.drop_flight(flight.seq, refused=True)


# --- Δv


async def send_delta_v(pushing: Pushing) -> Step:
    """Windows that do not change any more."""
    settled = settled_ms(pushing.clock)

    def look(tx: Transaction) -> tuple[int, list[DeltaVWindow]]:
        acked = tx.outbox.stream(OutboxStream.DELTA_V).acked_seq
        return acked, tx.outbox.delta_v(acked, settled, pushing.batch(WINDOWS_BATCH))

    after, windows = await pushing.store.read(look)
    if not windows:
        return NOTHING
    body = delta_v_body(after, windows)
    answer = await pushing.calls.change("POST", f"{pushing.base}/delta-v", body, StreamAnswer)
    if isinstance(answer, Reply):
        last = number_in(answer, "after") if meaning_of(answer) is Meaning.BEHIND else None
        if last is not None:
            await pushing.store.write(lambda tx: _go_back(tx, pushing, OutboxStream.DELTA_V, last))
            return Step(meaning=Meaning.BEHIND, reply=answer, again=True)
        return failed(answer)
    numbers = [record.seq for record in body.records]
    acked = confirmed(numbers, answer.acked_seq, settled // MINUTE_MS)
    if acked is None or acked < numbers[0]:
        return _wrong(f"it confirmed window {answer.acked_seq}, which was not sent")
    count = sum(number <= acked for number in numbers)
    await pushing.store.write(lambda tx: tx.outbox.acknowledge_delta_v(acked, count))
    return Step(moved=count)


def settled_ms(clock: Clock) -> int:
    """Windows that end by this instant do not change any more."""
    return to_ms(clock.now()) - SETTLED_MS


async def depth(store: Store, clock: Clock) -> Depth:
    """What waits. Raises as `Store.read` does."""
    settled = settled_ms(clock)
    return await store.read(lambda tx: tx.outbox.depth(settled))
