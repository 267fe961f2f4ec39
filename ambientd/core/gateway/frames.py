"""Frames of the gateway's protocol: bytes to values and back. Unknown fields are skipped.

Payloads stay bytes until somebody wants them: most events are dropped by their name alone.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ambientd.core.text import printable

# What a gateway may send at most (its own limit for what it receives); larger is not decoded.
MAX_FRAME = 26_214_400
LONGEST_CODE = 64
LONGEST_TEXT = 300
_NOTHING = msgspec.Raw(b"null")


class RemoteProtocolError(Exception):
    """The other side does not speak the protocol: close the link, count it, back off."""


class GatewayFault(msgspec.Struct, frozen=True, kw_only=True):
    """The `error` of a response, bounded and without control characters.

    `detail` is `details.code`, else `details.reason`; `reason` and `request_id` belong to pairing.
    """

    code: str
    message: str
    detail: str | None = None
    reason: str | None = None
    request_id: str | None = None
    expected_protocol: int | None = None
    retry_with_device_token: bool = False
    retryable: bool = False
    retry_after: float | None = None  # seconds


class Response(msgspec.Struct, frozen=True):
    """A good answer; `payload` is undecoded."""

    id: str
    payload: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    """A refusal of one request."""

    id: str
    fault: GatewayFault


class Event(msgspec.Struct, frozen=True):
    """An event; `payload` is undecoded. `seq` counts per connection where there is one."""

    name: str
    payload: msgspec.Raw
    seq: int | None


class Unknown(msgspec.Struct, frozen=True):
    """A kind of frame that this version does not know; to be skipped."""

    kind: str


Frame = Response | Failure | Event | Unknown


class _Envelope(msgspec.Struct):
    type: str
    id: str | None = None
    ok: bool | None = None
    payload: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING
    event: str | None = None
    seq: int | None = None


class _Error(msgspec.Struct):
    code: Any = None
    message: Any = None
    details: Any = None
    retryable: Any = None
    retry_after_ms: Any = msgspec.field(name="retryAfterMs", default=None)


_ENVELOPES = msgspec.json.Decoder(_Envelope)
_ERRORS = msgspec.json.Decoder(_Error)
_ANY = msgspec.json.Decoder()
_REFUSALS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# A gateway that cuts a text in the middle of an emoji writes half a pair, which is no character: msgspec
# refuses the frame for it, and every list with that title in it.
_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
# A page of a hundred rows has half of a MiB; looking through a much larger frame would hold everything up.
_MENDED_MAX = 4 * 1024 * 1024
_UNKNOWN_CHARACTER = rb"\\ufffd"


def decode_frame(data: str | bytes) -> Frame:
    """One frame. Raises RemoteProtocolError for what is not JSON, too large, or of another shape."""
    if len(data) > MAX_FRAME:
        raise RemoteProtocolError(f"a frame is larger than {MAX_FRAME // 1024 // 1024} MiB")
    try:
        envelope = _decode_envelope(data)
    except _REFUSALS as refusal:
        raise RemoteProtocolError(f"a frame is not what it should be ({type(refusal).__name__})") from None
    match envelope:
        case _Envelope(type="event", event=str() as name):
            return Event(name, envelope.payload, envelope.seq)
        case _Envelope(type="res", id=str() as request, ok=True):
            return Response(request, envelope.payload)
        case _Envelope(type="res", id=str() as request, ok=False):
            return Failure(request, _fault(envelope.error))
        case _Envelope(type="res" | "event"):
            raise RemoteProtocolError(f"a frame of kind {envelope.type} lacks a field")
    return Unknown(clean(envelope.type, LONGEST_CODE))


def _decode_envelope(data: str | bytes) -> _Envelope:
    """Halves of characters become U+FFFD; looked for only where decoding failed."""
    try:
        return _ENVELOPES.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if len(data) > _MENDED_MAX:
            raise
        raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
        # Without escaped backslashes every backslash begins an escape.
        mended, halves = _HALF.subn(_UNKNOWN_CHARACTER, raw.replace(rb"\\", rb"\u005c"))
        if not halves:
            raise
    return _ENVELOPES.decode(mended)


def decode_payload(raw: msgspec.Raw) -> Any:
    """The value of a payload; RemoteProtocolError when it is none."""
    try:
        return _ANY.decode(raw)
    except _REFUSALS:
        raise RemoteProtocolError("a payload cannot be decoded") from None


def encode_request(request: str, method: str, params: Mapping[str, Any]) -> str:
    """A request frame. Parameters that are no JSON are our own mistake (TypeError)."""
    frame = {"type": "req", "id": request, "method": method, "params": params}
    return msgspec.json.encode(frame).decode()


def clean(text: object, longest: int = LONGEST_TEXT) -> str:
    """Foreign text on one line, bounded."""
    shown = printable(text[: longest + 1]) if isinstance(text, str) else ""
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _fault(raw: msgspec.Raw) -> GatewayFault:
    """Lenient: an error that has lost its shape is still an error."""
    try:
        error = _ERRORS.decode(raw)
    except _REFUSALS:
        return GatewayFault(code="UNKNOWN", message="the gateway gave no reason")
    details = error.details if isinstance(error.details, dict) else {}
    reason = clean(details.get("reason"), LONGEST_CODE) or None
    expected = details.get("expectedProtocol")
    return GatewayFault(
        code=clean(error.code, LONGEST_CODE) or "UNKNOWN",
        message=clean(error.message) or "the gateway gave no reason",
        detail=clean(details.get("code"), LONGEST_CODE) or reason,
        reason=reason,
        request_id=_request_id(details.get("requestId")),
        expected_protocol=expected if type(expected) is int else None,
        retry_with_device_token=details.get("canRetryWithDeviceToken") is True,
        retryable=error.retryable is True,
        retry_after=_seconds(error.retry_after_ms),
    )


def _request_id(value: object) -> str | None:
    """Only what is safe to copy into a shell: people are told to."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_CODE or value[0] == "-":
        return None
    return value if value.replace("-", "").replace("_", "").isalnum() and value.isascii() else None


def _seconds(ms: object) -> float | None:
    if isinstance(ms, bool) or not isinstance(ms, int | float) or not 0 <= ms < 2**53:
        return None
    return ms / 1000
