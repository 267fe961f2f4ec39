"""Evaluates the alert rules, in time and when a session has ended, and tells the receivers."""

from collections.abc import Mapping

import trio

from ambientd.core.alertviews import trial_notification
from ambientd.core.rejection import Rejected, reject
from ambientd.flows.alerts import Alerting, Swept, finish, next_pending, read_notification, sweep
from ambientd.ports.errors import StoreError, UnavailableError
from ambientd.ports.notifier import Notifier, Undelivered
from ambientd.services.bell import Bell
from ambientd.services.supervise import Log
from ambientd.wire.alert_messages import AlertNotification, NotifierTestAnswer

# Sessions that end together are evaluated together.
DEBOUNCE_SEC = 1.0
# Of one core, while sessions end without a pause: a sweep that took a second is followed by nine of rest.
REST_PER_WORK = 9.0
STORE_PAUSE_SEC = 10.0
FIRST_PAUSE_SEC = 1.0
LONGEST_PAUSE_SEC = 60.0
TRIAL_SEC = 20.0  # somebody waits for the answer of a trial, so it may not take as long as a delivery


class AlertsService:
    """Sweeps every `sweep_interval` seconds and soon after each `wake`; one task per receiver delivers."""

    def __init__(
        self,
        *,
        alerting: Alerting,
        notifiers: Mapping[str, Notifier],
        bell: Bell,
        sweep_interval: float,
        log: Log,
    ) -> None:
        """`bell` is the one that `alerting` rings; `sweep_interval` is in seconds."""
        self._alerting = alerting
        self._notifiers = notifiers
        self._interval = sweep_interval
        self._log = log
        self._wake = bell
        self._waiting = {name: Bell() for name in notifiers}
        self.failing: dict[str, str] = {}
        """Receivers whose last delivery was given up, with the reason."""

    @property
    def alerting(self) -> Alerting:
        """What the routes work with."""
        return self._alerting

    def wake(self) -> None:
        """Something was written that a rule may look at. Never blocks."""
        self._wake.ring()

    def ended(self, _session_id: str) -> None:
        """A session has ended. Never blocks."""
        self._wake.ring()

    async def run(self) -> None:
        """Runs until cancelled; what was not delivered until then is delivered after the next start."""
        async with trio.open_nursery() as nursery:
            for name, notifier in self._notifiers.items():
                nursery.start_soon(self._tell, name, notifier)
            await self._sweep()

    # --- evaluating

    async def _sweep(self) -> None:
        while True:
            began = trio.current_time()
            try:
                self._say(await sweep(self._alerting))
            except (StoreError, UnavailableError) as error:
                self._log.warning("alerts.sweep_failed", reason=str(error))
                await trio.sleep(STORE_PAUSE_SEC)
                continue
            rest = max(DEBOUNCE_SEC, REST_PER_WORK * (trio.current_time() - began))
            due = began + self._interval
            await self._wake.wait(due)
            if trio.current_time() < due:
                await trio.sleep(rest)

    def _say(self, swept: Swept) -> None:
        for view, change in swept.changed:
            self._log.info(
                "alerts.changed",
                rule=view.rule_id,
                before=change.before.value,
                after=change.after.value,
                text=view.text,
            )
        if swept.dropped:
            self._log.warning("alerts.notifications_dropped", count=swept.dropped)
        if swept.told:
            for bell in self._waiting.values():
                bell.ring()

    # --- telling

    async def _tell(self, name: str, notifier: Notifier) -> None:
        while True:
            try:
                pending = await next_pending(self._alerting, name)
                if pending is not None:
                    notification = read_notification(pending)
                    delivered = notification is not None and await self._deliver(name, notifier, notification)
                    await finish(self._alerting, pending, delivered=delivered)
                    continue
            except (StoreError, UnavailableError) as error:
                self._log.warning("alerts.outbox_failed", notifier=name, reason=str(error))
                await trio.sleep(STORE_PAUSE_SEC)
                continue
            await self._waiting[name].wait()

    async def _deliver(self, name: str, notifier: Notifier, notification: AlertNotification) -> bool:
        """Attempts with doubling pauses; False when it was given up."""
        pause = FIRST_PAUSE_SEC
        for attempt in range(1, notifier.attempts + 1):
            failure = await self._attempt(notifier, notification)
            if failure is None:
                self.failing.pop(name, None)
                return True
            last = attempt == notifier.attempts or not failure.again
            self._log.warning(
                "alerts.not_delivered",
                notifier=name,
                notification=notification.id,
                attempt=attempt,
                reason=failure.reason,
                given_up=last,
            )
            if last:
                self.failing[name] = failure.reason
                return False
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SEC)
        return False

    @staticmethod
    async def _attempt(
        notifier: Notifier, notification: AlertNotification, *, limit: float = float("inf")
    ) -> Undelivered | None:
        seconds = min(notifier.timeout, limit)
        with trio.move_on_after(seconds):
            return await notifier.send(notification)
        return Undelivered(f"not done within {seconds:g} s")

    async def try_out(self, name: str) -> NotifierTestAnswer | Rejected:
        """One attempt to deliver a test notification, now and past the outbox."""
        notifier = self._notifiers.get(name)
        if notifier is None:
            known = ", ".join(sorted(self._notifiers))
            text = f"no notifier has this name; known: {known}"
            return reject("NOT_FOUND", f"no notifier is called {name[:64]!r}", ("name", "unknown", text))
        alerting = self._alerting
        trial = trial_notification(
            notification_id=alerting.new_id(), node=alerting.node, at=alerting.clock.now()
        )
        began = trio.current_time()
        failure = await self._attempt(notifier, trial, limit=TRIAL_SEC)
        return NotifierTestAnswer(
            ok=failure is None,
            name=name,
            kind=notifier.kind,
            took_ms=round((trio.current_time() - began) * 1000),
            error=failure.reason if failure else None,
        )
