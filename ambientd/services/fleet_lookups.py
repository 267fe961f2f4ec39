"""Credentials of many requests in one read: what comes while one is under way goes into the next.

Nothing is remembered between reads, so that a credential is worth nothing from the moment it is revoked. The
signatures are checked in the worker thread as well: most of it runs beside the event loop.
"""

from collections import deque

import trio

from ambientd.core.fleet.records import Device
from ambientd.core.rejection import Rejected
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.fleet.lookups import Check
from ambientd.ports.fleet.store import FleetStore, FleetTransaction

BATCH_MAX = 64  # credentials of one read: some milliseconds of a snapshot, checks included
WAITING_MAX = 4096  # a second of work and more; further ones are overload
LANES = 2  # while the answers of one read are taken up the next one is under way

_Found = Device | Rejected | None


class _Waiting:
    """One request, and who it turned out to be."""

    __slots__ = ("check", "done", "error", "found", "token_hash")

    def __init__(self, token_hash: bytes, check: Check) -> None:
        self.token_hash = token_hash
        self.check = check
        self.done = trio.Event()
        self.found: _Found = None
        self.error: StoreError | UnavailableError | None = None


class LookupsService:
    """`ports.fleet.lookups.DeviceLookups`. `run` must be running for anything to be found."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._queue: deque[_Waiting] = deque()
        self._wake = trio.Event()

    async def find(self, token_hash: bytes, check: Check) -> _Found:
        """See DeviceLookups."""
        if len(self._queue) >= WAITING_MAX:
            raise UnavailableError("too many requests are waiting for the database")
        waiting = _Waiting(token_hash, check)
        self._queue.append(waiting)
        self._wake.set()
        await waiting.done.wait()
        if waiting.error is not None:
            raise type(waiting.error)(str(waiting.error))
        return waiting.found

    async def run(self) -> None:
        """Looks up until it is cancelled; what waits then is refused."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(LANES):
                    nursery.start_soon(self._lane)
        finally:
            _fail(self._queue, StoreError("the control plane is being stopped"))
            self._queue.clear()

    async def _lane(self) -> None:
        while True:
            if not self._queue:
                wake = self._wake
                await wake.wait()
                if self._wake is wake:  # of several lanes the first one sees to the next time
                    self._wake = trio.Event()
                continue
            count = min(BATCH_MAX, len(self._queue))
            await self._look([self._queue.popleft() for _ in range(count)])

    async def _look(self, batch: list[_Waiting]) -> None:
        def work(tx: FleetTransaction) -> list[_Found]:
            devices = tx.devices.devices([waiting.token_hash for waiting in batch])
            return [_judge(devices.get(waiting.token_hash), waiting.check) for waiting in batch]

        try:
            found = await self._store.read(work)
        except (StoreError, UnavailableError) as error:
            _fail(batch, error)
        else:
            for waiting, one in zip(batch, found, strict=True):
                waiting.found = one
                waiting.done.set()
        finally:
            _fail(batch, StoreError("the control plane is being stopped"))


def _judge(device: Device | None, check: Check) -> _Found:
    return None if device is None else check(device) or device


def _fail(batch: "deque[_Waiting] | list[_Waiting]", error: StoreError | UnavailableError) -> None:
    """Whoever has no answer yet gets this one."""
    for waiting in batch:
        if not waiting.done.is_set():
            waiting.error = error
            waiting.done.set()
