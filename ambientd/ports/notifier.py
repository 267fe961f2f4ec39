"""Telling somebody of an alert: what flows and services ask of a receiver."""

from typing import Protocol

import msgspec

from ambientd.core.rejection import Rejected
from ambientd.wire.alert_messages import AlertNotification, NotifierTestAnswer


class Undelivered(msgspec.Struct, frozen=True):
    """Why one attempt failed, in words without secrets; `again` says that another may go better."""

    reason: str
    again: bool = True


class Notifier(Protocol):
    """One receiver. `kind`, `timeout` (seconds) and `attempts` are those of its configuration."""

    @property
    def kind(self) -> str: ...
    @property
    def timeout(self) -> float: ...
    @property
    def attempts(self) -> int: ...

    async def send(self, notification: AlertNotification) -> Undelivered | None:
        """One attempt; None when it was delivered.

        Raises nothing that is about the receiver. It may take as long as it likes: the caller gives it its
        time and cancels it then; what it began is ended with it.
        """


class NotifierTrials(Protocol):
    """Trying a receiver out."""

    async def try_out(self, name: str) -> NotifierTestAnswer | Rejected:
        """One attempt to deliver a test notification; refused when nobody has that name."""
