"""Fault families that cross layers (HOUSE 5). Expected refusals are `Rejected` values, re-exported here."""

from collections.abc import Sequence

from ambientd.config.problems import Problem
from ambientd.core.rejection import Rejected

__all__ = [
    "ConfigError",
    "IdentityError",
    "Rejected",
    "StoreBusyError",
    "StoreError",
    "StoreFullError",
    "UnavailableError",
]


class ConfigError(Exception):
    """The configuration cannot be used; `problems` lists everything that must change (exit 78)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(problem.text for problem in problems))
        self.problems = tuple(problems)


class UnavailableError(Exception):
    """Something outside did not answer; a retry may help."""


class IdentityError(UnavailableError):
    """The node's key may not be used; the message is a sentence that says why and what helps."""


class StoreError(Exception):
    """The store cannot be used as it is: migration failed, newer schema, foreign file, read-only."""

    def __init__(self, message: str, *, code: str = "NOT_READY") -> None:
        super().__init__(message)
        self.code = code


class StoreBusyError(UnavailableError):
    """Another process holds the write lock past the busy timeout."""


class StoreFullError(UnavailableError):
    """The disk is full; the transaction was rolled back."""
