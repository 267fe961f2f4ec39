"""The bytes of an error answer: one shape everywhere (CONTRACT 5, R3.160)."""

from collections.abc import Iterable

import msgspec

from ambientd.wire.messages import ErrorBody, ErrorDetail, ErrorEnvelope

_encoder = msgspec.json.Encoder()


def error_body(code: str, message: str, details: Iterable[ErrorDetail], request_id: str) -> ErrorBody:
    """The body with its details sorted by field, then issue: equal input gives equal output (R3.166)."""
    ordered = sorted(details, key=lambda detail: (detail.field, detail.issue))
    return ErrorBody(code=code, message=message, details=ordered, request_id=request_id)


def encode_error(code: str, message: str, details: Iterable[ErrorDetail], request_id: str) -> bytes:
    """The whole envelope as JSON."""
    return _encoder.encode(ErrorEnvelope(error=error_body(code, message, details, request_id)))
