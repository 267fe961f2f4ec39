"""Provider words and what they mean here. A word that is in no table is refused, never guessed (R3.169)."""

from collections.abc import Mapping

from ambientd.wire.enums import EventType, SessionStatus

# Compared without regard to ASCII case: the public build did so.
STATUS_WORDS: Mapping[str, SessionStatus] = {
    word: status
    for status, words in {
        SessionStatus.SUCCESS: ("success", "succeeded", "done", "completed", "complete", "finished"),
        SessionStatus.FAILED: ("failed", "failure", "error", "errored", "crashed", "timeout", "timed_out"),
        SessionStatus.KILLED: ("killed", "terminated", "aborted"),
        SessionStatus.CANCELLED: ("cancelled", "canceled"),
        SessionStatus.RUNNING: ("running", "in_progress", "active", "started"),
        SessionStatus.QUEUED: ("queued", "pending", "waiting", "scheduled"),
    }.items()
    for word in words
}

EVENT_WORDS: Mapping[str, EventType] = {
    word: kind
    for kind, words in {
        EventType.TOOL_CALL: ("tool_call", "tool", "tool_use", "tool_result"),
        EventType.MESSAGE: ("message", "text", "log", "output"),
        EventType.STATE_TRANSITION: ("state_transition", "state", "lifecycle"),
        EventType.ARTIFACT: ("artifact", "file"),
        EventType.ERROR: ("error", "exception"),
        EventType.METRIC: ("metric", "usage"),
    }.items()
    for word in words
}


def status_of(word: str) -> SessionStatus | None:
    """The canonical status a word stands for; None for a word nobody has mapped."""
    return STATUS_WORDS.get(word.lower()) if word.isascii() else None


def event_type_of(word: str) -> EventType | None:
    """The canonical event type a word stands for; None for a word nobody has mapped."""
    return EVENT_WORDS.get(word.lower()) if word.isascii() else None
