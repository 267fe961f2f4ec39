"""A session of the ledger for people: cells of a table, or a block of named lines."""

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Column, Screen
from ambientctl.text import clock_time, cost, duration, inert, instant, short_id, size, tokens
from ambientd.wire.enums import TERMINAL

PROMPT_LINES = 12


def _id(item: Document, screen: Screen) -> str:
    whole = wire.text(item, "sessionId")
    return inert(whole) if screen.wide else short_id(whole)


def _model(item: Document, screen: Screen) -> str:
    name = wire.text(item, "modelId")
    if name in ("", "unknown"):
        return "-"
    return inert(name if screen.wide else name.rpartition("/")[2] or name)


def task_of(item: Document) -> str:
    """Title, else the first line of the prompt."""
    text = wire.text(item, "taskTitle") or wire.text(item, "taskText").strip().partition("\n")[0]
    return inert(text) or "-"


def running_seconds(item: Document, at: float) -> float:
    """How long a session has run, or has waited while it is queued."""
    status = wire.text(item, "status")
    if status in TERMINAL:
        return (wire.number(item, "runtimeMs") or 0) / 1000
    since = wire.text(item, "runningSince") if status == "running" else ""
    begun = instant(since or wire.text(item, "startedAt"))
    return max(0.0, at - begun) if begun is not None else 0.0


COLUMNS = (
    Column("SESSION", "sessionId", _id),
    Column("AGENT", "agentId", lambda item, _: inert(wire.text(item, "agentId"))),
    Column("STATUS", "status", lambda item, screen: screen.state(wire.text(item, "status"))),
    Column("STARTED", "startedAt", lambda item, s: clock_time(wire.text(item, "startedAt"), s.now)),
    Column("TIME", "runtimeMs", lambda item, s: duration(running_seconds(item, s.now)), right=True),
    Column("TOKENS", "totalTokens", lambda item, _: tokens(wire.number(item, "totalTokens")), right=True),
    Column(
        "COST",
        "costUsd",
        lambda item, _: cost(wire.number(item, "costUsd"), wire.text(item, "costConfidence")),
        right=True,
    ),
    Column("MODEL", "modelId", _model),
    Column(
        "CATEGORY", "taskCategory", lambda i, _: inert(wire.text(i, "taskCategory")) or "-", only_wide=True
    ),
    Column("ERROR", "errorCode", lambda i, _: inert(wire.text(i, "errorCode")) or "-", only_wide=True),
    Column("TASK", "taskTitle", lambda item, _: task_of(item)),
)


def session_lines(document: Document, screen: Screen) -> list[str]:
    """The session as a block of named lines."""
    row = wire.part(document, "ledger")
    state = screen.state(wire.text(row, "status"))
    time = duration(running_seconds(row, screen.now))
    lines = [
        _named("Session", inert(wire.text(row, "sessionId"))),
        _named("Agent", inert(wire.text(row, "agentId")) + _in_brackets(_model(row, screen))),
        _named("Status", f"{screen.paint(*state)} {time}"),
        _named("Started", clock_time(wire.text(row, "startedAt"), screen.now)),
    ]
    if wire.text(row, "endedAt"):
        lines.append(_named("Ended", clock_time(wire.text(row, "endedAt"), screen.now)))
    if wire.text(row, "errorCode"):
        lines.append(
            _named("Error", inert(f"{wire.text(row, 'errorCode')}: {wire.text(row, 'errorMessage')}"))
        )
    usage = wire.part(document, "usage")
    if wire.number(usage, "totalTokens") is not None:
        spent = cost(wire.number(usage, "costUsd"), wire.text(usage, "costConfidence"))
        lines.append(_named("Usage", f"{tokens(wire.number(usage, 'totalTokens'))} tokens, {spent}"))
    if wire.text(row, "taskTitle"):
        lines.append(_named("Task", inert(wire.text(row, "taskTitle"))))
    for item in wire.rows(document, "artifacts"):
        facts = size(wire.number(item, "bytes") or 0)
        lines.append(_named("Artifact", f"{inert(wire.text(item, 'name'))} ({facts})"))
    lines += _prompt_lines(wire.text(row, "taskText"))
    events = len(wire.rows(document, "events"))
    lines.append(_named("Events", f"{events}, see: ambientctl sessions events {_id(row, screen)}"))
    return lines


def _named(name: str, text: str) -> str:
    return f"{name:<8}  {text}"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text != "-" else ""


def _prompt_lines(text: str) -> list[str]:
    lines = text.rstrip().split("\n") if text.strip() else []
    shown = [_named("Prompt" if place == 0 else "", inert(line)) for place, line in enumerate(lines)]
    if len(shown) > PROMPT_LINES:
        shown = [*shown[:PROMPT_LINES], _named("", f"({len(lines) - PROMPT_LINES} more lines: --json)")]
    return [line.rstrip() for line in shown]
