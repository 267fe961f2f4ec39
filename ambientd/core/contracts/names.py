"""The one table of spellings: what senders call the fields of a session, its usage and its events.

The first spelling is ours and is used in refusals, except where the sender writes the public build's
camelCase. Two spellings of one field in one envelope are refused.
"""

from collections.abc import Mapping

# canonical name -> spellings
SESSION: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "session_id", "sessionId"),
    "agent_id": ("agent_id", "agentId"),
    "state": ("state", "status"),
    "started_at": ("started_at", "startedAt"),
    "run_id": ("run_id", "runId"),
    "agent_label": ("agent_label", "agentLabel"),
    "model_id": ("model_id", "modelId", "model"),
    "task_title": ("task_title", "taskTitle", "title"),
    "task_text": ("task_text", "taskText", "task"),
    "task_category": ("task_category", "taskCategory", "category"),
    "ended_at": ("ended_at", "endedAt"),
    "terminal_at": ("terminal_at", "terminalAt"),
    "artifact_count": ("artifact_count", "artifactCount"),
    "error_code": ("error_code", "errorCode"),
    "error_message": ("error_message", "errorMessage"),
    "source_version": ("source_version", "sourceVersion"),
}

# Accepted in `usage` and, as the public build sent them, in the session itself.
USAGE: Mapping[str, tuple[str, ...]] = {
    "prompt_tokens": ("prompt_tokens", "promptTokens", "input_tokens", "inputTokens"),
    "completion_tokens": ("completion_tokens", "completionTokens", "output_tokens", "outputTokens"),
    "total_tokens": ("total_tokens", "totalTokens"),
    "cache_read_tokens": ("cache_read_tokens", "cacheReadTokens"),
    "cache_write_tokens": ("cache_write_tokens", "cacheWriteTokens"),
    "runtime_ms": ("runtime_ms", "runtimeMs"),
    "cost_usd": ("cost_usd", "costUsd", "billed_cost_usd", "billedCostUsd"),
    "provider": ("provider",),
}

EVENT: Mapping[str, tuple[str, ...]] = {
    "event_id": ("event_id", "eventId", "id"),
    "session_id": ("session_id", "sessionId"),
    "seq": ("seq",),
    "event_type": ("event_type", "eventType", "type"),
    "event_ts": ("event_ts", "eventTs", "ts"),
    "payload": ("payload",),
}

REQUIRED_SESSION = ("id", "agent_id", "state", "started_at")
REQUIRED_EVENT = ("event_type", "event_ts")

# Spelling -> canonical name, per place.
SESSION_WORDS: Mapping[str, str] = {
    spelling: name
    for table in (SESSION, USAGE)
    for name, spellings in table.items()
    for spelling in spellings
}
USAGE_WORDS: Mapping[str, str] = {
    spelling: name for name, spellings in USAGE.items() for spelling in spellings
}
EVENT_WORDS: Mapping[str, str] = {
    spelling: name for name, spellings in EVENT.items() for spelling in spellings
}


# The public build's spellings.
CAMEL = frozenset(
    spelling for words in (SESSION_WORDS, EVENT_WORDS) for spelling in words if not spelling.islower()
)


def own_spelling(table: Mapping[str, tuple[str, ...]], name: str, *, camel: bool) -> str:
    """How a sender who left a field out would have called it."""
    spellings = table[name]
    return next((item for item in spellings if camel and item in CAMEL), spellings[0])
