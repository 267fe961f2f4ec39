"""Which events are worth decoding. The others carry the text of conversations, or nothing for us."""

from typing import Any

import msgspec

SHUTDOWN = "shutdown"
CHALLENGE = "connect.challenge"
_WHOLE = frozenset(
    {"sessions.changed", "task", "health", "heartbeat", "config.changed", "agents.changed", SHUTDOWN}
)
# Of these only what tells how a run goes: protocol 3 has the text of errors nowhere else.
_STREAMS = frozenset({"lifecycle"})
_STATES = frozenset({"error", "aborted"})


class _Head(msgspec.Struct):
    stream: Any = None
    state: Any = None


_HEADS = msgspec.json.Decoder(_Head)


def is_wanted(name: str, payload: msgspec.Raw) -> bool:
    """Whether listeners get the event."""
    if name in _WHOLE:
        return True
    if name not in ("agent", "chat"):
        return False
    try:
        head = _HEADS.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    if name == "agent":
        return isinstance(head.stream, str) and head.stream in _STREAMS
    return isinstance(head.state, str) and head.state in _STATES
