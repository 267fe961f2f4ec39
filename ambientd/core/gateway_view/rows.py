"""Session rows, agents and health of a gateway out of lenient JSON, whatever the version put into it.

Nothing here refuses a row for a field that is missing, new or of an unexpected type: such a field is not
known. Instants are milliseconds since 1970 on the gateway's clock.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ambientd.core.contracts.checks import COST_MAX_USD, COUNT_MAX

ID_MAX = 512
# How this node names itself to gateways; the node's own name follows.
OWN_NAME = "ambientd on"
NAME_MAX = 200
ERROR_MAX = 500
ERROR_DEPTH = 4  # objects in objects; further in nobody looks for words
# Every status names every agent: ten times as many would hold the loop for a third of a second each time.
AGENTS_MAX = 1_000
# A number past this is no instant or sum that a gateway could mean.
_WHOLE_MAX = 2**53


class SessionRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of one session; None is not known. `updated_ms` orders what is heard of it.

    `run_id` is the run under way, or the last one. Tokens and cost are those of the last run alone, and only
    when the gateway calls them current. `model` is the one in use.
    """

    key: str
    session_id: str
    agent_id: str
    status: str = ""
    active: bool | None = None
    subagent_active: bool = False
    run_id: str | None = None
    error: str | None = None
    aborted: bool = False
    started_ms: int | None = None
    ended_ms: int | None = None
    updated_ms: int = 0
    activity_ms: int = 0
    interaction_ms: int | None = None
    created_ms: int | None = None
    model: str | None = None
    title: str | None = None
    parent_key: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One agent of the gateway's list."""

    id: str
    name: str
    model: str | None = None


class Page(NamedTuple):
    """One page of `sessions.list`. `next_offset` is None where the version does not page by offset."""

    rows: list[SessionRow]
    listed: int
    at_ms: int | None
    more: bool
    next_offset: int | None


class Health(NamedTuple):
    """What `health` says; None is not said."""

    ok: bool | None
    slow: bool
    reason: str | None


def text_of(value: object, limit: int = ID_MAX) -> str | None:
    """A text that can be kept: cut, without lone surrogates; None for anything else and for no text."""
    if not isinstance(value, str) or not value:
        return None
    return value[:limit].encode("utf-8", "replace").decode().replace("\0", "?")


def whole_of(value: object) -> int | None:
    """A whole number from 0 on; floats are cut."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 0 <= value < _WHOLE_MAX else None


def agent_of_key(key: str) -> str | None:
    """The agent in `agent:<id>:…`."""
    kind, _, rest = key.partition(":")
    return rest.partition(":")[0] or None if kind == "agent" else None


def parse_row(raw: object, run_id: str | None = None) -> SessionRow | None:
    """One row; None when it has no key or session id. `run_id` is what an event around it names."""
    if not isinstance(raw, Mapping):
        return None
    key = text_of(raw.get("key")) or text_of(raw.get("sessionKey"))
    session_id = text_of(raw.get("sessionId"))
    if key is None or session_id is None:
        return None
    updated = whole_of(raw.get("updatedAt")) or 0
    times = (updated, _instant_of(raw.get("lastInteractionAt")), _instant_of(raw.get("endedAt")))
    fresh = raw.get("totalTokensFresh") is True
    active = raw.get("hasActiveRun")
    return SessionRow(
        key=key,
        session_id=session_id,
        agent_id=text_of(raw.get("agentId")) or agent_of_key(key) or "",
        status=_word(raw.get("status")),
        active=active if isinstance(active, bool) else None,
        subagent_active=raw.get("hasActiveSubagentRun") is True,
        run_id=_run_of(raw, run_id),
        error=error_of(raw.get("lastRunError")) or error_of(raw.get("error")),
        aborted=raw.get("abortedLastRun") is True,
        started_ms=_instant_of(raw.get("startedAt")),
        ended_ms=_instant_of(raw.get("endedAt")),
        updated_ms=updated,
        activity_ms=max((at for at in times if at is not None), default=0),
        interaction_ms=_instant_of(raw.get("lastInteractionAt")),
        created_ms=_instant_of(raw.get("createdAt")),
        model=_model_of(raw),
        title=_title_of(raw),
        parent_key=text_of(raw.get("parentSessionKey")) or text_of(raw.get("spawnedBy")),
        input_tokens=_count_of(raw.get("inputTokens")) if fresh else None,
        output_tokens=_count_of(raw.get("outputTokens")) if fresh else None,
        cost_usd=_cost_of(raw.get("estimatedCostUsd")) if fresh else None,
    )


def _instant_of(value: object) -> int | None:
    """0 is how programs say that there was none."""
    return whole_of(value) or None


def _title_of(raw: Mapping[Any, Any]) -> str | None:
    label, name = text_of(raw.get("label"), NAME_MAX), text_of(raw.get("displayName"), NAME_MAX)
    if label is None and name is not None and name.startswith(f"{OWN_NAME} "):
        return None  # older gateways call a session by the client that began it
    return label or name


def _word(value: object) -> str:
    return value.strip().casefold()[:64] if isinstance(value, str) else ""


def _run_of(raw: Mapping[Any, Any], named: str | None) -> str | None:
    running = raw.get("activeRunIds")
    if isinstance(running, Sequence) and not isinstance(running, str) and running:
        return text_of(running[-1])
    last = text_of(raw.get("lastRunId"))
    # A run that was only added to another one ends with it, and is not the one that the row tells of.
    return named if raw.get("hasActiveRun") is True else last or named


def error_of(value: object, depth: int = ERROR_DEPTH) -> str | None:
    """The words of an error, told as a text or as an object; None when there is none."""
    if isinstance(value, Mapping):
        for name in ("message", "error", "code", "reason") if depth else ():
            found = error_of(value.get(name), depth - 1)
            if found is not None:
                return found
        return "unknown error" if value else None
    words = text_of(value, ERROR_MAX)
    return None if words is None else " ".join(words.split()) or None


def _model_of(raw: Mapping[Any, Any]) -> str | None:
    """The model in use, else the one that the next run will use."""
    for model, provider in (("activeModel", "activeModelProvider"), ("model", "modelProvider")):
        name, maker = text_of(raw.get(model), NAME_MAX), text_of(raw.get(provider), NAME_MAX)
        if name is not None:
            return name if maker is None or name.startswith(f"{maker}/") else f"{maker}/{name}"
    return None


def _count_of(value: object) -> int | None:
    """Within what may be posted to the ledger too: sums of larger ones would not fit the store."""
    count = whole_of(value)
    return count if count is not None and count <= COUNT_MAX else None


def _cost_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= COST_MAX_USD else None


def parse_page(payload: object) -> Page | None:
    """The answer of `sessions.list`; None when it is none. Rows that make no sense are left out."""
    if not isinstance(payload, Mapping) or not isinstance(payload.get("sessions"), list):
        return None
    raw = payload["sessions"]
    rows = [row for row in map(parse_row, raw) if row is not None]
    total, more = whole_of(payload.get("totalCount")), payload.get("hasMore") is True
    return Page(
        rows=rows,
        listed=len(raw),
        at_ms=whole_of(payload.get("ts")),
        more=more or (payload.get("hasMore") is None and total is not None and total > len(raw)),
        next_offset=whole_of(payload.get("nextOffset")),
    )


def parse_agents(payload: object) -> list[AgentEntry] | None:
    """The answer of `agents.list`, in its order, every id once; the first AGENTS_MAX."""
    if not isinstance(payload, Mapping) or not isinstance(payload.get("agents"), list):
        return None
    found: dict[str, AgentEntry] = {}
    for raw in payload["agents"]:
        if len(found) == AGENTS_MAX:
            break
        agent_id = text_of(raw.get("id")) if isinstance(raw, Mapping) else None
        if agent_id is not None:
            model = raw.get("model")
            primary = model.get("primary") if isinstance(model, Mapping) else model
            found[agent_id] = AgentEntry(
                id=agent_id,
                name=text_of(raw.get("name"), NAME_MAX) or agent_id,
                model=text_of(primary, NAME_MAX),
            )
    return list(found.values())


def parse_health(payload: object) -> Health:
    """The answer or the event `health`."""
    if not isinstance(payload, Mapping):
        return Health(None, False, None)
    ok, loop = payload.get("ok"), payload.get("eventLoop")
    slow = isinstance(loop, Mapping) and loop.get("degraded") is True
    reason = "the gateway's own health check failed" if ok is False else None
    return Health(ok if isinstance(ok, bool) else None, slow, reason)
