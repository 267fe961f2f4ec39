"""One link between two nodes as a machine: events in, effects out, no I/O, the same at both ends.

States: GREETING (hello sent) -> PROVING (hellos agree) -> OPEN (the peer's proof holds) -> CLOSED. Any fault
of the peer closes it; there is no way back. On an open link each side tells its digest, at the interval and
a moment after changes; who sees a difference asks for what it lacks (`core/peers/pull`). Changes are pushed
as they happen. Nothing here removes or replaces an item: the machine asks for items and hands on what came.

The shell makes one for each connection, calls `open`, then hands in what happens and carries out the effects
in order. `deadline` says when to call `tick`. See docs/peer-sync.md.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import msgspec

from ambientd.core.itemset import ID_BYTES, START, ItemSet, split_ids
from ambientd.core.peers import handshake
from ambientd.core.peers.effects import (
    Closed,
    Deliver,
    Effect,
    Load,
    Opened,
    Outcome,
    Rejected,
    RoundEnded,
    Send,
)
from ambientd.core.peers.floors import Floors
from ambientd.core.peers.frames import (
    HELLO_MAX_BYTES,
    LISTED_AT_ONCE,
    OFFERED_AT_ONCE,
    Answer,
    Bye,
    CloseReason,
    Compare,
    Digest,
    Items,
    Listing,
    Message,
    More,
    Offer,
    Proof,
    Want,
    decode_message,
    frame_limit,
)
from ambientd.core.peers.limits import (
    MESSAGES,
    PENALTY,
    PUSHES,
    SERVED_BYTES,
    UNASKED_BYTES,
    Bucket,
    Recent,
    penalty,
)
from ambientd.core.peers.pull import BrokenRuleError, Pull, mask_bytes
from ambientd.core.peers.serve import USUAL_ITEM_BYTES, Part, Serve
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import DAY_MS, Moment, Reader, Refused, Snapshot, build, check

HANDSHAKE_WITHIN = 10.0
ANSWER_WITHIN = 30.0
# Changes in a row are told as one digest; also the shortest time between two rounds with one peer.
SETTLE = 1.0
ROUND_SPACING = 1.0
# A peer tells its digest at its interval; one that left out so many is gone.
SILENT_INTERVALS = 3.5
SILENT_AT_LEAST = 60.0
# Ids that the peer is known to hold: changes of the last seconds, which must not be sent back.
TOLD_MOST = 512
DECLINED_MOST = 2048
SNAPSHOT_VALID_MS = DAY_MS

Effects = tuple[Effect, ...]


class State(Enum):
    """Where the link is."""

    GREETING = "greeting"
    PROVING = "proving"
    OPEN = "open"
    CLOSED = "closed"


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """This node on its links. `sign` is `NodeIdentity.sign`, the same answer for the same bytes; `interval`
    (seconds) is how often the digest is told."""

    reader: Reader
    label: str
    sign: Callable[[bytes], bytes]
    interval: float = 120.0


class Stamp(msgspec.Struct, frozen=True):
    """Line and number of one snapshot (`SendLine.take`), and the time of its making (ms since the epoch)."""

    line: str
    sequence: int
    at_ms: int


class _FaultError(Exception):
    def __init__(self, reason: CloseReason, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


class PeerLink:
    """One connection to a peer, from the first byte to the last. `have` is the node's ItemSet, which the
    shell keeps up to date; `floors` at least those of the peer; `nonce` 32 fresh random bytes."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        have: ItemSet,
        floors: Floors,
        nonce: bytes,
        now: float,
        may_send: bool,
        may_receive: bool,
    ) -> None:
        self._settings = settings
        self._reader = settings.reader
        self._have = have
        self._floors = floors
        self._nonce = nonce
        self._may_send, self._may_receive = may_send, may_receive
        self._hello = handshake.own_hello(settings.reader, nonce)
        self._met: handshake.Met | None = None
        self._out: list[Effect] = []
        self._told = Recent(TOLD_MOST)
        self._declined = Recent(DECLINED_MOST)
        self._merging: list[Deliver] = []
        self._forced: bool | None = None  # dry run or not, of the round that was asked for
        self._asked_digest = False
        self._round_wanted = False
        self._settled: tuple[bytes, bytes] | None = None
        self._peer_root = b""
        self._peer_gives = False
        self._told_root = b""
        self._bytes_before = (0, 0)
        self._handshake_due = now + HANDSHAKE_WITHIN
        self._digest_due = self._round_at = now
        self._answer_due: float | None = None
        self._heard = now
        self._messages, self._unasked = Bucket(MESSAGES, now), Bucket(UNASKED_BYTES, now)
        self._served, self._pushes = Bucket(SERVED_BYTES, now), Bucket(PUSHES, now)
        self._patience = Bucket(PENALTY, now)
        self.state = State.GREETING
        self.label = ""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.refusals = 0
        self.peer_count = 0
        self.agrees: bool | None = None

    @property
    def peer(self) -> bytes | None:
        """The key that the other end claims, to seal to and to open from; proved once the link is OPEN."""
        return self._met.peer if self._met else None

    @property
    def expects_box(self) -> bool:
        """Whether the next bytes that come are a box to be opened; the hello is none."""
        return self.state is not State.GREETING

    @property
    def deadline(self) -> float | None:
        """When to call `tick` (monotonic seconds); None on a closed link."""
        if self.state is State.CLOSED:
            return None
        if self.state is not State.OPEN:
            return self._handshake_due
        due = [self._digest_due, self._silent_due]
        if self._answer_due is not None:
            due.append(self._answer_due)
        if self._round_wanted:
            due.append(self._round_at)
        return min(due)

    # -- what happens to the link --------------------------------------------------------------------------

    def open(self) -> Effects:
        """The connection stands; the first call, at both ends."""
        self._out.append(Send(self._hello, sealed=False))
        self.sent_bytes += len(self._hello)
        return self._flush()

    def received(self, frame: bytes | None, moment: Moment) -> Effects:
        """Bytes came: as they are while `expects_box` is False, else the content of the box, None when it
        did not open. Never raises, whatever they are."""
        if self.state is State.CLOSED:
            return ()
        self._heard = moment.now
        self.received_bytes += len(frame or b"")
        try:
            if frame is None:
                self._end(CloseReason.BAD_PROOF, "what came is not sealed by the peer's key", bye=True)
            elif self.state is State.GREETING:
                self._greeted(frame)
            else:
                self._framed(frame, moment)
        except _FaultError as fault:
            self._end(fault.reason, fault.text, bye=True)
        except BrokenRuleError as broken:
            self._end(CloseReason.PROTOCOL, f"the peer sent {broken}", bye=True)
        return self._flush()

    def loaded(self, items: Sequence[SignedItem], stamp: Stamp, now: float) -> Effects:
        """Answers Load. Each call takes a stamp of its own, also when nothing is sent."""
        if self.state is State.OPEN:
            part = self._serve.loaded(items)
            if part is not None:
                self._send_part(part, stamp)
            self._go_on(now)
        return self._flush()

    def merged(self, now: float, *, added: int, kept: int, refused: int) -> Effects:
        """Answers the oldest open Deliver, after `have` was brought up to date."""
        delivered = self._merging.pop(0)
        if self.state is not State.OPEN:
            return ()
        if not delivered.dry_run:
            self._declined.add(item_id for item_id in delivered.ids if item_id not in self._have)
        if not delivered.pushed:
            self._pull.merged(added=added, kept=kept, refused=refused)
        self._go_on(now)
        return self._flush()

    def changed(self, now: float, *, added: Sequence[bytes] = (), forwarded: bool = False) -> Effects:
        """The node's items changed and `have` shows it. `added` are new ones; `forwarded` when a peer brought
        them: the others may have them already and are asked first. Call it on every link."""
        if self.state is not State.OPEN:
            return ()
        self._digest_due = min(self._digest_due, now + SETTLE)
        fresh = [item_id for item_id in added if item_id not in self._told]
        few = 0 < len(fresh) <= OFFERED_AT_ONCE
        if few and self._may_send and self._pushes.take(1, now):
            self._told.add(fresh)
            if forwarded:
                self._send(Offer(b"".join(fresh)))
            else:
                self._serve.push(fresh)
        self._go_on(now)
        return self._flush()

    def allow(self, now: float, *, send: bool, receive: bool) -> Effects:
        """What the node may do at the moment (`Action.SEND_SYNC`, `Action.RECEIVE_SYNC`)."""
        if (send, receive) == (self._may_send, self._may_receive):
            return ()
        self._may_send, self._may_receive = send, receive
        if self.state is not State.OPEN:
            return ()
        if not send:
            request = self._serve.drop()
            if request:
                self._send(Items(request, Answer.NOT_NOW, b"", last=True))
        self._send_digest(now)
        self._go_on(now)
        return self._flush()

    def sync(self, now: float, *, dry_run: bool = False) -> Effects:
        """Compare now, whatever was found before; RoundEnded with `forced` tells the end, always."""
        if self.state is not State.OPEN:
            return (RoundEnded(outcome=Outcome.LOST, forced=True, dry_run=dry_run),)
        self._forced = dry_run
        self._go_on(now)
        return self._flush()

    def tick(self, now: float) -> Effects:
        """The deadline has come."""
        if self.state is State.CLOSED or now < (self.deadline or now):
            return ()
        if self.state is not State.OPEN:
            self._end(CloseReason.SILENT, f"no handshake within {HANDSHAKE_WITHIN:.0f} s", bye=False)
        elif self._answer_due is not None and now >= self._answer_due:
            self._end(CloseReason.SILENT, f"no answer within {ANSWER_WITHIN:.0f} s", bye=True)
        elif now >= self._silent_due:
            self._end(CloseReason.SILENT, "nothing was heard of the peer", bye=True)
        else:
            if now >= self._digest_due:
                self._send_digest(now)
            self._go_on(now)
        return self._flush()

    def close(self, reason: CloseReason = CloseReason.LEAVING, text: str = "this node leaves") -> Effects:
        """Ends the link from this side."""
        if self.state is not State.CLOSED:
            self._end(reason, text, bye=True)
        return self._flush()

    def lost(self, text: str = "the connection broke") -> Effects:
        """The connection is gone."""
        if self.state is not State.CLOSED:
            self._end(CloseReason.PEER_LEFT, text, bye=False)
        return self._flush()

    # -- handshake -----------------------------------------------------------------------------------------

    def _greeted(self, frame: bytes) -> None:
        met = handshake.meet(frame, own=self._hello, reader=self._reader)
        if isinstance(met, handshake.Refusal):
            raise _FaultError(met.reason, met.text)
        self._met = met
        self._in, self._outgoing = met.counted(met.peer), met.counted(self._reader.key)
        self.state = State.PROVING
        self._send(
            handshake.prove(met, reader=self._reader, label=self._settings.label, sign=self._settings.sign)
        )

    def _proved(self, proof: Message, moment: Moment) -> None:
        met = self._met
        if met is None or not isinstance(proof, Proof) or not handshake.is_proved(met, proof):
            raise _FaultError(CloseReason.BAD_PROOF, "the peer does not prove the key that it claims")
        self.state, self.label = State.OPEN, proof.label
        # Whatever else is trusted: on this link only the peer itself speaks.
        trust = msgspec.structs.replace(self._reader.trust, peers=frozenset({met.peer}))
        self._reader = msgspec.structs.replace(self._reader, trust=trust)
        longest = min(self._reader.max_bytes, proof.max_bytes)
        most = min(self._reader.max_items, proof.max_items)
        self._page = min(LISTED_AT_ONCE, longest // ID_BYTES)
        self._pull = Pull(self._have, self._declined, salt=met.link, at_once=self._page)
        self._serve = Serve(max_bytes=longest, max_items=most)
        self._out.append(Opened(met.peer, proof.label, met.version))
        self._send_digest(moment.now)

    # -- frames --------------------------------------------------------------------------------------------

    def _framed(self, frame: bytes, moment: Moment) -> None:
        proving = self.state is State.PROVING
        if len(frame) > (HELLO_MAX_BYTES if proving else frame_limit(self._reader.max_bytes)):
            raise _FaultError(CloseReason.TOO_LARGE, f"the peer sent a frame of {len(frame)} bytes")
        raw = self._in.unwrap(frame)
        if raw is None:
            raise _FaultError(CloseReason.OUT_OF_ORDER, "a frame of this link is missing, doubled or foreign")
        message = decode_message(raw)
        if message is None:
            raise BrokenRuleError("something that is no message")
        if proving:
            self._proved(message, moment)
        else:
            self._handle(message, len(frame), moment)
        if self.state is State.OPEN:
            self._go_on(moment.now)

    def _handle(self, message: Message, size: int, moment: Moment) -> None:
        if isinstance(message, Digest | Offer) or (isinstance(message, Items) and not message.request):
            self._charge(size, moment.now)
        match message:
            case Items():
                self._on_items(message, moment)
            case Digest():
                self._on_digest(message, moment.now)
            case Offer():
                self._on_offer(message)
            case Listing():
                self._pull.listed(message)
                self._answer_due = None
            case Compare() | More() | Want():
                self._on_request(message, moment.now)
            case Bye():
                said = f": {message.reason}" if message.reason in set(CloseReason) else ""
                self._end(CloseReason.PEER_LEFT, f"the peer ended the link{said}", bye=False)
            case Proof():
                raise BrokenRuleError("a second proof")

    def _charge(self, size: int, now: float) -> None:
        if not (self._messages.take(1, now) and self._unasked.take(size, now)):
            raise _FaultError(CloseReason.FLOOD, "the peer sent more than a node may unasked")

    def _on_digest(self, digest: Digest, now: float) -> None:
        self._peer_root, self._peer_gives, self.peer_count = digest.root, digest.gives, digest.count
        self.agrees = digest.root == self._have.root
        if digest.asks:
            self._send_digest(now)
        if self._asked_digest:
            self._asked_digest, self._answer_due = False, None
            self._begin_forced()
        elif not self.agrees and digest.gives and self._settled != (self._have.root, digest.root):
            self._round_wanted = True

    def _on_offer(self, offer: Offer) -> None:
        ids = split_ids(offer.ids)
        if ids is None:
            raise BrokenRuleError("an offer that is cut off")
        self._told.add(ids)
        if self._may_receive:
            self._pull.offer(ids)

    def _on_request(self, request: Compare | More | Want, now: float) -> None:
        if isinstance(request, Want):
            self._on_want(request, now)
        elif isinstance(request, Compare):
            buckets = self._have.differing(request.marks, self._salt)
            self._list(request.request, buckets, START, now)
        elif len(request.after) == ID_BYTES:
            self._list(request.request, int.from_bytes(request.buckets), request.after, now)
        else:
            raise BrokenRuleError("a request for a page without a beginning")

    def _list(self, request: int, buckets: int, after: bytes, now: float) -> None:
        if not self._may_send or not self._served.take(self._page * ID_BYTES, now):
            self._send(Listing(request, Answer.NOT_NOW, mask_bytes(buckets), b"", last=True))
            return
        ids, last = self._have.page(buckets, after, self._page)
        self._send(Listing(request, Answer.HERE, mask_bytes(buckets), b"".join(ids), last))

    def _on_want(self, want: Want, now: float) -> None:
        ids = split_ids(want.ids)
        if ids is None or self._serve.is_asked:
            raise BrokenRuleError("a request for items before the last was answered, or cut off")
        here = [item_id for item_id in dict.fromkeys(ids) if item_id in self._have]
        if not self._may_send or not self._served.take(len(ids) * USUAL_ITEM_BYTES, now):
            self._send(Items(want.request, Answer.NOT_NOW, b"", last=True))
        elif here:
            self._serve.answer(want.request, here)
        else:
            self._send(Items(want.request, Answer.HERE, b"", last=True))

    def _on_items(self, items: Items, moment: Moment) -> None:
        pushed = items.request == 0
        if not pushed and not self._pull.is_open(items.request):
            raise BrokenRuleError("items that were not asked for")
        if not pushed:
            self._answer_due = None if items.last else moment.now + ANSWER_WITHIN
        elif not self._may_receive:
            return
        if not pushed and not items.snapshot:
            self._pull.received((), last=items.last, answer=items.answer)
            return
        checked = check(
            items.snapshot, reader=self._reader, floors=self._floors, moment=moment, challenge=self._nonce
        )
        if isinstance(checked, Refused):
            self._refuse(checked, moment.now)
            if not pushed:
                self._pull.refused(last=items.last)
            return
        ids = tuple(item.item_id for item in checked.snapshot.items)
        if not ids:
            raise BrokenRuleError("a snapshot of nothing")
        if not pushed:
            self._pull.received(ids, last=items.last, answer=items.answer)
        self._told.add(ids)
        self._deliver(Deliver(checked, ids, dry_run=self._pull.dry_run and not pushed, pushed=pushed))

    def _deliver(self, delivery: Deliver) -> None:
        checked = delivery.checked
        self._floors = Floors(self._floors.since, {checked.snapshot.sender: checked.floor})
        if delivery.pushed and all(item_id in self._have for item_id in delivery.ids):
            return
        self._merging.append(delivery)
        self._out.append(delivery)

    def _refuse(self, refused: Refused, now: float) -> None:
        self.refusals += 1
        self._out.append(Rejected(refused))
        if not self._patience.take(penalty(refused.code), now):
            raise _FaultError(CloseReason.REFUSALS, f"too many refused snapshots; the last: {refused.text}")

    # -- what follows --------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> None:
        """Everything that may be done next: load, ask, begin or end a round."""
        ids = self._serve.load()
        if ids:
            self._out.append(Load(ids))
        if self._merging or self._asked_digest:
            return
        self._ask(now)
        report = self._pull.ended()
        if report is not None:
            self._round_ended(report, now)
        if self._pull.in_round or self._pull.waits:
            return
        if self._forced is not None:
            self._bytes_before = (self.received_bytes, self.sent_bytes)
            self._asked_digest, self._answer_due = True, now + ANSWER_WITHIN
            self._send_digest(now, asks=True)
        elif self._round_wanted and self._may_receive and now >= self._round_at:
            self._bytes_before = (self.received_bytes, self.sent_bytes)
            self._round_wanted = False
            self._pull.begin(forced=False, dry_run=False)
            self._ask(now)

    def _ask(self, now: float) -> None:
        message = self._pull.next()
        if message is not None:
            self._answer_due = now + ANSWER_WITHIN
            self._send(message)

    def _begin_forced(self) -> None:
        """The peer's digest, that a forced round starts with, has come."""
        dry_run, self._forced = bool(self._forced), None
        self._round_wanted = False
        if self.agrees:
            self._report(RoundEnded(outcome=Outcome.EQUAL, forced=True, dry_run=dry_run))
        elif not self._peer_gives or not self._may_receive:
            self._report(RoundEnded(outcome=Outcome.NOT_NOW, forced=True, dry_run=dry_run))
        else:
            self._pull.begin(forced=True, dry_run=dry_run)

    def _round_ended(self, report: RoundEnded, now: float) -> None:
        self._round_at = now + ROUND_SPACING
        if report.outcome is Outcome.DONE and not report.dry_run:
            # What stays different now, one of both does not take: not to be tried again and again.
            self._settled = (self._have.root, self._peer_root)
        self.agrees = self._have.root == self._peer_root
        self._report(report)
        if self._told_root != self._have.root:
            self._send_digest(now)

    def _report(self, report: RoundEnded) -> None:
        received, sent = self._bytes_before
        self._out.append(
            msgspec.structs.replace(
                report, received=self.received_bytes - received, sent=self.sent_bytes - sent
            )
        )

    # -- sending -------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        frame = self._outgoing.wrap(message)
        self.sent_bytes += len(frame)
        self._out.append(Send(frame, sealed=True))

    def _send_digest(self, now: float, *, asks: bool = False) -> None:
        self._told_root = self._have.root
        self._digest_due = now + self._settings.interval
        self._send(Digest(self._told_root, len(self._have), self._may_send, asks))

    def _send_part(self, part: Part, stamp: Stamp) -> None:
        snapshot = b""
        if part.items and self._met is not None:
            draft = Snapshot(
                network=self._reader.network,
                sender=self._reader.key,
                label=self._settings.label,
                audience=self._met.peer,
                line=stamp.line,
                sequence=stamp.sequence,
                issued_at=stamp.at_ms,
                not_after=stamp.at_ms + SNAPSHOT_VALID_MS,
                challenge=self._met.peer_nonce,
                items=part.items,
            )
            snapshot = build(draft, self._settings.sign)
            self._told.add(item.item_id for item in part.items)
        self._send(part.message(snapshot))

    @property
    def _salt(self) -> bytes:
        return self._met.link if self._met else b""

    @property
    def _silent_due(self) -> float:
        return self._heard + max(SILENT_AT_LEAST, SILENT_INTERVALS * self._settings.interval)

    def _end(self, reason: CloseReason, text: str, *, bye: bool) -> None:
        if self.state is State.OPEN:
            if bye:
                self._send(Bye(reason))
            report = self._pull.abandon()
            if report is not None:
                self._report(report)
            if self._forced is not None:
                self._report(RoundEnded(outcome=Outcome.LOST, forced=True, dry_run=self._forced))
        self.state = State.CLOSED
        self._out.append(Closed(reason, text))

    def _flush(self) -> Effects:
        effects, self._out = tuple(self._out), []
        return effects
