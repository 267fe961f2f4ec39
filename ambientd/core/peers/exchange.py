"""An open link: digests, requests and items of two nodes that have proved their keys to each other."""

from collections.abc import Callable, Sequence

import msgspec

from ambientd.core.itemset import ID_BYTES, START, ItemSet, split_ids
from ambientd.core.peers.effects import Deliver, Effect, Load, Outcome, Rejected, RoundEnded, Send
from ambientd.core.peers.faults import BrokenRuleError, LinkFaultError
from ambientd.core.peers.floors import Floors
from ambientd.core.peers.frames import (
    LISTED_AT_ONCE,
    OFFERED_AT_ONCE,
    Answer,
    Bye,
    CloseReason,
    Compare,
    Counted,
    Digest,
    Items,
    Listing,
    Message,
    More,
    Offer,
    Proof,
    Want,
)
from ambientd.core.peers.handshake import Met
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
from ambientd.core.peers.pull import Pull
from ambientd.core.peers.serve import USUAL_ITEM_BYTES, Part, Serve
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import DAY_MS, Moment, Reader, Refused, Snapshot, build, check

ANSWER_WITHIN = 30.0
# Changes in a row are told as one digest; also the shortest time between two rounds with one peer.
SETTLE = 1.0
ROUND_SPACING = 1.0
# After a round that was cut short: the peer's clock, our trust or its links may have changed by then.
RETRY_AFTER = 30.0
# Ids that the peer is known to hold: changes of the last seconds, which must not be sent back.
TOLD_MOST = 512
# Snapshots that wait to be merged; a shell that merges one after the other never has more than one.
MERGING_MOST = 64
# What a pushed item that merging refused weighs against `PENALTY`: a fleet that does not agree on its issuers
# gets by, a snapshot full of strangers' items does not.
STRANGE_ITEM = 0.05
SNAPSHOT_VALID_MS = DAY_MS


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


class Traffic(msgspec.Struct):
    """Bytes of frames so far, before sealing."""

    received: int = 0
    sent: int = 0


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What a link stands on from its beginning."""

    settings: LinkSettings
    have: ItemSet
    floors: Floors
    nonce: bytes
    traffic: Traffic
    out: list[Effect]  # where effects go


class Exchange:
    """What is said on an open link. Its methods raise LinkFaultError for what ends the link."""

    def __init__(
        self, ground: Ground, met: Met, proof: Proof, outgoing: Counted, *, now: float, may: tuple[bool, bool]
    ) -> None:
        self._settings, self._have, self._floors = ground.settings, ground.have, ground.floors
        self._nonce, self._traffic, self._out = ground.nonce, ground.traffic, ground.out
        self._met = met
        self._outgoing = outgoing
        self._may_send, self._may_receive = may
        own = ground.settings.reader
        # Whatever else is trusted: on this link only the peer itself speaks.
        trust = msgspec.structs.replace(own.trust, peers=own.trust.peers & {met.peer})
        self._reader: Reader = msgspec.structs.replace(own, trust=trust)
        longest = min(own.max_bytes, proof.max_bytes)
        self._page = min(LISTED_AT_ONCE, longest // ID_BYTES)
        self._pull = Pull(self._have, salt=met.link, at_once=self._page)
        self._serve = Serve(max_bytes=longest, max_items=min(own.max_items, proof.max_items))
        self._told = Recent(TOLD_MOST)
        self._merging: list[Deliver] = []
        self._forced: bool | None = None  # dry run or not, of the round that was asked for
        self._asked_digest = False
        self._round_wanted = False
        self._settled: tuple[bytes, bytes] | None = None
        self._peer_root = b""
        self._peer_gives = False
        self._told_root = b""
        self._before = Traffic()
        self._digest_due = self._round_at = self._polite_until = now
        self._answer_due: float | None = None
        self._messages, self._unasked = Bucket(MESSAGES, now), Bucket(UNASKED_BYTES, now)
        self._served, self._pushes = Bucket(SERVED_BYTES, now), Bucket(PUSHES, now)
        self._patience = Bucket(PENALTY, now)
        self.peer_count = 0
        self.refusals = 0
        self.agreed_at: float | None = None
        self._send_digest(now)

    @property
    def agrees(self) -> bool | None:
        """Whether both hold the same, as far as the peer has told; None before it has."""
        return self._peer_root == self._have.root if self._peer_root else None

    @property
    def unsendable(self) -> int:
        """Items that are too long for the peer."""
        return self._serve.unsendable

    @property
    def deadline(self) -> float:
        """When to call `tick`; after the call it is later."""
        due = [self._digest_due]
        if self._answer_due is not None and not self._merging:
            due.append(self._answer_due)
        if self._round_wanted and self._is_idle:
            due.append(max(self._round_at, self._polite_until))
        return min(due)

    # -- what happens --------------------------------------------------------------------------------------

    def take(self, message: Message, size: int, moment: Moment) -> None:
        """A message came, in a frame of this size."""
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
            case _:
                raise BrokenRuleError("a second proof")
        self._go_on(moment.now)

    def loaded(self, items: Sequence[SignedItem], stamp: Stamp, now: float) -> None:
        """See PeerLink."""
        part = self._serve.loaded(items)
        if part is not None:
            self._send_part(part, stamp)
        self._go_on(now)

    def merged(self, now: float, *, added: int, kept: int, refused: int) -> None:
        """See PeerLink."""
        delivered = self._merging.pop(0)
        strange = [] if delivered.dry_run else [one for one in delivered.ids if one not in self._have]
        if delivered.pushed:
            if not self._patience.take(refused * STRANGE_ITEM, now):
                raise LinkFaultError(CloseReason.REFUSALS, "too many items that this node does not take")
            self._pull.declined(strange)
        else:
            self._pull.merged(strange, added=added, kept=kept, refused=refused)
        if self._answer_due is not None:
            self._answer_due = now + ANSWER_WITHIN
        self._go_on(now)

    def changed(self, now: float, added: Sequence[bytes], *, forwarded: bool) -> None:
        """See PeerLink."""
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

    def allow(self, now: float, *, send: bool, receive: bool) -> None:
        """See PeerLink."""
        self._may_send, self._may_receive = send, receive
        if not send:
            request = self._serve.drop()
            if request:
                self._send(Items(request, Answer.NOT_NOW, b"", last=True))
        # Its own digest was known before, but not asked about.
        self._round_wanted = True
        self._send_digest(now)
        self._go_on(now)

    def sync(self, now: float, *, dry_run: bool) -> None:
        """See PeerLink."""
        self._forced = dry_run
        self._go_on(now)

    def tick(self, now: float) -> None:
        """The deadline has come."""
        if self._answer_due is not None and now >= self._answer_due and not self._merging:
            raise LinkFaultError(CloseReason.SILENT, f"no answer within {ANSWER_WITHIN:.0f} s")
        if now >= self._digest_due:
            self._send_digest(now)
        self._go_on(now)

    def end(self, bye: CloseReason | None) -> None:
        """The link ends; says so to the peer where it still listens."""
        if bye is not None:
            self._send(Bye(bye))
        report = self._pull.abandon()
        if report is not None:
            self._report(report)
        if self._forced is not None:
            self._report(RoundEnded(outcome=Outcome.LOST, forced=True, dry_run=self._forced))

    # -- messages ------------------------------------------------------------------------------------------

    def _charge(self, size: int, now: float) -> None:
        if not (self._messages.take(1, now) and self._unasked.take(size, now)):
            raise LinkFaultError(CloseReason.FLOOD, "the peer sent more than a node may unasked")

    def _on_digest(self, digest: Digest, now: float) -> None:
        self._peer_root, self._peer_gives, self.peer_count = digest.root, digest.gives, digest.count
        if self.agrees:
            self.agreed_at = now
        if digest.asks:
            self._send_digest(now)
        if self._asked_digest:
            self._asked_digest, self._answer_due = False, None
            self._begin_forced()
            return
        if not (self._may_send and len(self._have) > digest.count):
            self._polite_until = now
        elif not self._round_wanted:
            # The peer asks first: mostly it lacks what we have, and then there is nothing to ask for.
            self._polite_until = now + SETTLE
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
            buckets = self._have.differing(request.marks, self._met.link)
            self._list(request.request, buckets, START, now)
        elif len(request.after) == ID_BYTES:
            self._list(request.request, request.buckets, request.after, now)
        else:
            raise BrokenRuleError("a request for a page without a beginning")

    def _list(self, request: int, buckets: bytes, after: bytes, now: float) -> None:
        if not self._may_send or not self._served.take(self._page * ID_BYTES, now):
            self._send(Listing(request, Answer.NOT_NOW, buckets, b"", last=True))
            return
        ids, last = self._have.page(buckets, after, self._page)
        self._send(Listing(request, Answer.HERE, buckets, b"".join(ids), last))

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
        if pushed and not self._may_receive:
            return
        if not pushed:
            self._pull.check_open(items.request)
            self._answer_due = None if items.last else moment.now + ANSWER_WITHIN
            if not items.snapshot:
                self._pull.received((), last=items.last, answer=items.answer)
                return
        checked = check(
            items.snapshot, reader=self._reader, floors=self._floors, moment=moment, challenge=self._nonce
        )
        if isinstance(checked, Refused):
            if not pushed:
                self._pull.refused(last=items.last)
            self._refuse(checked, moment.now)
            return
        ids = tuple(item.item_id for item in checked.snapshot.items)
        if not ids or len(set(ids)) != len(ids):
            raise BrokenRuleError("a snapshot of nothing, or of an item twice")
        if not pushed:
            self._pull.received(ids, last=items.last, answer=items.answer)
        self._told.add(ids)
        self._floors = Floors(self._floors.since, {self._met.peer: checked.floor})
        if pushed and all(item_id in self._have for item_id in ids):
            return
        if len(self._merging) >= MERGING_MOST:
            raise LinkFaultError(CloseReason.FLOOD, "the peer sends faster than this node can merge")
        delivery = Deliver(checked, ids, dry_run=self._pull.dry_run and not pushed, pushed=pushed)
        self._merging.append(delivery)
        self._out.append(delivery)

    def _refuse(self, refused: Refused, now: float) -> None:
        self.refusals += 1
        self._out.append(Rejected(refused))
        if not self._patience.take(penalty(refused.code), now):
            text = f"too many refused snapshots; the last: {refused.text}"
            raise LinkFaultError(CloseReason.REFUSALS, text)

    # -- what follows --------------------------------------------------------------------------------------

    @property
    def _is_idle(self) -> bool:
        """Whether a round may begin."""
        busy = self._merging or self._asked_digest or self._pull.in_round or self._pull.waits
        return self._may_receive and not busy

    def _go_on(self, now: float) -> None:
        """Everything that may be done next: load, ask, end a round or begin one."""
        ids = self._serve.load()
        if ids:
            self._out.append(Load(ids))
        if self._merging or self._asked_digest:
            return
        self._ask(now)
        report = self._pull.ended()
        if report is not None:
            self._round_ended(report, now)
        if self._forced is not None and not (self._pull.in_round or self._pull.waits):
            self._before = msgspec.structs.replace(self._traffic)
            self._asked_digest, self._answer_due = True, now + ANSWER_WITHIN
            self._send_digest(now, asks=True)
        elif self._round_wanted and self._is_idle and now >= max(self._round_at, self._polite_until):
            self._round_wanted = False
            if self._is_round_due:
                self._before = msgspec.structs.replace(self._traffic)
                self._pull.begin(forced=False, dry_run=False)
                self._ask(now)

    @property
    def _is_round_due(self) -> bool:
        roots = (self._have.root, self._peer_root)
        return self._peer_gives and roots[0] != roots[1] and self._settled != roots

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
        done = report.outcome is Outcome.DONE
        self._round_at = now + (ROUND_SPACING if done else RETRY_AFTER)
        if done and not report.dry_run:
            # What stays different now, one of both does not take: not to be tried again and again.
            self._settled = (self._have.root, self._peer_root)
        elif not done:
            self._round_wanted = True
        if self.agrees:
            self.agreed_at = now
        self._report(report)
        if self._told_root != self._have.root:
            self._send_digest(now)

    def _report(self, report: RoundEnded) -> None:
        received = self._traffic.received - self._before.received
        sent = self._traffic.sent - self._before.sent
        self._out.append(msgspec.structs.replace(report, received=received, sent=sent))

    # -- sending -------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        frame = self._outgoing.wrap(message)
        self._traffic.sent += len(frame)
        self._out.append(Send(frame, sealed=True))

    def _send_digest(self, now: float, *, asks: bool = False) -> None:
        self._told_root = self._have.root
        self._digest_due = now + self._settings.interval
        self._send(Digest(self._told_root, len(self._have), self._may_send, asks))

    def _send_part(self, part: Part, stamp: Stamp) -> None:
        snapshot = b""
        if part.items:
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
        self._send(Items(part.request, Answer.HERE, snapshot, part.last))
