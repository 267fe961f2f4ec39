"""Keeps the mark of trusted time: at the start, now and then, and at the end."""

import trio

from ambientd.flows.trustedtime import KeptTime
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.store import Store
from ambientd.services.supervise import Log

# What a crash together with a start of the machine costs at most; every lease writes it as well.
EVERY_SEC = 600.0
AGAIN_SEC = 10.0
LAST_SEC = 2.0  # at an orderly stop


class TrustedTimeService:
    """Writes the mark; a write that fails is told and comes again."""

    def __init__(self, *, time: KeptTime, store: Store, log: Log) -> None:
        self._time = time
        self._store = store
        self._log = log

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._load()
        try:
            while True:
                await trio.sleep(EVERY_SEC)
                await self._save()
        finally:
            with trio.move_on_after(LAST_SEC, shield=True):
                await self._save()

    async def _load(self) -> None:
        while True:
            try:
                if not await self._time.load(self._store):
                    self._log.warning("clock.mark_unreadable", help="ambientctl clock accept")
            except (StoreError, UnavailableError) as error:
                self._log.warning("clock.mark_unread", reason=str(error))
                await trio.sleep(AGAIN_SEC)
            else:
                return

    async def _save(self) -> None:
        try:
            await self._time.save(self._store)
        except (StoreError, UnavailableError) as error:
            self._log.warning("clock.mark_unwritten", reason=str(error))
