"""Brings the gateway's runs into the ledger: soon after each change, and in full after an absence."""

from collections.abc import Callable

import trio

from ambientd.flows.gateway_ledger import BATCH, GatewayLedger
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.gateway import GatewayRefusedError, GatewayUnavailableError
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log

COALESCE_SEC = 0.2  # several events of one run are one look
AUDIT_LAG_SEC = 1.5  # the gateway writes its audit list up to about a second late
IDLE_SEC = 30.0
SETTLE_SEC = 5.0
STORE_PAUSE_SEC = 10.0
RETRY_SEC = 5.0


class GatewayLedgerService:
    """`wake` and `linked` are told by whoever follows the gateway."""

    def __init__(self, *, ledger: GatewayLedger, is_live: Callable[[], bool], bell: Bell, log: Log) -> None:
        """`is_live` says whether the view is what the gateway has now."""
        self._ledger = ledger
        self._is_live = is_live
        self._bell = bell
        self._log = log
        self._linked: bool | None = None
        self._changed = False
        self._settled_at = float("-inf")
        self._open = True
        self._lags = False
        self._pulls = True
        self._pulled_at = float("-inf")

    def wake(self) -> None:
        """A run may have begun or ended. Never blocks."""
        self._changed = True
        self._bell.ring()

    def linked(self, restarted: bool) -> None:
        """A handshake succeeded. Never blocks."""
        self._linked = restarted or bool(self._linked)

    async def run(self) -> None:
        """Runs until cancelled; what was not taken in is there at the gateway still."""
        await self._insist_begin()
        again: float | None = None
        while True:
            due = trio.current_time() + IDLE_SEC
            await self._bell.wait(due if again is None else min(due, again))
            if not self._is_live():
                again = None
                continue
            await trio.sleep(COALESCE_SEC)
            changed, self._changed = self._changed, False
            at = trio.current_time()
            if changed or (again is not None and self._lags) or at - self._pulled_at >= IDLE_SEC / 2:
                self._pulls, self._pulled_at = True, at
            self._lags = changed
            pause = await self._round()
            lag = AUDIT_LAG_SEC if changed and self._ledger.audited else None
            if pause is not None or self._open or lag is not None:
                waits = [pause, lag, SETTLE_SEC if self._open else None]
                again = trio.current_time() + min(wait for wait in waits if wait is not None)
            else:
                again = None

    async def _insist_begin(self) -> None:
        while True:
            try:
                await self._ledger.begin()
            except (StoreError, UnavailableError) as error:
                self._log.warning("gateway.ledger_waits", reason=str(error))
                await trio.sleep(STORE_PAUSE_SEC)
            else:
                return

    async def _round(self) -> float | None:
        """One look; seconds to wait after trouble."""
        try:
            await self._look()
        except GatewayUnavailableError:
            return RETRY_SEC
        except GatewayRefusedError as error:
            self._log.info("gateway.ledger_refused", reason=error.message[:200])
            return RETRY_SEC
        except (StoreError, UnavailableError) as error:
            self._log.warning("gateway.ledger_failed", reason=str(error))
            return STORE_PAUSE_SEC
        return None

    async def _look(self) -> None:
        if self._linked is not None:
            await self._ledger.connected(restarted=self._linked)
            self._linked, self._pulls = None, True
        if self._ledger.audited is not False and self._pulls:
            self._pulls = False
            pulled = await self._ledger.pull_audit()
            if pulled.cut:
                self._log.warning("gateway.audit_cut", taken=pulled.taken)
        while await self._ledger.take_rows() == BATCH:
            pass
        if trio.current_time() - self._settled_at >= SETTLE_SEC:
            self._settled_at = trio.current_time()
            await self._ledger.settle()
            self._open = self._ledger.has_open
