"""Expected refusals: values, returned and never raised (HOUSE 5)."""

import msgspec

from ambientd.wire.messages import ErrorDetail


class Rejected(msgspec.Struct, frozen=True):
    """An expected refusal; `code` is a row of `wire.errors.ERRORS`."""

    code: str
    message: str
    details: tuple[ErrorDetail, ...] = ()


def reject(code: str, message: str, *details: tuple[str, str, str]) -> Rejected:
    """A refusal with details given as (field, issue, message)."""
    return Rejected(code, message, tuple(ErrorDetail(field, issue, text) for field, issue, text in details))
