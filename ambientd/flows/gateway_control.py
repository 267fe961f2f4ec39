"""Kill, spawn and model for agents of the gateway, and which of them an operator means.

The wish is recorded before anything is asked of the gateway, what came of it after. Nothing is asked by a
part of an id: the exact session is settled first, here and at the gateway.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from ambientd.core.gateway_ledger import RunReport, report_of_row
from ambientd.core.gateway_view.rows import AgentEntry, SessionRow, error_of, parse_row, text_of
from ambientd.core.gateway_view.status import is_active
from ambientd.core.gateway_view.view import GatewayView
from ambientd.core.records import AuditEntry, SessionRecord
from ambientd.core.rejection import Rejected, reject
from ambientd.core.timefmt import rfc3339_ms, to_ms
from ambientd.flows.gateway_ledger import GatewayLedger
from ambientd.flows.gateway_models import check_model
from ambientd.flows.preferred_models import GATEWAY, PreferredModels
from ambientd.flows.sessions import CANDIDATES_SHOWN, check_texts, not_found
from ambientd.ports.clock import Clock
from ambientd.ports.gateway import GatewayLink, GatewayRefusedError, GatewayUnavailableError, LinkPhase
from ambientd.ports.store import Store, Transaction
from ambientd.wire.enums import TERMINAL, SessionStatus
from ambientd.wire.messages import (
    ErrorDetail,
    KillAnswer,
    ModelAnswer,
    ModelRequest,
    SpawnAnswer,
    SpawnRequest,
)

T = TypeVar("T")

ADMIN = "operator.admin"
PATCHED_MAX = 10
RUNS_LOOKED_AT = 20
# A busy session has many runs: with fewer rows they would hide that another session fits too.
ROWS_LOOKED_AT = 500
# A second try of a start is made under the same key, and starts nothing twice.
START_TRIES = 2


class GatewayControl(msgspec.Struct, frozen=True, kw_only=True):
    """What the flows need. `new_key` gives a fresh idempotency key."""

    link: GatewayLink
    view: GatewayView
    ledger: GatewayLedger
    store: Store
    clock: Clock
    models: PreferredModels
    allowed_models: Callable[[], tuple[str, ...]]
    may_set_agents: Callable[[], bool]
    new_key: Callable[[], str]
    pause: Callable[[float], Awaitable[None]]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The session that is meant: one of this node's own, or one of the gateway with its open ledger row.

    `is_run`: a later run was named by its own id, and no other run of its session is meant.
    """

    session_id: str
    gateway_session_id: str | None = None
    run_id: str | None = None
    is_recorded: bool = False
    is_run: bool = False


# --- which session


def find_target(tx: Transaction, fragment: str, seen: list[SessionRow]) -> Target | Rejected:
    """The one session meant by a whole id or a unique part at either end, of the ledger or the gateway's.

    `seen` is what the view has under this fragment. All runs of a gateway's session are one session, unless
    a later run is named by its own id.
    """
    exact = tx.ledger.get(fragment)
    rows = [exact] if exact else tx.ledger.find(fragment, ROWS_LOOKED_AT) if fragment else []
    all_seen = len(rows) < ROWS_LOOKED_AT
    if exact is not None:
        seen = [row for row in seen if row.session_id == fragment]
    elif any(row.session_id == fragment for row in seen):
        rows, all_seen = [row for row in rows if row.gateway_session_id == fragment], True
    groups: dict[str, str] = {}
    for record in rows:
        groups.setdefault(record.gateway_session_id or record.session_id, _shown(record))
    for row in seen:
        groups.setdefault(row.session_id, f"{row.agent_id}  {row.status}  {row.title or ''}".strip())
    if not groups:
        return not_found(tx, fragment)
    if len(groups) > 1 or not all_seen:
        details = tuple(ErrorDetail(name, "candidate", text) for name, text in groups.items())
        many = len(groups) > CANDIDATES_SHOWN
        count = f"more than {CANDIDATES_SHOWN}" if many else str(len(groups)) if all_seen else "too many"
        text = f"{fragment[:64]!r} fits {count} sessions; give more of the id"
        return Rejected("AMBIGUOUS", text, details[:CANDIDATES_SHOWN])
    if rows and rows[0].gateway_session_id is None:
        return Target(session_id=rows[0].session_id)
    return _gateway_target(tx, next(iter(groups)), rows, seen)


def _shown(row: SessionRecord) -> str:
    return f"{row.agent_id}  {row.status}  {row.task_title or ''}".strip()


def _gateway_target(
    tx: Transaction, gateway_session_id: str, rows: list[SessionRecord], seen: list[SessionRow]
) -> Target | Rejected:
    named = rows[0] if len(rows) == 1 and rows[0].session_id != gateway_session_id and not seen else None
    if named is not None and named.status in TERMINAL:
        return _has_ended(named)
    runs = tx.ingest.of_gateway_session(gateway_session_id, RUNS_LOOKED_AT)
    unended = [run for run in runs if run.status not in TERMINAL]
    open_run = next((run for run in unended if named is None or run.session_id == named.session_id), None)
    if open_run is not None:
        return Target(
            session_id=open_run.session_id,
            gateway_session_id=gateway_session_id,
            run_id=open_run.run_id,
            is_recorded=True,
            is_run=named is not None,
        )
    if rows and not any(is_active(row) for row in seen):
        return _has_ended(rows[0])
    run_id = seen[0].run_id if seen else None
    return Target(session_id=gateway_session_id, gateway_session_id=gateway_session_id, run_id=run_id)


def _has_ended(row: SessionRecord) -> Rejected:
    when = f" at {rfc3339_ms(row.ended_at)}" if row.ended_at else ""
    return reject("NOTHING_RUNS", f"session {row.session_id} has already ended: {row.status}{when}")


# --- kill


async def kill(target: Target, control: GatewayControl, *, actor: str) -> KillAnswer | Rejected:
    """Ends the run of a gateway's session; harmless when repeated, and never another session's.

    Answers once the gateway has aborted it; the proof is the ledger's terminal status. Raises what
    `Store.write` raises: without a record nothing is sent.
    """
    session_id = target.gateway_session_id or target.session_id
    if (away := _away(control)) is not None:
        return away
    row = control.view.by_id(session_id)
    other = row is not None and row.run_id is not None and is_active(row) and row.run_id != target.run_id
    if other and target.run_id is not None:
        if target.is_run:
            return reject("NOTHING_RUNS", f"run {target.session_id} is over: another one is under way")
        target = msgspec.structs.replace(target, is_recorded=False)
    target = await _recorded(target, row, control)
    at_ms = control.view.gateway_ms(to_ms(control.clock.now()))
    audit_id = await _record(
        control,
        "control.kill",
        actor,
        target.session_id,
        {"gateway_session": session_id, "run": target.run_id},
    )
    control.view.add_kill(session_id, target.run_id, at_ms)
    answer = await _asking(_abort(control, session_id))
    result: dict[str, Any] = {"audit": audit_id}
    if isinstance(answer, Rejected):
        if answer.code != "GATEWAY_UNAVAILABLE":  # then nobody knows whether it was carried out
            control.view.drop_kill(session_id, target.run_id)
        result["code"] = answer.code
    else:
        result["run"] = answer or target.run_id
        control.view.add_kill(session_id, answer or target.run_id, at_ms)
    await _record(control, "control.kill.result", "node", target.session_id, result)
    if isinstance(answer, Rejected):
        return answer
    return KillAnswer(ok=True, session_id=target.session_id, signal="sent", ended=False, audit_id=audit_id)


async def _recorded(target: Target, row: SessionRow | None, control: GatewayControl) -> Target:
    """A run that the ledger has not heard of gets its row first, so that its end will be seen there."""
    report = None if target.is_recorded or row is None else report_of_row(row, control.view.kills)
    if report is None or report.status in TERMINAL:
        return target
    found = await control.ledger.note_run(report)
    return msgspec.structs.replace(target, session_id=found or target.session_id, run_id=report.run_id)


async def _abort(control: GatewayControl, session_id: str) -> str | Rejected | None:
    """The run that was aborted, None when the gateway does not name it."""
    link = control.link
    try:
        found = await link.call("sessions.resolve", {"sessionId": session_id})
    except GatewayRefusedError as error:
        if error.retryable or error.code != "INVALID_REQUEST" or "scope" in error.message:
            raise
        return reject("NOT_FOUND", f"the gateway has no session {session_id[:64]!r}")
    key = text_of(found.get("key")) if isinstance(found, Mapping) and found.get("ok") is not False else None
    if key is None:
        return reject("NOT_FOUND", f"the gateway has no session {session_id[:64]!r}")
    described = await link.call("sessions.describe", {"key": key})
    row = parse_row(described.get("session") if isinstance(described, Mapping) else None)
    if row is None or row.session_id != session_id:
        # The key goes on to a newer session of the same place: that one is not meant.
        return reject("NOTHING_RUNS", f"session {session_id} has already ended: another has taken its place")
    answer = await link.call("sessions.abort", {"key": key})
    if not isinstance(answer, Mapping) or answer.get("status") != "aborted":
        return reject("NOTHING_RUNS", f"session {session_id} runs nothing")
    return text_of(answer.get("abortedRunId"))


# --- spawn


async def spawn(
    request: SpawnRequest, agent: AgentEntry, control: GatewayControl, *, actor: str
) -> SpawnAnswer | Rejected:
    """Starts a session of a gateway's agent; its id is the gateway's own.

    Raises what `Store.write` raises; before the gateway was asked, nothing was started then.
    """
    problems = check_texts(request)
    if problems:
        return Rejected("VALIDATION_ERROR", "the session cannot be started as asked", tuple(problems))
    if (away := _away(control)) is not None:
        return away
    model = request.model
    if model is not None:
        checked = await _asking(check_model(control.link, model, control.allowed_models(), control.pause))
        if isinstance(checked, Rejected):
            return checked
        model = checked
    model = model or control.models.get(GATEWAY, agent.id)
    audit_id = await _record(
        control, "control.spawn", actor, agent.id, {"agent": agent.id, "kind": GATEWAY, "model": model}
    )
    started = await _asking(_start(control, agent.id, request.prompt, model))
    if isinstance(started, Rejected):
        await _record(control, "control.spawn.result", "node", agent.id, {"code": started.code})
        return started
    session_id, run_id = started
    await control.ledger.note_run(
        RunReport(
            gateway_session_id=session_id,
            agent_id=agent.id,
            status=SessionStatus.RUNNING,
            run_id=run_id,
            started_ms=control.view.gateway_ms(to_ms(control.clock.now())),
            model=model or agent.model,
            title=request.title,
            text=request.prompt,
            category=request.category,
        )
    )
    await _record(control, "control.spawn.result", "node", session_id, {"audit": audit_id, "run": run_id})
    return SpawnAnswer(ok=True, session_id=session_id, status=SessionStatus.RUNNING, audit_id=audit_id)


async def _start(
    control: GatewayControl, agent_id: str, prompt: str, model: str | None
) -> tuple[str, str | None] | Rejected:
    """Session and run that were started, by one call or, on older gateways, by two."""
    key = control.new_key()
    params: dict[str, Any] = {"agentId": agent_id} | ({"model": model} if model else {})
    try:
        answer = await _insisting(
            control, "sessions.create", params | {"message": prompt, "idempotencyKey": key}
        )
    except GatewayRefusedError as error:
        if not _is_older(error):
            raise
        answer = await control.link.call("sessions.create", params)
        session_key = answer.get("key") if isinstance(answer, Mapping) else None
        send = {"sessionKey": session_key, "message": prompt, "idempotencyKey": key}
        sent = await _insisting(control, "chat.send", send)
        run_id = sent.get("runId") if isinstance(sent, Mapping) else None
        answer = {**answer, "runStarted": True, "runId": run_id} if isinstance(answer, Mapping) else {}
    session_id = text_of(answer.get("sessionId")) if isinstance(answer, Mapping) else None
    if session_id is None:
        return reject("GATEWAY_REFUSED", "the gateway's answer names no session")
    if answer.get("runStarted") is False:
        why = (error_of(answer.get("runError")) or "it does not say why")[:300]
        return reject("GATEWAY_REFUSED", f"the gateway made session {session_id} and did not start it: {why}")
    return session_id, text_of(answer.get("runId"))


def _is_older(error: GatewayRefusedError) -> bool:
    """Whether the version, or the way this node is known there, does not go with an idempotency key."""
    return "unexpected property" in error.message or "idempotent session creation" in error.message


async def _insisting(control: GatewayControl, method: str, params: Mapping[str, Any]) -> Any:
    """A call under an idempotency key: without an answer it is made once more, while the link stands."""
    for attempt in range(1, START_TRIES + 1):
        try:
            return await control.link.call(method, params)
        except GatewayUnavailableError:
            if attempt == START_TRIES or control.link.state.phase is not LinkPhase.READY:
                raise
    raise AssertionError("the last attempt returns or raises")


# --- model


async def set_model(
    request: ModelRequest, agent: AgentEntry, control: GatewayControl, *, actor: str
) -> ModelAnswer | Rejected:
    """Keeps an agent's preferred model and brings it to the gateway as far as this node may.

    Sessions that this node starts use it in any case; raises what `Store.write` raises.
    """
    if (away := _away(control)) is not None:
        return away
    model = await _asking(check_model(control.link, request.model, control.allowed_models(), control.pause))
    if isinstance(model, Rejected):
        return model
    chosen = model
    audit_id = await _record(
        control, "control.model", actor, agent.id, {"agent": agent.id, "kind": GATEWAY, "model": chosen}
    )
    await control.store.write(lambda tx: PreferredModels.write(tx, GATEWAY, agent.id, chosen))
    control.models.remember(GATEWAY, agent.id, chosen)
    applied, sessions = ["spawns"], 0
    if control.may_set_agents() and ADMIN in control.link.state.scopes:
        answer = await _asking(control.link.call("agents.update", {"agentId": agent.id, "model": chosen}))
        if isinstance(answer, Rejected):
            await _record(control, "control.model.result", "node", agent.id, {"code": answer.code})
            return answer
        control.view.set_model(agent.id, chosen)
        applied.append("agent")
    else:
        sessions = await _patch_sessions(control, agent, chosen)
    if sessions:
        applied.append("sessions")
    detail = {"audit": audit_id, "applied": applied, "sessions": sessions}
    await _record(control, "control.model.result", "node", agent.id, detail)
    return ModelAnswer(
        ok=True, agent_id=agent.id, model=chosen, applied=applied, sessions=sessions, audit_id=audit_id
    )


async def _patch_sessions(control: GatewayControl, agent: AgentEntry, model: str) -> int:
    """The agent's main and active sessions go on with the model; how many took it."""
    rows = control.view.sessions_of(agent.id)
    main = f"agent:{agent.id}:main"
    chosen = [row for row in rows if row.key == main or is_active(row)]
    if not chosen and rows:
        chosen = [max(rows, key=lambda row: row.activity_ms)]
    taken = 0
    for row in chosen[:PATCHED_MAX]:
        # With the id: an unknown key would make a new session, and another session is not meant.
        params = {"key": row.key, "expectedSessionId": row.session_id, "model": model}
        answer = await _asking(control.link.call("sessions.patch", params))
        taken += not isinstance(answer, Rejected)
    return taken


# --- shared


def _away(control: GatewayControl) -> Rejected | None:
    state = control.link.state
    if state.phase is LinkPhase.READY:
        return None
    why = state.reason or f"the link is {state.phase.value}"
    return reject("GATEWAY_UNAVAILABLE", f"the gateway is not there just now: {why}")


async def _asking(call: Awaitable[T]) -> T | Rejected:
    """What the gateway answers; its refusals and absences as ours."""
    try:
        return await call
    except GatewayUnavailableError as error:
        done = "; it may have been carried out" if error.sent else ""
        return reject("GATEWAY_UNAVAILABLE", f"the gateway did not answer: {error}{done}")
    except GatewayRefusedError as error:
        if error.retryable or error.code == "UNAVAILABLE":
            return reject("GATEWAY_UNAVAILABLE", f"the gateway is busy: {error.message[:300]}")
        return reject("GATEWAY_REFUSED", f"the gateway refused it: {error.message[:300]}")


async def _record(
    control: GatewayControl, kind: str, actor: str, subject: str, detail: Mapping[str, Any]
) -> int:
    entry = AuditEntry(
        kind=kind,
        at=control.clock.now(),
        actor=actor,
        subject=subject,
        detail={name: value for name, value in detail.items() if value is not None},
    )
    return await control.store.write(lambda tx: tx.audit.append(entry))
