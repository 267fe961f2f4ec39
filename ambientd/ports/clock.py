"""Clocks and ids: the two things a decision may never fetch for itself."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records; intervals use trio's clock in `services`."""

    def now(self) -> datetime:
        """The current instant, aware, UTC."""

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; only differences mean anything."""


class Ids(Protocol):
    """Fresh identifiers."""

    def session_id(self, at: datetime) -> str:
        """`ses_` and 26 characters (ULID): sorts by `at`, unique on this node."""
