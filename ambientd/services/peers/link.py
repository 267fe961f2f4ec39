"""One link: carries out what its machine (`core/peerlink`) asks for, in order, with deadlines."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import trio

from ambientd.core.peerlink import Effects, PeerLink, Stamp, State
from ambientd.core.peers.effects import Closed, Deliver, Effect, Load, Opened, Rejected, RoundEnded, Send
from ambientd.core.peers.frames import CloseReason
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import Moment, Refused
from ambientd.ports.autonomy import Merge, NodeIdentity
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.peers import PeerGoneError, PeerSocket
from ambientd.services.bell import Bell

# A peer that does not read gets no more than this to catch up with: some snapshots of the usual length.
OUTBOX_MAX_BYTES = 4 * 1024 * 1024
# A loop that woke up so late was asleep itself, and hears what came in the meantime before it accuses others.
OVERSLEPT_SEC, HEAR_FIRST_SEC = 2.0, 2.0


class Host(Protocol):
    """What a link needs of the service that owns it."""

    @property
    def identity(self) -> NodeIdentity: ...
    def moment(self) -> Moment: ...
    async def stamp(self) -> Stamp:
        """For one snapshot; raises as `Store.write` does."""

    async def load(self, ids: Sequence[bytes]) -> list[SignedItem]:
        """Raises as `Store.read` does."""

    async def merge(self, delivery: Deliver) -> Merge:
        """The floor and the items in one step; raises as `Store.write` does."""

    def opened(self, link: "Link") -> str | None:
        """Why the link is not kept, None when it is."""

    def merged(self, link: "Link", delivery: Deliver, merge: Merge) -> None:
        """The link's machine knows; now the others may."""

    def rejected(self, link: "Link", refused: Refused) -> None: ...
    def round_ended(self, link: "Link", ended: RoundEnded) -> None: ...


class Link:
    """One socket with its machine. `peer` is proved once `is_open`."""

    def __init__(self, wire: PeerSocket, machine: PeerLink, host: Host, *, now: float) -> None:
        """`now`: when it began, in trio's seconds."""
        self.wire = wire
        self.machine = machine
        self.began = now
        self.opened_at: float | None = None
        self.closed: Closed | None = None
        self.hello: bytes | None = None  # the first bytes of the other end, whatever they are
        self.heard = now
        self.round: RoundEnded | None = None
        self.round_done = trio.Event()
        self.round_refused: list[tuple[str, str]] = []
        self.round_messages: list[str] = []
        self._host = host
        self._outbox: deque[Send] = deque()
        self._outbox_bytes = 0
        self._deliveries: deque[Deliver] = deque()
        self._loads: deque[Load] = deque()
        self._todo: deque[Effect] = deque()
        self._is_busy = False
        self._write_bell, self._work_bell, self._watch_bell = Bell(), Bell(), Bell()
        self._watched: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether both ends have proved their keys, and nobody has ended it."""
        return self.machine.state is State.OPEN

    @property
    def shown(self) -> str:
        """Where the other end is: of one that has dialled the port says nothing."""
        return str(self.wire.address) if self.wire.is_dialled else self.wire.address.host

    @property
    def peer(self) -> bytes:
        """The other end's key."""
        return self.machine.peer or b""

    async def run(self) -> None:
        """Until the link has ended; never raises for what the other end does."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._work)
                self.do(self.machine.open())
                await self._read()
        finally:
            self.do(self.machine.lost("this node closes it"))
            self.round_done.set()

    def do(self, effects: Effects) -> None:
        """Carries out effects in their order, and those that follow from them behind them."""
        self._todo.extend(effects)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._todo:
                self._do(self._todo.popleft())
        finally:
            self._is_busy = False
        deadline = self.machine.deadline
        if deadline is not None and self._watched is not None and deadline < self._watched:
            self._watch_bell.ring()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._enqueue(effect)
            case Load():
                self._loads.append(effect)
                self._work_bell.ring()
            case Deliver():
                self._deliveries.append(effect)
                self._work_bell.ring()
            case Opened():
                self._opened()
            case Rejected():
                self._host.rejected(self, effect.refused)
            case RoundEnded():
                self._round_ended(effect)
            case Closed():
                self.closed = self.closed or effect
                self._write_bell.ring()

    def _opened(self) -> None:
        self.opened_at = trio.current_time()
        self.wire.know()
        unwanted = self._host.opened(self)
        if unwanted is not None:
            self.do(self.machine.close(CloseReason.LEAVING, unwanted))

    def _round_ended(self, ended: RoundEnded) -> None:
        if ended.forced:
            self.round = ended
            self.round_done.set()
        self._host.round_ended(self, ended)

    def _enqueue(self, send: Send) -> None:
        self._outbox.append(send)
        self._outbox_bytes += len(send.frame)
        self._write_bell.ring()
        if self._outbox_bytes > OUTBOX_MAX_BYTES:
            self._outbox.clear()
            self._outbox_bytes = 0
            self.do(self.machine.lost("the peer does not read what is sent"))

    # --- its tasks

    async def _read(self) -> None:
        while self.closed is None:
            try:
                raw = await self.wire.receive()
            except PeerGoneError as error:
                self.do(self.machine.lost(str(error)))
                return
            self.heard = trio.current_time()
            if self.hello is None:
                self.hello = raw
            frame: bytes | None = raw
            if self.machine.expects_box and self.machine.peer is not None:
                frame = self._host.identity.open(self.machine.peer, raw)
            self.do(self.machine.received(frame, self._host.moment()))
        await trio.sleep_forever()  # the writer says good-bye and ends it

    async def _write(self, scope: trio.CancelScope) -> None:
        while True:
            while self._outbox:
                send = self._outbox.popleft()
                self._outbox_bytes -= len(send.frame)
                frame = send.frame
                if send.sealed and self.machine.peer is not None:
                    frame = self._host.identity.seal(self.machine.peer, frame)
                try:
                    await self.wire.send(frame)
                except PeerGoneError as error:
                    self._outbox.clear()
                    self.do(self.machine.lost(str(error)))
            if self.closed is not None:
                await self.wire.close(self.closed.reason.value)
                scope.cancel()
                return
            await self._write_bell.wait()

    async def _watch(self) -> None:
        while (deadline := self.machine.deadline) is not None:
            self._watched = deadline
            await self._watch_bell.wait(deadline)
            self._watched = None
            now = trio.current_time()
            due = self.machine.deadline
            if due is None or now < due:
                continue
            if now - due > OVERSLEPT_SEC:
                await trio.sleep(HEAR_FIRST_SEC)
                now = trio.current_time()
            self.do(self.machine.tick(now))

    async def _work(self) -> None:
        """Loads and merges in the order they were asked for; what waits for the store waits here."""
        while True:
            try:
                while self._deliveries:
                    await self._merge(self._deliveries.popleft())
                while self._loads and not self._deliveries:
                    await self._load(self._loads.popleft())
            except (StoreError, UnavailableError) as error:
                self._deliveries.clear()
                self._loads.clear()
                self.do(self.machine.close(CloseReason.LEAVING, f"the store is away: {error}"))
            if not (self._deliveries or self._loads):
                await self._work_bell.wait()

    async def _load(self, load: Load) -> None:
        items = await self._host.load(load.ids)
        stamp = await self._host.stamp()
        self.do(self.machine.loaded(items, stamp, trio.current_time()))

    async def _merge(self, delivery: Deliver) -> None:
        merge = await self._host.merge(delivery)
        self.round_refused += merge.refused
        now, refused = trio.current_time(), len(merge.refused)
        self.do(self.machine.merged(now, added=merge.added, kept=merge.kept, refused=refused))
        self._host.merged(self, delivery, merge)

    # --- asked for by the service

    def begin_round(self, *, dry_run: bool) -> None:
        """Compares now; `round_done` is set when it is over, and `round` tells how it was."""
        self.round, self.round_done, self.round_refused = None, trio.Event(), []
        self.round_messages = []
        self.do(self.machine.sync(trio.current_time(), dry_run=dry_run))

    def end(self, text: str) -> None:
        """Says good-bye."""
        self.do(self.machine.close(CloseReason.LEAVING, text))
