"""What a webhook carries besides its body: an instant and a signature over both (HMAC-SHA-256).

A receiver computes HMAC-SHA-256 with the shared key over the timestamp's text, a dot and the body as it
came, compares it with the signature in constant time, and refuses timestamps that are minutes old.
"""

import hmac
from datetime import datetime

ID_HEADER = "X-Ambient-Notification"
TIMESTAMP_HEADER = "X-Ambient-Timestamp"
SIGNATURE_HEADER = "X-Ambient-Signature"

# Another attempt may go better: the request came too late or too soon, or the other side is in trouble.
_PASSING = frozenset({408, 425, 429})


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """The value of the signature's header."""
    return "sha256=" + hmac.digest(key, timestamp.encode() + b"." + body, "sha256").hex()


def build_headers(notification_id: str, at: datetime, key: bytes | None, body: bytes) -> dict[str, str]:
    """The headers that are ours; without a key there is no signature."""
    timestamp = str(int(at.timestamp()))
    headers = {
        "Content-Type": "application/json",
        ID_HEADER: notification_id,
        TIMESTAMP_HEADER: timestamp,
    }
    return headers if key is None else headers | {SIGNATURE_HEADER: sign(key, timestamp, body)}


def is_delivered(status: int) -> bool:
    """Whether an answer means that the receiver has it."""
    return 200 <= status < 300


def may_help_again(status: int) -> bool:
    """Whether the same request may be taken later."""
    return status >= 500 or status in _PASSING
