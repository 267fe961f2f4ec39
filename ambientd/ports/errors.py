"""Fault families that cross layers (HOUSE 5). Expected refusals are `Rejected` values, not exceptions."""

import msgspec

from ambientd.wire.messages import ErrorDetail


class Rejected(msgspec.Struct, frozen=True):
    """An expected refusal, returned by core and flows; `code` is a row of `wire.errors.ERRORS`."""

    code: str
    message: str
    details: tuple[ErrorDetail, ...] = ()


class UnavailableError(Exception):
    """Something outside did not answer; a retry may help."""


class StoreError(Exception):
    """The store cannot be used as it is: migration failed, newer schema, foreign file, read-only."""

    def __init__(self, message: str, *, code: str = "NOT_READY") -> None:
        super().__init__(message)
        self.code = code


class StoreBusyError(UnavailableError):
    """Another process holds the write lock past the busy timeout."""


class StoreFullError(UnavailableError):
    """The disk is full; the transaction was rolled back."""
