"""Nodes of a LAN on virtual time: real services and databases, real cryptography, sockets in memory."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from ambientd.config.peers import PeerAddress
from ambientd.core.connectivity import Action, may
from ambientd.core.ed25519 import public_of, show_key
from ambientd.core.peerbook import PeerBook
from ambientd.core.signeditem import SignedItem, issue
from ambientd.host.threads import run_inline
from ambientd.ports.autonomy import Merge
from ambientd.ports.store import Store, Transaction
from ambientd.services.peers import PeersService, PeersSettings
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import Connectivity
from tests.fakes.clock import TrioWallClock
from tests.fakes.identity import NamedIdentity, seed_of
from tests.fakes.log import ListLog
from tests.fakes.peerlan import PeerLan
from tests.fakes.store import CrashError, TroubledStore

ISSUER_SEED = seed_of("the issuer")
ISSUER = public_of(ISSUER_SEED)


def item(number: int, text: str = "") -> SignedItem:
    """An item as the issuer makes it."""
    return issue(ISSUER_SEED, ISSUER, f'{{"id":"policy-{number}","text":"{text}"}}'.encode())


class MemoryItems:
    """Implements `ports.autonomy.PolicyItems`: takes what the issuer has signed, overwrites nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.held: dict[bytes, SignedItem] = {}
        self.calls: list[tuple[str, int, bool]] = []
        self.trouble: Exception | None = None
        self.recorded = True
        self.after_first: Callable[[], None] = lambda: None

    def ids(self) -> frozenset[bytes]:
        return frozenset(self.held)

    async def items(self, ids: Sequence[bytes]) -> list[SignedItem]:
        await trio.lowlevel.checkpoint()
        return [self.held[one] for one in ids if one in self.held]

    async def take(
        self,
        sender: str,
        items: Sequence[SignedItem],
        *,
        dry_run: bool = False,
        first: Callable[[Transaction], None] | None = None,
    ) -> Merge:
        if first is not None:
            await self.store.write(first)
        await trio.lowlevel.checkpoint()
        self.after_first()
        if self.trouble is not None:
            raise self.trouble
        good = [one for one in items if one.issuer == ISSUER and one.is_genuine]
        new = [one for one in good if one.item_id not in self.held]
        self.calls.append((sender, len(new), dry_run))
        if not dry_run:
            self.held |= {one.item_id: one for one in new}
        refused = [(one.item_id.hex(), "bad_signature") for one in items if one not in good]
        return Merge(
            added=len(new), kept=len(good) - len(new), refused=tuple(refused), recorded=self.recorded
        )


class View:
    """Implements `ports.autonomy.ConnectivityView`."""

    def __init__(self) -> None:
        self.state = Connectivity.OFFLINE

    def may(self, action: Action) -> bool:
        return may(self.state, action)


class Time(TrioWallClock):
    """Implements `ports.autonomy.TrustedClock`."""

    doubt: str | None = None

    def reached(self) -> datetime:
        return self.now()


class PeerNode:
    """One node of the rig; `start` and `stop` stand for the daemon."""

    def __init__(
        self, name: str, lan: PeerLan, store: SqliteStore, nursery: trio.Nursery, log: ListLog
    ) -> None:
        self.name = name
        self.lan = lan
        self.host = lan.host(name)
        self.identity = NamedIdentity(name)
        self.real_store = store
        self.store = TroubledStore(store)
        self.items = MemoryItems(self.store)
        self.view = View()
        self.clock = Time()
        self.log = log
        self.settings: dict[str, Any] = {}
        self.trusts: tuple[str, ...] = ()
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._random = 0
        self.crashes = 0
        self.service: PeersService = self._make()

    @property
    def key(self) -> bytes:
        return self.identity.public_key

    def _bytes(self, count: int) -> bytes:
        self._random += 1
        return hashlib.sha512(f"{self.name} {self._random} {id(self)}".encode()).digest()[:count]

    def _share(self) -> float:
        return self._bytes(1)[0] / 256

    def _make(self) -> PeersService:
        facts: dict[str, Any] = {"network": "fleet-1", "label": self.name, "listens": True}
        book = PeerBook(tuple(show_key(NamedIdentity(name).public_key) for name in self.trusts))
        return PeersService(
            PeersSettings(**(facts | self.settings)),
            store=self.store,
            items=self.items,
            identity=self.identity,
            links=self.view,
            time=self.clock,
            clock=self.clock,
            dialer=self.host,
            listener=self.host,
            book=book,
            random_bytes=self._bytes,
            jitter=self._share,
            changed=lambda: None,
            log=self.log,
        )

    def start(self) -> None:
        """A daemon starts."""
        self.service = self._make()
        self._scope, self._stopped = trio.CancelScope(), trio.Event()
        self._nursery.start_soon(self._run, self.service, self._scope, self._stopped)

    async def _run(self, service: PeersService, scope: trio.CancelScope, stopped: trio.Event) -> None:
        try:
            with scope:
                await service.run()
        except* CrashError:
            self.crashes += 1
        stopped.set()

    async def stop(self) -> None:
        """It stops."""
        self._scope.cancel()
        await self._stopped.wait()

    def put(self, *items: SignedItem) -> None:
        """The node's own items change."""
        self.items.held |= {one.item_id: one for one in items}
        self.service.items_changed()

    @property
    def linked(self) -> set[bytes]:
        return set(self.service.open)

    async def audit(self, kind: str) -> list[dict[str, Any]]:
        """Details of the audit records of a kind."""

        def work(tx: Any) -> list[dict[str, Any]]:
            return [dict(r.detail) for r in tx.audit.records(0, 1000) if r.kind == kind]

        return await self.real_store.read(work)


class PeerRig:
    """All nodes; everybody trusts everybody and has everybody's address, unless a test says otherwise."""

    def __init__(self, lan: PeerLan, nodes: dict[str, PeerNode]) -> None:
        self.lan = lan
        self.nodes = nodes

    def __getitem__(self, name: str) -> PeerNode:
        return self.nodes[name]

    @property
    def all(self) -> list[PeerNode]:
        return list(self.nodes.values())

    def start(self) -> None:
        for node in self.all:
            node.start()

    def agree(self) -> bool:
        """Whether all hold the same."""
        return len({node.items.ids() for node in self.all}) == 1

    def is_meshed(self) -> bool:
        """Whether everybody is linked with everybody."""
        return all(len(node.linked) == len(self.nodes) - 1 for node in self.all)


@asynccontextmanager
async def lan_of(folder: Path, *names: str, **settings: Any) -> AsyncIterator[PeerRig]:
    """Nodes that have not started yet."""
    lan, nodes = PeerLan(), {}
    async with trio.open_nursery() as nursery:
        for name in names:
            clock = TrioWallClock()
            store = SqliteStore(folder / f"{name}.db", clock=clock, ballast=0, run_sync=run_inline)
            await nursery.start(store.run)
            await store.wait_settled()
            node = PeerNode(name, lan, store, nursery, ListLog())
            node.trusts = tuple(other for other in names if other != name)
            static = tuple(PeerAddress(other, 7946) for other in names if other != name)
            node.settings = {"static": static, **settings}
            nodes[name] = node
        yield PeerRig(lan, nodes)
        nursery.cancel_scope.cancel()


async def until(what: Callable[[], object], seconds: float = 60.0) -> float:
    """Waits until something is so; how long it took, in virtual seconds."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not what():
            await trio.sleep(0.05)
    return trio.current_time() - began
