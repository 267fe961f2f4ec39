"""What an agent says becomes events and usage; what it is started with is made here too (CONTRACT 3).

Nothing here fails on any output: what cannot be read as the agreed form is kept as text, and every payload
that leaves is valid JSON text (FAULTS B, row 9).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from ambientd.config.schema import OutputFormat
from ambientd.core.payloads import STRING_LIMIT, clean_text, clean_value
from ambientd.core.records import NewEvent, UsageRecord
from ambientd.wire.enums import (
    CostConfidence,
    CostSource,
    EventType,
    MetricConfidence,
    MetricSource,
)

JOIN_LIMIT = 256 * 1024  # characters of one split line that are put together again to read it as JSON
COUNT_MAX = 2**63 - 1  # what the ledger's integer columns hold
NAME_LIMIT = 128
PROVIDER_NATIVE = "provider_native"  # pricing_version of a cost that the agent itself reported (seed 9.4.1)

# Words an agent may use as "type"; any other object is a message.
TYPES: Mapping[str, EventType] = {
    "message": EventType.MESSAGE,
    "tool_call": EventType.TOOL_CALL,
    "error": EventType.ERROR,
    "metric": EventType.METRIC,
    "artifact": EventType.ARTIFACT,
    "state": EventType.STATE_TRANSITION,
    "state_transition": EventType.STATE_TRANSITION,
}

# Spelling -> field of `UsageTally`. One line may not use both spellings of one field.
USAGE_ALIASES: Mapping[str, str] = {
    "prompt_tokens": "prompt_tokens",
    "promptTokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
    "completionTokens": "completion_tokens",
    "total_tokens": "total_tokens",
    "totalTokens": "total_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cacheReadTokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cacheWriteTokens": "cache_write_tokens",
    "cost_usd": "cost_usd",
    "costUsd": "cost_usd",
    "model": "model",
    "provider": "provider",
}
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cache_read_tokens", "cache_write_tokens")


class Line(Protocol):
    """One line of output, or a part of one: what the fold needs of `ports.runner.OutputLine`."""

    @property
    def at_ms(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def partial(self) -> bool: ...


class UsageTally(msgspec.Struct, frozen=True, kw_only=True):
    """Usage so far. None is unknown, never 0."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    total_derived: bool = False  # the total was added up here from prompt and completion
    cost_usd: float | None = None
    model: str | None = None
    provider: str | None = None

    @property
    def known(self) -> bool:
        """Whether the agent has reported anything at all."""
        return self != UsageTally()


class OutputState(msgspec.Struct, frozen=True, kw_only=True):
    """What the fold must remember between chunks.

    `parts` is a JSON line that is not complete yet. It is not in the ledger, so a reader that moves its
    offset while `settled` is false and is then killed loses these parts.
    """

    usage: UsageTally = UsageTally()
    parts: tuple[Line, ...] = ()
    parts_size: int = 0
    overlong: bool = False  # inside a line past JOIN_LIMIT: its parts are told as text

    @property
    def settled(self) -> bool:
        """Whether everything folded so far has become events or usage."""
        return not self.parts


def fold_output(
    state: OutputState, lines: Sequence[Line], output: OutputFormat
) -> tuple[OutputState, tuple[NewEvent, ...]]:
    """Folds lines, in order, into events and usage.

    `text`: each line, and each part of a too long line, is a message. `jsonl`: standard output is read as
    JSON objects (parts are put together up to `JOIN_LIMIT`), standard error as text.
    """
    events: list[NewEvent] = []
    for line in lines:
        if output is OutputFormat.TEXT or line.stream != "out":
            events.extend(_text_events(line))
        else:
            state = _fold_json(state, line, events)
    return state, tuple(events)


def finish_output(state: OutputState) -> tuple[OutputState, tuple[NewEvent, ...]]:
    """The run has ended: parts of a line that never ended become text."""
    rest = tuple(_text_events(*state.parts))
    return msgspec.structs.replace(state, parts=(), parts_size=0, overlong=False), rest


def resume_output(usage: UsageRecord | None, model: str | None = None) -> OutputState:
    """The state after a restart, from the usage row that was written with the offset."""
    if usage is None:
        return OutputState()
    tally = UsageTally(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        total_derived=usage.token_source is MetricSource.DERIVED,
        cost_usd=usage.cost_usd if usage.cost_source is CostSource.PROVIDER_REPORTED else None,
        model=model,
        provider=usage.provider,
    )
    return OutputState(usage=tally)


def usage_record(tally: UsageTally, *, session_id: str, at: datetime) -> UsageRecord | None:
    """The row for what was reported, or None when nothing was. Runtime is the caller's to add."""
    if not tally.known:
        return None
    tokens = any(getattr(tally, name) is not None for name in COUNTS)
    cost = tally.cost_usd is not None
    return UsageRecord(
        session_id=session_id,
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        total_tokens=tally.total_tokens,
        cache_read_tokens=tally.cache_read_tokens,
        cache_write_tokens=tally.cache_write_tokens,
        cost_usd=tally.cost_usd,
        cost_confidence=CostConfidence.EXACT if cost else CostConfidence.UNKNOWN,
        cost_source=CostSource.PROVIDER_REPORTED if cost else CostSource.UNKNOWN,
        cost_confidence_level=MetricConfidence.HIGH if cost else MetricConfidence.UNKNOWN,
        token_source=_token_source(tally, tokens),
        token_confidence=_token_confidence(tally, tokens),
        provider=tally.provider,
        pricing_version=PROVIDER_NATIVE if cost else None,
        computed_at=at,
    )


def _token_source(tally: UsageTally, tokens: bool) -> MetricSource:
    if not tokens:
        return MetricSource.MISSING
    return MetricSource.DERIVED if tally.total_derived else MetricSource.PROVIDER_REPORTED


def _token_confidence(tally: UsageTally, tokens: bool) -> MetricConfidence:
    if not tokens:
        return MetricConfidence.UNKNOWN
    return MetricConfidence.MEDIUM if tally.total_derived else MetricConfidence.HIGH


# --- lines


def _instant(at_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)


def _text_events(*lines: Line) -> list[NewEvent]:
    """Messages of these lines; one that is too long for a payload becomes several."""
    events: list[NewEvent] = []
    for line in lines:
        step = STRING_LIMIT if line.text.isascii() else STRING_LIMIT // 4
        pieces = [line.text[at : at + step] for at in range(0, len(line.text), step)] or [""]
        for number, piece in enumerate(pieces, 1):
            payload: dict[str, Any] = {"stream": line.stream, "text": clean_text(piece)}
            if line.partial or number < len(pieces):
                payload["partial"] = True
            events.append(NewEvent(event_type=EventType.MESSAGE, at=_instant(line.at_ms), payload=payload))
    return events


def _fold_json(state: OutputState, line: Line, events: list[NewEvent]) -> OutputState:
    if state.overlong:
        events.extend(_text_events(line))
        return msgspec.structs.replace(state, overlong=line.partial)
    parts = (*state.parts, line)
    size = state.parts_size + len(line.text)
    if size > JOIN_LIMIT:
        events.extend(_text_events(*parts))
        return msgspec.structs.replace(state, parts=(), parts_size=0, overlong=line.partial)
    if line.partial:
        return msgspec.structs.replace(state, parts=parts, parts_size=size)
    state = msgspec.structs.replace(state, parts=(), parts_size=0)
    found = _parse_object("".join(part.text for part in parts))
    if found is None:
        events.extend(_text_events(*parts))
        return state
    return _fold_object(state, found, _instant(parts[0].at_ms), events)


def _parse_object(text: str) -> dict[str, Any] | None:
    """The line as an object, or None. NaN and Infinity are let through: they are cleaned or named later,
    since many JSON writers produce them."""
    if not text.lstrip(" \t\r\ufeff").startswith("{"):
        return None
    try:
        value = json.loads(text.strip(" \t\r\ufeff"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _fold_object(
    state: OutputState, found: dict[str, Any], at: datetime, events: list[NewEvent]
) -> OutputState:
    word = found.get("type")
    if word == "usage":
        tally, problems = add_usage(state.usage, found)
        if problems:
            payload = {"code": "usage_ignored", "fields": problems}
            events.append(NewEvent(event_type=EventType.ERROR, at=at, payload=payload))
        return msgspec.structs.replace(state, usage=tally)
    kind = TYPES.get(word, EventType.MESSAGE) if isinstance(word, str) else EventType.MESSAGE
    events.append(NewEvent(event_type=kind, at=at, payload=clean_value(found)))
    return state


# --- usage


def add_usage(tally: UsageTally, line: Mapping[str, Any]) -> tuple[UsageTally, list[dict[str, str]]]:
    """Adds one usage line; returns the new tally and, in field order, what of the line was ignored.

    Numbers of several lines add up; a line with `"cumulative": true` replaces the numbers it names. Names
    (model, provider): the last one wins. A line with prompt and completion but no total counts as having
    their sum as its total.
    """
    values, problems = _usage_values(line)
    cumulative = line.get("cumulative", False)
    if not isinstance(cumulative, bool):
        problems.append({"field": "cumulative", "issue": "not true or false"})
        cumulative = False
    derived = "total_tokens" not in values and {"prompt_tokens", "completion_tokens"} <= values.keys()
    if derived:
        values["total_tokens"] = min(COUNT_MAX, values["prompt_tokens"] + values["completion_tokens"])
    if not cumulative:
        values = {name: _sum(name, getattr(tally, name), value) for name, value in values.items()}
    if "total_tokens" in values:
        values["total_derived"] = derived or (tally.total_derived and not cumulative)
    return msgspec.structs.replace(tally, **values), sorted(problems, key=lambda item: item["field"])


def _sum(name: str, before: Any, value: Any) -> Any:
    if before is None or isinstance(value, str):
        return value
    total = before + value
    return min(COUNT_MAX, total) if name in COUNTS else total


def _usage_values(line: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    values: dict[str, Any] = {}
    problems: list[dict[str, str]] = []
    for spelling, name in USAGE_ALIASES.items():
        if line.get(spelling) is None:
            continue
        issue = "given in two spellings" if name in values else _usage_issue(name, line[spelling])
        if issue is None:
            values[name] = float(line[spelling]) if name == "cost_usd" else line[spelling]
        else:
            problems.append({"field": spelling, "issue": issue})
    return values, problems


def _usage_issue(name: str, value: Any) -> str | None:
    if name in COUNTS:
        if isinstance(value, bool) or not isinstance(value, int):
            return "not an integer"
        return None if 0 <= value <= COUNT_MAX else "out of range"
    if name == "cost_usd":
        return _cost_issue(value)
    if not isinstance(value, str):
        return "not a string"
    plain = bool(value.strip()) and value.isprintable() and len(value) <= NAME_LIMIT
    return None if plain else "empty, too long or not printable"


def _cost_issue(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "not a number"
    if isinstance(value, int):
        return None if 0 <= value <= COUNT_MAX else "out of range"
    return None if math.isfinite(value) and 0 <= value <= COUNT_MAX else "out of range"


# --- how an agent is started

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(prompt|model|session_id)\}")

PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INHERITED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"})
_LOCALE = re.compile(r"LC_[A-Z]+")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|_KEY")


def expand_command(
    command: Sequence[str], *, prompt: str, model: str | None, session_id: str
) -> tuple[str, ...]:
    """The argument list: `{prompt}`, `{model}` (empty when None) and `{session_id}` replaced once.

    `{{` and `}}` are literal braces; other braces stay as they are. What was put in is never looked at
    again, so a prompt cannot name a placeholder. Whether a value may stand where it stands is told by
    `option_like`.
    """
    values = {"prompt": prompt, "model": model or "", "session_id": session_id}

    def fill(found: re.Match[str]) -> str:
        return values[found[1]] if found[1] else found[0][0]

    return tuple(_PLACEHOLDER.sub(fill, argument) for argument in command)


def option_like(command: Sequence[str], *, prompt: str, model: str | None) -> str | None:
    """The name of a placeholder whose value the program would take for an option, or None (FAULTS A8).

    That is a value with a leading `-` at the start of an argument, before any `--`.
    """
    values = {"prompt": prompt, "model": model or ""}
    for argument in command:
        if argument == "--":
            return None
        found = _PLACEHOLDER.match(argument)
        if found and found[1] in values and values[found[1]].startswith("-"):
            return found[1]
    return None


def scrub_environment(base: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """What an agent inherits of `base` (an allow-list that no secret is on), then `extra` on top.

    `extra` is the operator's own choice and passes as it is. PATH is never missing.
    """
    kept = {name: value for name, value in base.items() if _is_inherited(name) and "\0" not in value}
    return {"PATH": PATH_DEFAULT} | kept | dict(extra)


def _is_inherited(name: str) -> bool:
    return (name in INHERITED or _LOCALE.fullmatch(name) is not None) and not _SECRET.search(name)
