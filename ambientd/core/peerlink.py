"""One link between two nodes as a machine: events in, effects out, no I/O, the same at both ends.

States: GREETING (hello sent) -> PROVING (hellos agree) -> OPEN (the peer's proof holds) -> CLOSED. Any fault
of the peer closes it; there is no way back. On an open link each side tells its digest, at the interval and
a moment after changes; who sees a difference asks for what it lacks. Changes are pushed as they happen.
Nothing here removes or replaces an item: the machine asks for items and hands on what came.

The shell makes one for each connection, calls `open`, then hands in what happens and carries out the effects
in order. `deadline` says when to call `tick`. See docs/peer-sync.md.
"""

from collections.abc import Callable, Sequence
from enum import Enum

from ambientd.core.itemset import ItemSet
from ambientd.core.peers import handshake
from ambientd.core.peers.effects import Closed, Effect, Opened, Outcome, RoundEnded, Send
from ambientd.core.peers.exchange import Exchange, Ground, LinkSettings, Stamp, Traffic
from ambientd.core.peers.faults import BrokenRuleError, LinkFaultError
from ambientd.core.peers.floors import Floors
from ambientd.core.peers.frames import (
    HELLO_MAX_BYTES,
    Bye,
    CloseReason,
    Message,
    Proof,
    decode_message,
    frame_limit,
)
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import Moment

__all__ = ["Effects", "LinkSettings", "PeerLink", "Stamp", "State"]

HANDSHAKE_WITHIN = 10.0
# A peer tells its digest at its interval; one that left out so many is gone.
SILENT_INTERVALS = 3.5
SILENT_AT_LEAST = 60.0

Effects = tuple[Effect, ...]


class State(Enum):
    """Where the link is."""

    GREETING = "greeting"
    PROVING = "proving"
    OPEN = "open"
    CLOSED = "closed"


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
        self._may = (may_send, may_receive)
        self._hello = handshake.own_hello(settings.reader, nonce)
        self._met: handshake.Met | None = None
        self._exchange: Exchange | None = None
        self._out: list[Effect] = []
        self._handshake_due = now + HANDSHAKE_WITHIN
        self._heard = now
        self.traffic = Traffic()
        self._ground = Ground(
            settings=settings, have=have, floors=floors, nonce=nonce, traffic=self.traffic, out=self._out
        )
        self.state = State.GREETING
        self.label = ""

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
        if self._exchange is None:
            return self._handshake_due
        return min(self._exchange.deadline, self._silent_due)

    @property
    def agrees(self) -> bool | None:
        """Whether both ends hold the same, as far as the peer has told; None before it has."""
        return self._exchange.agrees if self._exchange else None

    @property
    def agreed_at(self) -> float | None:
        """When both were last seen to hold the same (monotonic seconds)."""
        return self._exchange.agreed_at if self._exchange else None

    @property
    def peer_count(self) -> int:
        """How many items the peer says that it holds."""
        return self._exchange.peer_count if self._exchange else 0

    @property
    def refusals(self) -> int:
        """Snapshots that were refused on this link."""
        return self._exchange.refusals if self._exchange else 0

    @property
    def unsendable(self) -> int:
        """Items that are longer than the peer reads."""
        return self._exchange.unsendable if self._exchange else 0

    # -- what happens to the link --------------------------------------------------------------------------

    def open(self) -> Effects:
        """The connection stands; the first call, at both ends."""
        self._out.append(Send(self._hello, sealed=False))
        self.traffic.sent += len(self._hello)
        return self._flush()

    def received(self, frame: bytes | None, moment: Moment) -> Effects:
        """Bytes came: as they are while `expects_box` is False, else the content of the box, None when it
        did not open. Never raises, whatever they are."""
        if self.state is State.CLOSED:
            return ()
        self._heard = max(self._heard, moment.now)
        self.traffic.received += len(frame or b"")
        if frame is None:
            self._end(CloseReason.BAD_PROOF, "what came is not sealed by the peer's key", bye=False)
            return self._flush()
        return self._guarded(lambda: self._read(frame, moment))

    def loaded(self, items: Sequence[SignedItem], stamp: Stamp, now: float) -> Effects:
        """Answers Load. Each call takes a stamp of its own, also when nothing is sent."""
        return self._when_open(lambda exchange: exchange.loaded(items, stamp, now))

    def merged(self, now: float, *, added: int, kept: int, refused: int) -> Effects:
        """Answers the oldest open Deliver, after `have` was brought up to date."""
        return self._when_open(lambda exchange: exchange.merged(now, added=added, kept=kept, refused=refused))

    def changed(self, now: float, *, added: Sequence[bytes] = (), forwarded: bool = False) -> Effects:
        """The node's items changed and `have` shows it. `added` are new ones; `forwarded` when a peer brought
        them: the others may have them already and are asked first. Call it on every link."""
        return self._when_open(lambda exchange: exchange.changed(now, added, forwarded=forwarded))

    def allow(self, now: float, *, send: bool, receive: bool) -> Effects:
        """What the node may do at the moment (`Action.SEND_SYNC`, `Action.RECEIVE_SYNC`)."""
        if self._may == (send, receive):
            return ()
        self._may = (send, receive)
        return self._when_open(lambda exchange: exchange.allow(now, send=send, receive=receive))

    def sync(self, now: float, *, dry_run: bool = False) -> Effects:
        """Compare now, whatever was found before. One RoundEnded with `forced` tells the end, also when the
        link ends; calls that come before the round begins share it. A dry run keeps nothing."""
        if self._exchange is None or self.state is State.CLOSED:
            return (RoundEnded(outcome=Outcome.LOST, forced=True, dry_run=dry_run),)
        return self._when_open(lambda exchange: exchange.sync(now, dry_run=dry_run))

    def tick(self, now: float) -> Effects:
        """The deadline has come; nothing happens before."""
        deadline = self.deadline
        if deadline is None or now < deadline:
            return ()
        if self._exchange is None:
            self._end(CloseReason.SILENT, f"no handshake within {HANDSHAKE_WITHIN:.0f} s", bye=False)
            return self._flush()
        if now >= self._silent_due:
            self._end(CloseReason.SILENT, "nothing was heard of the peer", bye=True)
            return self._flush()
        return self._when_open(lambda exchange: exchange.tick(now))

    def close(self, reason: CloseReason = CloseReason.LEAVING, text: str = "this node leaves") -> Effects:
        """Ends the link from this side."""
        self._end(reason, text, bye=True)
        return self._flush()

    def lost(self, text: str = "the connection broke") -> Effects:
        """The connection is gone."""
        self._end(CloseReason.PEER_LEFT, text, bye=False)
        return self._flush()

    # -- inside --------------------------------------------------------------------------------------------

    def _read(self, frame: bytes, moment: Moment) -> None:
        if self._met is None:
            self._greet(frame)
            return
        if len(frame) > (frame_limit(self._reader.max_bytes) if self._exchange else HELLO_MAX_BYTES):
            raise LinkFaultError(CloseReason.TOO_LARGE, f"the peer sent a frame of {len(frame)} bytes")
        raw = self._incoming.unwrap(frame)
        if raw is None:
            text = "a frame is missing, doubled, or of another link"
            raise LinkFaultError(CloseReason.OUT_OF_ORDER, text)
        message = decode_message(raw)
        if message is None:
            raise BrokenRuleError("something that is no message")
        if self._exchange is None:
            self._prove(self._met, message, moment)
        elif isinstance(message, Bye):
            said = f": {message.reason}" if message.reason in set(CloseReason) else ""
            self._end(CloseReason.PEER_LEFT, f"the peer ended the link{said}", bye=False)
        else:
            self._exchange.take(message, len(frame), moment)

    def _greet(self, frame: bytes) -> None:
        met = handshake.meet(frame, own=self._hello, reader=self._reader)
        self._met, self.state = met, State.PROVING
        self._incoming, self._outgoing = met.counted(met.peer), met.counted(self._reader.key)
        settings = self._settings
        proof = handshake.prove(met, reader=self._reader, label=settings.label, sign=settings.sign)
        wrapped = self._outgoing.wrap(proof)
        self.traffic.sent += len(wrapped)
        self._out.append(Send(wrapped, sealed=True))

    def _prove(self, met: handshake.Met, proof: Message, moment: Moment) -> None:
        if not isinstance(proof, Proof) or not handshake.is_proved(met, proof):
            raise LinkFaultError(CloseReason.BAD_PROOF, "the peer does not prove the key that it claims")
        self.state, self.label = State.OPEN, proof.label
        self._out.append(Opened(met.peer, proof.label, met.version))
        self._exchange = Exchange(self._ground, met, proof, self._outgoing, now=moment.now, may=self._may)

    def _when_open(self, act: Callable[[Exchange], None]) -> Effects:
        exchange = self._exchange
        if exchange is None or self.state is State.CLOSED:
            return ()
        return self._guarded(lambda: act(exchange))

    def _guarded(self, act: Callable[[], None]) -> Effects:
        try:
            act()
        except LinkFaultError as fault:
            self._end(fault.reason, fault.text, bye=True)
        return self._flush()

    @property
    def _silent_due(self) -> float:
        return self._heard + max(SILENT_AT_LEAST, SILENT_INTERVALS * self._settings.interval)

    def _end(self, reason: CloseReason, text: str, *, bye: bool) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        if self._exchange is not None:
            self._exchange.end(reason if bye else None)
        self._out.append(Closed(reason, text))

    def _flush(self) -> Effects:
        effects = tuple(self._out)
        self._out.clear()
        return effects
