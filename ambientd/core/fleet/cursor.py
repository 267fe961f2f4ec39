"""Where a list goes on: the last row's instant and id, as an opaque text."""

import base64
import binascii
from datetime import datetime

import msgspec

from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.wire.messages import ErrorDetail

_LONGEST = 512
_DECODER = msgspec.json.Decoder(tuple[int, str])
_BAD = Rejected(
    "VALIDATION_ERROR",
    "the query is not valid",
    (ErrorDetail("cursor", "format", "must be a cursor of this list", "a cursor of this list"),),
)


def encode_cursor(at: datetime, row_id: str) -> str:
    """The cursor behind a row."""
    return base64.urlsafe_b64encode(msgspec.json.encode((to_ms(at), row_id))).decode().rstrip("=")


def decode_cursor(text: str | None) -> tuple[datetime, str] | Rejected | None:
    """Where to go on; None for the beginning."""
    if text is None:
        return None
    if len(text) > _LONGEST or not text.isascii():
        return _BAD
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        ms, row_id = _DECODER.decode(raw)
        row_id.encode()
        return _BAD if "\0" in row_id else (from_ms(ms), row_id)
    except (binascii.Error, msgspec.MsgspecError, ValueError, OverflowError):
        return _BAD
