"""All links to peers: one to each, dialled again when it ends, told of every change.

Owns time and sockets. What is said on a link is decided by its machine, who is dialled when by the dial book,
whether something may be sent by the view of the links.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import trio

from ambientd.config.peers import PeerAddress
from ambientd.core.connectivity import Action
from ambientd.core.ed25519 import show_key
from ambientd.core.peerbook import PeerBook, PeerSeen
from ambientd.core.peerdials import DialBook, Ended, hint_of
from ambientd.core.peerlink import LinkSettings, PeerLink, Stamp
from ambientd.core.peers.effects import Deliver, Outcome, RoundEnded
from ambientd.core.peers.frames import CloseReason, decode_hello
from ambientd.core.peers.handshake import keeps
from ambientd.core.peers.limits import Bucket, Rate
from ambientd.core.signeditem import SignedItem
from ambientd.core.snapshot import Moment, Reader, Refused, Trust
from ambientd.core.timefmt import to_ms
from ambientd.ports.autonomy import ConnectivityView, Merge, NodeIdentity, PolicyItems, TrustedClock
from ambientd.ports.clock import Clock
from ambientd.ports.peers import PeerDialer, PeerDialError, PeerGoneError, PeerListener, PeerSocket
from ambientd.ports.store import Store
from ambientd.services.bell import Bell
from ambientd.services.peers.counting import Counting
from ambientd.services.peers.holdings import Holdings
from ambientd.services.peers.link import Link
from ambientd.services.peers.records import Records
from ambientd.services.supervise import Log

NONCE_BYTES = 32
# Two links between the same nodes that opened so close together were dialled at the same time, and both ends
# keep the same one. Later the newer one wins: whoever dials again has lost the old one.
TOGETHER_SEC = 10.0
# Keys that were shown and are not trusted, for the operator to see; the oldest go.
STRANGERS_MAX = 32
# Of the interval, more or less: nodes that started together do not tell their digests together.
JITTER = 0.1
LISTEN_AGAIN_SEC = 5.0
# In a full mesh everybody is told by the one who knows first; to pass it on at once would be noise, and take
# the processor from those who are still being told. Half to one and a half of it.
FORWARD_SEC = 0.2
# Links that a trusted key may end by its faults: more, and it has to wait like a stranger, or it would flood,
# end and begin anew with all allowances fresh.
FAULTS = Rate(30, 0.05)
# Reasons that an honest node may give for a handshake that fails: they cost it nothing but time.
_INNOCENT = frozenset({CloseReason.LEAVING, CloseReason.PEER_LEFT, CloseReason.OWN_KEY})


class PeersSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while the node runs. Times in seconds; `other_roles` are keys of issuers."""

    network: str
    label: str
    static: tuple[PeerAddress, ...] = ()
    listens: bool = False
    interval: float = 120.0
    max_links: int = 32
    max_message: int = 256 * 1024
    max_age: float = 86400.0
    send_without_upstream: bool = False
    other_roles: frozenset[bytes] = frozenset()


class Stranger(msgspec.Struct, frozen=True, kw_only=True):
    """A key that somebody has shown without being trusted; nobody has proved it."""

    key: bytes
    address: PeerAddress
    at: datetime
    reason: str


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What a round with one peer brought; `ended` is None when it did not end in time. `refused` are pairs of
    item id (hex) and code, `messages` codes of whole snapshots."""

    link: Link
    ended: RoundEnded | None
    refused: tuple[tuple[str, str], ...]
    messages: tuple[str, ...] = ()


class PeersService:
    """Implements `services.peers.link.Host` for its links, and `flows.peers.Trusting`."""

    def __init__(
        self,
        settings: PeersSettings,
        *,
        store: Store,
        items: PolicyItems,
        identity: NodeIdentity,
        links: ConnectivityView,
        time: TrustedClock,
        clock: Clock,
        dialer: PeerDialer,
        listener: PeerListener,
        book: PeerBook,
        random_bytes: Callable[[int], bytes],
        jitter: Callable[[], float],
        changed: Callable[[], None],
        log: Log,
    ) -> None:
        """`book` has the configured keys; `jitter` gives numbers from 0 to 1; `changed`: the status may look
        different."""
        self.settings = settings
        self.identity = identity
        self.book = book
        self.open: dict[bytes, Link] = {}
        self.strangers: dict[bytes, Stranger] = {}
        self.seen: dict[str, PeerSeen] = {}
        self.offsets: dict[bytes, int] = {}
        self.listen_problem: str | None = None
        self._store = store
        self._view = links
        self._time = time
        self._clock = clock
        self._dialer = dialer
        self._listener = listener
        self._random_bytes = random_bytes
        self._jitter = jitter
        self._changed = changed
        self._log = log
        self.records = Records(store=store, clock=clock, log=log)
        self.holdings = Holdings(store, items)
        self._counting = Counting(store, random_bytes)
        self._links: set[Link] = set()
        self._merges = 0
        self._faults: dict[bytes, Bucket] = {}  # by trusted key
        self._brought: dict[bytes, None] = {}
        self._forward_bell = Bell()
        self.dials: DialBook | None = None
        self._dial_bell, self._listen_bell = Bell(), Bell()
        self._is_loaded = False

    def at(self, moment: float) -> datetime:
        """The wall clock's instant of one of trio's clock that has passed."""
        return self._clock.now() - timedelta(seconds=max(0.0, trio.current_time() - moment))

    # --- what others tell it; none of it blocks

    @property
    def own_key(self) -> str | None:
        """This node's key, in its text form."""
        return show_key(self.identity.public_key)

    @property
    def may_send(self) -> bool:
        """Whether policies may be passed on at the moment."""
        return self.settings.send_without_upstream or self._view.may(Action.SEND_SYNC)

    @property
    def bound(self) -> PeerAddress | None:
        """Where it listens."""
        return self._listener.bound

    def trust_changed(self, book: PeerBook) -> None:
        """See `flows.peers.Trusting`."""
        self.book = book
        for key, link in tuple(self.open.items()):
            if key not in book.keys:
                link.end("this node does not trust the peer any more")
        for key in book.keys & self.strangers.keys():
            del self.strangers[key]
        self._listener.forgive()
        self._hurry()
        self._listen_bell.ring()
        self._changed()

    def key_changed(self) -> None:
        """This node has another key: what it says on its links is read by nobody any more."""
        for link in tuple(self._links):
            link.do(link.machine.lost("this node has another key"))
        self._hurry()
        self._changed()

    def links_changed(self) -> None:
        """The state of the links is another: what may be sent, and who may be reached."""
        now, send = trio.current_time(), self.may_send
        receive = self._view.may(Action.RECEIVE_SYNC)
        for link in tuple(self._links):
            link.do(link.machine.allow(now, send=send, receive=receive))
        self._hurry()

    def items_changed(self) -> None:
        """The policy cache holds something else. While a peer's items are merged the merge sees to it."""
        if self._is_loaded and not self._merges:
            self.holdings.refresh()
            self._tell()

    def noticed(self, address: PeerAddress, hint: str) -> None:
        """A node was announced on the LAN."""
        if self.dials is not None and self.dials.note(address, hint, trio.current_time()):
            self._dial_bell.ring()

    def _hurry(self) -> None:
        if self.dials is not None:
            self.dials.hurry(trio.current_time())
            self._dial_bell.ring()

    # --- its life

    async def run(self) -> None:
        """Reads what is kept, then dials and listens until cancelled. Raises as the store does."""
        await self._counting.load(to_ms(self._clock.now()))
        await self.holdings.load()
        named, refused, seen = await self._store.read(
            lambda tx: (tx.peers.trusted(), tx.peers.distrusted(), tx.peers.seen())
        )
        self.book = self.book.with_named(named, refused)
        self.seen = {peer.key: peer for peer in seen}
        self.dials = DialBook(
            self.settings.static,
            now=trio.current_time(),
            jitter=self._jitter,
            longest=self.settings.interval,
        )
        self._is_loaded = True
        self._changed()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.records.run)
                nursery.start_soon(self._forward)
                nursery.start_soon(self._dial_for_ever, nursery)
                if self.settings.listens:
                    nursery.start_soon(self._listen_for_ever)
        finally:
            self._is_loaded = False

    async def _listen_for_ever(self) -> None:
        """Listens while at least one key is trusted."""
        while True:
            if not self.book.keys:
                self.listen_problem = "no key is trusted yet: ambientctl peers trust KEY"
                await self._listen_bell.wait()
                continue
            self.listen_problem = None
            if not await self._listen():
                await trio.sleep(LISTEN_AGAIN_SEC)

    async def _listen(self) -> bool:
        """Until nobody is trusted any more; False when the address cannot be had."""
        failed = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_nobody_is_trusted, nursery.cancel_scope)
                await self._listener.serve(self._serve)
        except* OSError as group:
            self._listen_failed(group)
            failed = True
        return not failed

    async def _until_nobody_is_trusted(self, scope: trio.CancelScope) -> None:
        while self.book.keys:
            await self._listen_bell.wait()
        scope.cancel()

    def _listen_failed(self, group: BaseExceptionGroup[OSError]) -> None:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        problem = f"cannot listen: {reason} (peers.listen)"
        if problem != self.listen_problem:
            self._log.warning("peers.not_listening", reason=reason)
        self.listen_problem = problem
        self._changed()

    async def _dial_for_ever(self, nursery: trio.Nursery) -> None:
        dials = self.dials
        if dials is None:
            raise AssertionError("the book is made first")
        while True:
            again = float("inf")
            if self.book.keys and len(self.open) < self.settings.max_links:
                wanted = {hint_of(key) for key in self.book.keys - self.open.keys()}
                due, again = dials.take(trio.current_time(), linked=self.open.keys(), hints=wanted)
                for address in due:
                    nursery.start_soon(self._dial, dials, address)
            await self._dial_bell.wait(None if again == float("inf") else again)

    async def _dial(self, dials: DialBook, address: PeerAddress) -> None:
        link: Link | None = None
        reason = ""
        try:
            async with self._dialer.dial(address) as wire:
                link = self._new_link(wire)
                await self._keep(link)
        except PeerDialError as error:
            reason = str(error)
        except PeerGoneError as error:
            reason = str(error)
        finally:
            now = trio.current_time()
            dials.ended(address, _ended(link, reason, now), now)
            self._dial_bell.ring()

    async def _serve(self, wire: PeerSocket) -> None:
        link = self._new_link(wire)
        await self._keep(link)
        closed = link.closed
        if closed is None or closed.reason in _INNOCENT:
            return
        if link.opened_at is None or self._is_faulty(link.peer, closed.reason):
            self._listener.offended(wire)

    def _is_faulty(self, key: bytes, reason: CloseReason) -> bool:
        """Whether a trusted key has ended more links by its faults than accidents explain."""
        if reason is CloseReason.SILENT:
            return False
        now = trio.current_time()
        return not self._faults.setdefault(key, Bucket(FAULTS, now)).take(1, now)

    def _new_link(self, wire: PeerSocket) -> Link:
        now = trio.current_time()
        reader = Reader(
            key=self.identity.public_key,
            network=self.settings.network,
            trust=Trust(peers=self.book.keys, other_roles=self.settings.other_roles - self.book.keys),
            max_bytes=self.settings.max_message,
            max_age_ms=int(self.settings.max_age * 1000),
        )
        spread = 1.0 + JITTER * (2.0 * self._jitter() - 1.0)
        machine = PeerLink(
            LinkSettings(
                reader=reader,
                label=self.settings.label,
                sign=self.identity.sign,
                interval=self.settings.interval * spread,
            ),
            have=self.holdings.have,
            floors=self.holdings.floors,
            nonce=self._random_bytes(NONCE_BYTES),
            now=now,
            may_send=self.may_send,
            may_receive=self._view.may(Action.RECEIVE_SYNC),
        )
        return Link(wire, machine, self, now=now)

    async def _keep(self, link: Link) -> None:
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            self._gone(link)

    # --- what links tell it (`services.peers.link.Host`)

    def moment(self) -> Moment:
        """See `Host`."""
        return Moment(trio.current_time(), to_ms(self._time.now()), self._time.doubt)

    async def stamp(self) -> Stamp:
        """See `Host`."""
        line, number = await self._counting.take()
        return Stamp(line, number, to_ms(self._time.now()))

    async def load(self, ids: Sequence[bytes]) -> list[SignedItem]:
        """See `Host`."""
        return await self.holdings.items(ids)

    async def merge(self, delivery: Deliver) -> Merge:
        """See `Host`."""
        snapshot = delivery.checked.snapshot
        self.offsets[snapshot.sender] = snapshot.issued_at - self.moment().at_ms
        self._merges += 1
        try:
            return await self.holdings.merge(delivery)
        finally:
            self._merges -= 1
            self.holdings.refresh_with(delivery.ids)

    def merged(self, link: Link, delivery: Deliver, merge: Merge) -> None:
        """See `Host`."""
        if not merge.recorded:
            text = "brings what this node has, or does not take, again and again"
            self.records.refused(show_key(link.peer), "nothing_new", text)
        if merge.added and not delivery.dry_run:
            self._log.info(
                "peers.merged",
                peer=show_key(link.peer),
                added=merge.added,
                kept=merge.kept,
                refused=len(merge.refused),
                time_unverified=delivery.checked.time_unverified,
            )
        self._tell()

    def opened(self, link: Link) -> str | None:
        """See `Host`."""
        if link.peer not in self.book.keys:  # it was trusted when the link began
            return "this node does not trust the peer any more"
        other = self.open.get(link.peer)
        if other is not None:
            loser = self._loser(other, link)
            text = "another link to the same node stays"
            if loser is link:
                return text
            other.end(text)
        elif len(self.open) >= self.settings.max_links:
            return "as many links as peers.max_links allows"
        self.open[link.peer] = link
        self.strangers.pop(link.peer, None)
        self._note_seen(link, soon=other is None)
        if other is None:
            self._log.info(
                "peers.linked",
                peer=show_key(link.peer),
                name=link.machine.label,
                address=link.shown,
                dialled=link.wire.is_dialled,
            )
        self._changed()
        return None

    def _loser(self, old: Link, new: Link) -> Link:
        together = trio.current_time() - (old.opened_at or 0.0) < TOGETHER_SEC
        if together and old.wire.is_dialled != new.wire.is_dialled:
            own = self.identity.public_key
            return new if keeps(own=own, peer=new.peer, dialled=old.wire.is_dialled) else old
        return old

    def rejected(self, link: Link, refused: Refused) -> None:
        """See `Host`."""
        link.round_messages.append(refused.code.value)
        self.records.refused(show_key(link.peer), refused.code.value, refused.text)

    def round_ended(self, link: Link, ended: RoundEnded) -> None:
        """See `Host`."""
        if ended.outcome in (Outcome.EQUAL, Outcome.DONE) and not ended.dry_run:
            self._note_seen(link, soon=False, synced=True)
        self._changed()

    # --- changes

    def _tell(self) -> None:
        """Tells every link what is new here; what a peer brought as such."""
        news, now = self.holdings.take_news(), trio.current_time()
        if news.own or (news.removed and not news.brought):
            for link in tuple(self.open.values()):
                link.do(link.machine.changed(now, added=news.own))
        if news.brought:
            self._brought.update(dict.fromkeys(news.brought))
            self._forward_bell.ring()
        if news.own or news.brought or news.removed:
            self._changed()

    async def _forward(self) -> None:
        """Tells the links what peers have brought, a moment later: most of them were told by the same peer,
        and who has told it already is not told again."""
        while True:
            await self._forward_bell.wait()
            await trio.sleep(FORWARD_SEC * (0.5 + self._jitter()))
            brought, self._brought = tuple(self._brought), {}
            now = trio.current_time()
            for link in tuple(self.open.values()):
                link.do(link.machine.changed(now, added=brought, forwarded=True))

    # --- ends

    def _gone(self, link: Link) -> None:
        closed = link.closed
        if link.opened_at is None:
            self._failed(link)
            return
        if self.open.get(link.peer) is not link:
            return
        del self.open[link.peer]
        self._note_seen(link, soon=True)
        if self.dials is not None:
            now = trio.current_time()
            self.dials.unlinked(link.peer, now, lasted=now - link.opened_at)
            self._dial_bell.ring()
        self._log.info(
            "peers.unlinked",
            peer=show_key(link.peer),
            reason=None if closed is None else closed.reason.value,
            text=None if closed is None else closed.text,
        )
        if closed is not None and closed.reason not in _INNOCENT and closed.reason is not CloseReason.SILENT:
            self.records.refused(show_key(link.peer), closed.reason.value, closed.text)
        self._changed()

    def _failed(self, link: Link) -> None:
        """A handshake that came to nothing: whose fault it was, and whom the operator may want to trust."""
        closed, hello = link.closed, None if link.hello is None else decode_hello(link.hello)
        if closed is None or closed.reason in _INNOCENT:
            return
        where = link.wire.address
        if closed.reason is CloseReason.SILENT and link.hello is None:
            return
        self.records.refused(where.host, closed.reason.value, closed.text)
        if hello is not None and closed.reason is CloseReason.NOT_TRUSTED:
            self.strangers.pop(hello.key, None)
            if len(self.strangers) >= STRANGERS_MAX:
                del self.strangers[next(iter(self.strangers))]
            self.strangers[hello.key] = Stranger(
                key=hello.key, address=where, at=self._clock.now(), reason=closed.reason.value
            )
        self._changed()

    def _note_seen(self, link: Link, *, soon: bool, synced: bool = False) -> None:
        key, now = show_key(link.peer), self._clock.now()
        if not self.book.source(key):
            return
        before = self.seen.get(key)
        peer = PeerSeen(
            key=key,
            name=link.machine.label,
            address=link.shown,
            seen_at=now,
            synced_at=now if synced else self.synced_at(link, before),
        )
        self.seen[key] = peer
        self.records.seen(peer, soon=soon)

    def synced_at(self, link: Link, before: PeerSeen | None) -> datetime | None:
        """When a comparison with a linked peer last ended, or both were last seen to hold the same."""
        agreed, kept = link.machine.agreed_at, None if before is None else before.synced_at
        if agreed is None:
            return kept
        return self.at(agreed) if kept is None else max(self.at(agreed), kept)

    # --- a round that an operator asks for

    async def compare(self, *, dry_run: bool, seconds: float) -> list[Round]:
        """Compares with every linked peer now; at most so long."""
        links = tuple(self.open.values())
        for link in links:
            link.begin_round(dry_run=dry_run)
        with trio.move_on_after(seconds):
            for link in links:
                await link.round_done.wait()
        return [
            Round(
                link=link,
                ended=link.round,
                refused=tuple(link.round_refused),
                messages=tuple(link.round_messages),
            )
            for link in links
        ]


def _ended(link: Link | None, reason: str, now: float) -> Ended:
    if link is None:
        return Ended(reason=reason)
    closed = link.closed
    own = closed is not None and closed.reason is CloseReason.OWN_KEY
    opened = link.opened_at
    return Ended(
        lasted=0.0 if opened is None else now - opened,
        key=None if opened is None else link.peer,
        own=own,
        reason=reason or ("" if closed is None else closed.text),
    )
