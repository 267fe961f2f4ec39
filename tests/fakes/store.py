"""A store whose disk is full, or that is away, when a test says so."""

from collections.abc import Callable
from typing import TypeVar

import trio

from ambientd.ports.store import Store, StoreFacts, Transaction

T = TypeVar("T")


class TroubledStore:
    """Implements `ports.store.Store` over a real one.

    While `trouble` is set every write raises it with nothing written, while `reads_too` every read as well.
    `after_write` is called after each commit, and may raise: the process died between a commit and the
    next step.
    """

    def __init__(self, real: Store) -> None:
        self._real = real
        self.trouble: Exception | None = None
        self.reads_too = False
        self.after_write: Callable[[], None] | None = None
        self.refused = 0

    async def write(self, work: Callable[[Transaction], T]) -> T:
        if self.trouble is not None:
            await trio.lowlevel.checkpoint()
            self.refused += 1
            raise self.trouble
        value = await self._real.write(work)
        if self.after_write is not None:
            self.after_write()
        return value

    async def read(self, work: Callable[[Transaction], T]) -> T:
        if self.trouble is not None and self.reads_too:
            await trio.lowlevel.checkpoint()
            self.refused += 1
            raise self.trouble
        return await self._real.read(work)

    def facts(self) -> StoreFacts:
        return self._real.facts()


class CrashError(Exception):
    """The process died here."""
