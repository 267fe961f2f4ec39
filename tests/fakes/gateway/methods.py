"""The methods a gateway answers, and what a test may put in the place of an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.fakes.gateway.dialect import Dialect
from tests.fakes.gateway.world import Session, World

Json = dict[str, Any]
# What `sessions.describe` leaves out of a row, in both versions.
NOT_DESCRIBED = ("hasActiveRun", "activeRunIds", "hasActiveSubagentRun")
READ, WRITE, ADMIN = "operator.read", "operator.write", "operator.admin"


@dataclass(frozen=True)
class Answer:
    """This payload."""

    payload: Any


@dataclass(frozen=True)
class Fail:
    """This error."""

    code: str
    message: str = "scripted"
    details: Json | None = None
    retryable: bool | None = None
    retry_after_ms: int | None = None

    def error(self) -> Json:
        """The `error` object of the frame."""
        error: Json = {"code": self.code, "message": self.message}
        more = {"details": self.details, "retryable": self.retryable, "retryAfterMs": self.retry_after_ms}
        return error | {name: value for name, value in more.items() if value is not None}


@dataclass(frozen=True)
class Silence:
    """No answer ever."""


@dataclass(frozen=True)
class Delay:
    """The usual answer, computed now, sent after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Close:
    """The connection ends instead of an answer; 1006 without a close frame."""

    code: int
    reason: str = ""


Effect = Answer | Fail | Silence | Delay | Close


class RefusedError(Exception):
    """Raised by a method that refuses."""

    def __init__(self, fail: Fail) -> None:
        super().__init__(fail.message)
        self.fail = fail


class Method(NamedTuple):
    """Scope, parameters of both versions and of the newer only, and the handler."""

    scope: str
    handler: Callable[[World, Dialect, Json], Any]
    params: frozenset[str] = frozenset()
    newer: frozenset[str] = frozenset()
    old_scope: str | None = None  # of protocol 3; "" when the method is absent there


def invalid(message: str, **details: Any) -> RefusedError:
    """INVALID_REQUEST."""
    return RefusedError(Fail("INVALID_REQUEST", message, details or None))


def draining(method: str) -> Fail:
    """What every call gets while the gateway drains."""
    details = {"method": method, "reason": "gateway-restarting", "phase": "accepting"}
    return Fail("UNAVAILABLE", f"{method} unavailable during gateway restart", details, True, 1000)


def answer(name: str, params: Json, world: World, dialect: Dialect, scopes: list[str]) -> Any:
    """The payload of a good answer; raises RefusedError."""
    method = METHODS.get(name)
    if method is None or (not dialect.new and method.old_scope == ""):
        if ADMIN in scopes:
            raise invalid(f"unknown method: {name}")
        raise missing_scope(ADMIN, dialect)
    needed = method.scope if dialect.new or method.old_scope is None else method.old_scope
    if needed not in scopes and ADMIN not in scopes and not (name == "health" and dialect.new):
        raise missing_scope(needed, dialect)
    known = method.params | (method.newer if dialect.new else frozenset())
    unknown = sorted(params.keys() - known)
    if unknown:
        raise invalid(f"invalid {name} params: at root: unexpected property '{unknown[0]}'")
    return method.handler(world, dialect, params)


def missing_scope(scope: str, dialect: Dialect) -> RefusedError:
    """As each version says it."""
    if not dialect.new:
        return invalid(f"missing scope: {scope}")
    details = {"code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope]}
    return RefusedError(Fail("FORBIDDEN", f"missing scope: {scope}", details))


def _health(world: World, dialect: Dialect, _params: Json) -> Any:
    return dialect.health(world)


def _agents_list(world: World, dialect: Dialect, _params: Json) -> Any:
    agents = []
    for agent in world.agents.values():
        row: Json = {"id": agent.id, "workspace": f"<GW_DIR>/workspace/{agent.id}"}
        if agent.name is not None:
            row["name"] = agent.name
        row |= {"agentRuntime": {"id": "auto", "source": "implicit"}, "model": {"primary": agent.model}}
        agents.append(dialect.more(row))
    return dialect.more(
        {"defaultId": world.default_agent(), "mainKey": "main", "scope": "per-sender", "agents": agents}
    )


def _sessions_list(world: World, dialect: Dialect, params: Json) -> Any:
    sessions = world.newest_first()
    if "agentId" in params:
        sessions = [s for s in sessions if s.agent_id == params["agentId"]]
    if params.get("activeOnly"):
        sessions = [s for s in sessions if s.active]
    if "activeMinutes" in params:
        oldest = world.now_ms() - params["activeMinutes"] * 60_000
        sessions = [s for s in sessions if s.updated_at >= oldest]
    if params.get("search"):
        sessions = [s for s in sessions if params["search"] in (s.display_name or "") + s.key]
    limit, offset = params.get("limit", 100), params.get("offset", 0)
    page, total = sessions[offset : offset + limit], len(sessions)
    more = offset + limit < total
    listing: Json = {
        "ts": world.now_ms(),
        "path": "(multiple)",
        "count": len(page),
        "totalCount": total,
        "limitApplied": limit,
        "hasMore": more,
        "defaults": {"modelProvider": "mock", "model": "mock-fast", "contextTokens": 200000},
        "sessions": [dialect.row(session, world.now_ms()) for session in page],
    }
    if dialect.new:
        listing |= {"nextOffset": offset + limit if more else None, "owners": []}
    return dialect.more(listing)


def _find(world: World, name: object) -> Session | None:
    try:
        return world.session(str(name))
    except KeyError:
        return None


def _describe(world: World, dialect: Dialect, params: Json) -> Any:
    session = world.sessions.get(params.get("key", ""))
    if session is None:
        return {"session": None}
    row = dialect.row(session, world.now_ms())
    return {"session": {name: value for name, value in row.items() if name not in NOT_DESCRIBED}}


def _resolve(world: World, dialect: Dialect, params: Json) -> Any:
    label = params.get("label")
    if label is not None:
        found = next((s for s in world.sessions.values() if s.label == label), None)
    else:
        found = _find(world, params.get("sessionId") or params.get("key"))
    if found is None and params.get("allowMissing"):
        return {"ok": False}
    if found is None:
        name = params.get("sessionId") or params.get("key") or label
        raise invalid(f"No session found: {name}")
    return dialect.more({"ok": True, "key": found.key} | ({"agentId": found.agent_id} if dialect.new else {}))


def _create(world: World, dialect: Dialect, params: Json) -> Any:
    repeat = params.get("idempotencyKey")
    if repeat in world.idempotent:
        return world.idempotent[repeat]
    agent_id = params.get("agentId") or world.default_agent() or ""
    if agent_id not in world.agents:
        raise invalid(f'unknown agent id "{agent_id}"')
    label, model = params.get("label"), params.get("model")
    if label is not None and any(s.label == label for s in world.sessions.values()):
        raise invalid(f"label already in use: {label}")
    _check_provider(world, model)
    session = world.create_session(
        agent_id,
        message=params.get("message"),
        model=_full_model(world, model),
        label=label,
        key=params.get("key"),
    )
    provider, _, name = session.model.partition("/")
    made: Json = {
        "ok": True,
        "key": session.key,
        "sessionId": session.session_id,
        "entry": {"sessionId": session.session_id, "updatedAt": session.updated_at},
        "runStarted": session.active,
    }
    if session.active:
        made |= {"runId": session.run_id, "status": "started"}
    if dialect.new:
        made["resolved"] = {"modelProvider": provider, "model": name}
    if repeat is not None:
        world.idempotent[repeat] = made
    return dialect.more(made)


def _check_provider(world: World, model: Any) -> None:
    if not model or "/" not in model:
        return
    provider = model.partition("/")[0]
    if provider not in {known.partition("/")[0] for known in world.models}:
        raise invalid(f'Unknown provider "{provider}". Use /models to list providers.')


def _full_model(world: World, model: Any) -> str | None:
    if model is None or "/" in model:
        return model
    return next((known for known in world.models if known.partition("/")[2] == model), f"mock/{model}")


def _chat_send(world: World, _dialect: Dialect, params: Json) -> Any:
    run_id = params["idempotencyKey"]
    if run_id in world.idempotent:
        return {"runId": run_id, "status": "in_flight"}
    session = _find(world, params["sessionKey"])
    if session is None:
        agent_id = (
            params["sessionKey"].split(":")[1] if ":" in params["sessionKey"] else world.default_agent()
        )
        session = world.create_session(str(agent_id), key=params["sessionKey"])
    if not session.active:
        world.start_run(session.key, message=params["message"], run_id=run_id)
    world.idempotent[run_id] = {"runId": run_id, "status": "started"}
    return world.idempotent[run_id]


def _sessions_send(world: World, _dialect: Dialect, params: Json) -> Any:
    session = world.sessions.get(params["key"])
    if session is None:
        raise invalid(f"session not found: {params['key']}")
    run_id = params.get("idempotencyKey") or world.fresh_id()
    if not session.active:
        world.start_run(session.key, message=params["message"], run_id=run_id)
    return {"runId": run_id, "status": "started"}


def _abort(world: World, _dialect: Dialect, params: Json) -> Any:
    key, run_id = params.get("key"), params.get("runId")
    session = world.sessions.get(key) if key is not None else None
    if key is None:
        session = next((s for s in world.sessions.values() if run_id and s.run_id == run_id), None)
        if session is None:
            message = "session mutation target is unavailable"
            raise invalid(message, code="SESSION_MUTATION_TARGET_REQUIRED", method="sessions.abort")
    nothing = {"ok": True, "abortedRunId": None, "status": "no-active-run"}
    if session is None or (run_id is not None and session.run_id != run_id):
        return nothing
    had_children = session.subagent_active
    aborted = world.kill(session.key)
    if aborted is None and not had_children:
        return nothing
    return {"ok": True, "abortedRunId": aborted, "status": "aborted"}


def _chat_abort(world: World, _dialect: Dialect, params: Json) -> Any:
    aborted = world.kill(params["sessionKey"]) if params["sessionKey"] in world.sessions else None
    return {"ok": True, "aborted": aborted is not None, "runIds": [aborted] if aborted else []}


def _patch(world: World, dialect: Dialect, params: Json) -> Any:
    key, model = params["key"], params.get("model")
    session = world.sessions.get(key)
    expected = params.get("expectedSessionId")
    if expected is not None and (session is None or session.session_id != expected):
        raise invalid(f"Session {key} changed before patch. Retry.", reason="session-changed")
    _check_provider(world, model)
    if session is None:  # as the real one does
        agent_id = key.split(":")[1] if key.count(":") else str(world.default_agent())
        world.create_session(agent_id, key=key)
    session = world.set_model(key, _full_model(world, model))
    provider, _, name = session.model.partition("/")
    entry = {"sessionId": session.session_id, "updatedAt": session.updated_at}
    resolved = {"modelProvider": provider, "model": name}
    return dialect.more({"ok": True, "key": key, "entry": entry, "resolved": resolved})


def _agents_update(world: World, _dialect: Dialect, params: Json) -> Any:
    if params["agentId"] not in world.agents:
        raise invalid(f'agent "{params["agentId"]}" not found')
    world.set_agent_model(params["agentId"], params.get("model"))
    return {"ok": True, "agentId": params["agentId"]}


def _models(world: World, dialect: Dialect, _params: Json) -> Any:
    rows = []
    for model in world.models:
        provider, _, name = model.partition("/")
        row = {"id": name, "name": name, "provider": provider, "contextWindow": 200000}
        rows.append(dialect.more(row | ({"available": True} if dialect.new else {})))
    return dialect.more({"models": rows})


def _audit(world: World, dialect: Dialect, params: Json) -> Any:
    limit = params.get("limit", 100)
    if limit > 500:
        raise invalid("invalid audit.activity.list params: at /limit: must be <= 500")
    cursor = int(params["cursor"]) if params.get("cursor") else None
    tests: Mapping[str, Callable[[Json], bool]] = {
        "kind": lambda e: e["kind"] == params["kind"],
        "runId": lambda e: e["runId"] == params["runId"],
        "agentId": lambda e: e["agentId"] == params["agentId"],
        "sessionKey": lambda e: e["sessionKey"] == params["sessionKey"],
        "status": lambda e: e["status"] == params["status"],
        "after": lambda e: e["occurredAt"] >= params["after"],
        "before": lambda e: e["occurredAt"] < params["before"],
    }
    wanted = [test for name, test in tests.items() if name in params]
    found = [
        entry
        for entry in reversed(world.audit)
        if (cursor is None or entry["sequence"] < cursor) and all(test(entry) for test in wanted)
    ]
    page = [dialect.more(entry) for entry in found[:limit]]
    # The recordings never needed a second page: the name of this field is a guess.
    return {"events": page} | ({"nextCursor": str(page[-1]["sequence"])} if len(found) > limit else {})


def _wait(world: World, _dialect: Dialect, params: Json) -> Any:
    for session in world.sessions.values():
        if session.last_run_id == params["runId"]:
            status = "ok" if session.status == "done" else "error"
            return {"runId": params["runId"], "status": status, "endedAt": session.ended_at}
    return {"runId": params["runId"], "status": "timeout"}


def _agent(world: World, _dialect: Dialect, params: Json) -> Any:
    agent_id = params.get("agentId") or world.default_agent()
    key = params.get("sessionKey") or f"agent:{agent_id}:main"
    session = world.sessions.get(key) or world.create_session(str(agent_id), key=key)
    run_id = world.start_run(session.key, message=params["message"], run_id=params["idempotencyKey"])
    return {"status": "accepted", "runId": run_id}


def _of(*names: str) -> frozenset[str]:
    return frozenset(names)


METHODS: Mapping[str, Method] = {
    "health": Method(READ, _health, _of("probe")),
    "status": Method(READ, lambda _w, d, _p: d.more({"runtimeVersion": d.version, "pid": 1})),
    "last-heartbeat": Method(READ, lambda _w, _d, _p: None),
    "agents.list": Method(READ, _agents_list),
    "agents.update": Method(ADMIN, _agents_update, _of("agentId", "model")),
    "models.list": Method(READ, _models, _of("view")),
    "sessions.list": Method(
        READ,
        _sessions_list,
        _of("limit", "agentId"),
        _of("offset", "activeOnly", "search", "sortBy", "activeMinutes"),
    ),
    "sessions.describe": Method(READ, _describe, _of("key")),
    "sessions.resolve": Method(READ, _resolve, _of("key", "sessionId", "label"), _of("allowMissing")),
    "sessions.subscribe": Method(READ, lambda _w, _d, _p: {"subscribed": True}),
    "sessions.create": Method(
        WRITE, _create, _of("agentId", "message", "model", "label", "key"), _of("idempotencyKey")
    ),
    "sessions.send": Method(WRITE, _sessions_send, _of("key", "message", "idempotencyKey", "timeoutMs")),
    "sessions.abort": Method(WRITE, _abort, _of("key", "runId"), _of("clearQueued")),
    "sessions.patch": Method(WRITE, _patch, _of("key", "model"), _of("expectedSessionId"), old_scope=ADMIN),
    "chat.send": Method(WRITE, _chat_send, _of("sessionKey", "message", "idempotencyKey", "queueMode")),
    "chat.abort": Method(WRITE, _chat_abort, _of("sessionKey", "runId")),
    "agent": Method(WRITE, _agent, _of("message", "agentId", "sessionKey", "idempotencyKey")),
    "agent.wait": Method(WRITE, _wait, _of("runId", "timeoutMs")),
    "tasks.list": Method(
        READ, lambda _w, d, _p: d.more({"tasks": []}), _of("status", "agentId", "limit"), old_scope=""
    ),
    "audit.activity.list": Method(
        READ,
        _audit,
        _of("limit", "cursor", "kind", "runId", "agentId", "sessionKey", "status", "after", "before"),
        old_scope="",
    ),
}
