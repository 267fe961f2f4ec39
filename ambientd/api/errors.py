"""Refusals and faults as responses, in the one envelope (CONTRACT 5, HOUSE 5)."""

from collections.abc import Iterable

from ambientd.core.envelope import encode_error
from ambientd.ports.errors import (
    IdentityError,
    Rejected,
    StoreBusyError,
    StoreError,
    StoreFullError,
    UnavailableError,
)
from ambientd.ports.http import Response
from ambientd.wire.errors import ERRORS
from ambientd.wire.messages import ErrorDetail

# Seconds after which the same request may do better. A full disk needs a person.
_RETRY_AFTER = {"STORAGE_FULL": "30", "NOT_READY": "2"}
_RETRY_SOON = "1"

FAMILIES = (StoreError, UnavailableError)


def refusal(
    code: str,
    message: str,
    details: Iterable[ErrorDetail] = (),
    *,
    request_id: str,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """An error answer; `code` is a row of the table, else KeyError. Retryable ones say when."""
    row = ERRORS[code]
    if row.retryable:
        headers = (*headers, ("Retry-After", _RETRY_AFTER.get(code, _RETRY_SOON)))
    body = encode_error(code, message, details, request_id)
    return Response(row.status, body, headers=headers)


def rejection_of(error: Exception) -> Rejected:
    """The known families of faults, as what the sender is told."""
    match error:
        case StoreError():
            return Rejected(error.code if error.code in ERRORS else "NOT_READY", str(error))
        case StoreFullError():
            return Rejected("STORAGE_FULL", str(error) or ERRORS["STORAGE_FULL"].sentence)
        case IdentityError():
            return Rejected("IDENTITY_REFUSED", str(error))
        case StoreBusyError():
            return Rejected("STORAGE_UNAVAILABLE", str(error) or ERRORS["STORAGE_UNAVAILABLE"].sentence)
        case _:
            return Rejected("RUNNER_UNAVAILABLE", str(error) or ERRORS["RUNNER_UNAVAILABLE"].sentence)
