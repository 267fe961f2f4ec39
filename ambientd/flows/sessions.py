"""Starting and ending sessions on an operator's word."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from ambientd.config.schema import AgentConfig
from ambientd.core.agent_output import option_like
from ambientd.core.records import (
    UNKNOWN_MODEL,
    AuditEntry,
    NewSession,
    RunRecord,
    SessionChange,
    SessionRecord,
    TaskOutcome,
)
from ambientd.core.rejection import Rejected, reject
from ambientd.core.session import ENDED_BY_OPERATOR, transition
from ambientd.core.timefmt import rfc3339_ms
from ambientd.ports.clock import Clock, Ids
from ambientd.ports.control import SessionControl
from ambientd.ports.store import Store, Transaction
from ambientd.wire.enums import TERMINAL, SessionStatus
from ambientd.wire.messages import ErrorDetail, KillAnswer, SpawnAnswer, SpawnRequest
from ambientd.wire.routes import PROMPT_MAX_BYTES

SHORT_TEXT_MAX = 200
CANDIDATES_SHOWN = 10
SOURCE_VERSION = "local/1"

Agents = Mapping[str, AgentConfig]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish for a session, wherever it came from."""

    agent: AgentConfig
    prompt: str
    model: str
    title: str | None
    category: str | None


def check_texts(request: SpawnRequest) -> list[ErrorDetail]:
    """Every problem of the request's texts, in the order of its fields; the agent is not looked at."""
    problems = []
    if not request.prompt.strip():
        problems.append(ErrorDetail("prompt", "empty", "a session needs a prompt"))
    elif len(request.prompt.encode(errors="replace")) > PROMPT_MAX_BYTES:
        problems.append(ErrorDetail("prompt", "too_large", f"longer than {PROMPT_MAX_BYTES} bytes"))
    for field in ("model", "title", "category"):
        text = getattr(request, field)
        if text is not None and not is_short_line(text):
            problems.append(ErrorDetail(field, "bad_text", f"one line of 1 to {SHORT_TEXT_MAX} characters"))
    return problems


def check_order(request: SpawnRequest, agents: Agents) -> Order | Rejected:
    """Names every problem of the request at once, in the order of its fields."""
    problems: list[ErrorDetail] = []
    agent = agents.get(request.agent_id)
    if agent is None:
        known = ", ".join(sorted(agents)) or "none is configured"
        problems.append(ErrorDetail("agentId", "unknown", f"no agent has this id; agents: {known}"))
    texts = check_texts(request)
    problems += [problem for problem in texts if problem.field == "prompt"]
    if agent is not None and request.model is not None and agent.models and request.model not in agent.models:
        allowed = ", ".join(agent.models)
        problems.append(ErrorDetail("model", "not_allowed", "not a model of this agent", expected=allowed))
    problems += [problem for problem in texts if problem.field != "prompt"]
    taken_for_option = agent and option_like(
        agent.command, prompt=request.prompt, model=request.model or agent.model
    )
    if taken_for_option:
        text = "begins with '-' where the agent's program would take it for an option"
        problems.append(ErrorDetail(taken_for_option, "option_like", text))
    if problems or agent is None:
        code = "NOT_FOUND" if agent is None and len(problems) == 1 else "VALIDATION_ERROR"
        text = (
            f"no agent is called {request.agent_id[:64]!r}"
            if code == "NOT_FOUND"
            else "the session cannot be started as asked"
        )
        return Rejected(code, text, tuple(problems))
    return Order(
        agent=agent,
        prompt=request.prompt,
        model=request.model or agent.model or UNKNOWN_MODEL,
        title=request.title,
        category=request.category or agent.category,
    )


def is_short_line(text: str) -> bool:
    """Whether a text can be a name in a list."""
    return 0 < len(text) <= SHORT_TEXT_MAX and text.isprintable()


def record_session(
    tx: Transaction, order: Order, *, session_id: str, at: datetime, actor: str, task_id: str | None = None
) -> int:
    """Writes a new session with its run, first event and audit record; returns the audit number."""
    audit_id = tx.audit.append(
        AuditEntry(
            kind="control.spawn",
            at=at,
            actor=actor,
            subject=session_id,
            detail={"agent": order.agent.id, "model": order.model},
        )
    )
    tx.ledger.add(
        NewSession(
            session_id=session_id,
            agent_id=order.agent.id,
            agent_label=order.agent.name or order.agent.id,
            model_id=order.model,
            task_title=order.title,
            task_text=order.prompt,
            task_category=order.category,
            status=SessionStatus.QUEUED,
            started_at=at,
            source_version=SOURCE_VERSION,
        )
    )
    tx.runs.add(RunRecord(session_id=session_id, attempt=0, task_id=task_id))
    tx.ledger.append(session_id, [transition(None, SessionStatus.QUEUED, at)])
    return audit_id


async def spawn(
    request: SpawnRequest,
    *,
    agents: Agents,
    store: Store,
    control: SessionControl,
    clock: Clock,
    ids: Ids,
    actor: str,
) -> SpawnAnswer | Rejected:
    """Accepts a session: durable when this returns, started as soon as its agent has room.

    Raises what `Store.write` raises; nothing is written then.
    """
    order = check_order(request, agents)
    if isinstance(order, Rejected):
        return order
    accepted = order
    at = clock.now()
    session_id = ids.session_id(at)

    def work(tx: Transaction) -> int:
        return record_session(tx, accepted, session_id=session_id, at=at, actor=actor)

    try:
        audit_id = await store.write(work)
    finally:
        control.wake()  # also for a caller who hung up while the commit was being finished
    return SpawnAnswer(ok=True, session_id=session_id, status=SessionStatus.QUEUED, audit_id=audit_id)


def resolve(tx: Transaction, fragment: str) -> SessionRecord | Rejected:
    """The one session meant by a whole id, or by a unique prefix or suffix."""
    exact = tx.ledger.get(fragment)
    if exact is not None:
        return exact
    found = tx.ledger.find(fragment, CANDIDATES_SHOWN + 1) if fragment else []
    if not found:
        return not_found(tx, fragment)
    if len(found) == 1:
        return found[0]
    details = tuple(
        ErrorDetail(
            row.session_id, "candidate", f"{row.agent_id}  {row.status}  {row.task_title or ''}".strip()
        )
        for row in found[:CANDIDATES_SHOWN]
    )
    count = f"more than {CANDIDATES_SHOWN}" if len(found) > CANDIDATES_SHOWN else str(len(found))
    return Rejected("AMBIGUOUS", f"{fragment[:64]!r} fits {count} sessions; give more of the id", details)


def not_found(tx: Transaction, fragment: str) -> Rejected:
    """No session is meant by this id."""
    return reject("NOT_FOUND", f"no session has the id {fragment[:64]!r}{_purged(tx)}")


def _purged(tx: Transaction) -> str:
    """Says that it may have been there: an id that is gone looks like one that never was."""
    before = tx.retention.purged_before()
    if before is None:
        return ""
    return f"; it may have been purged: sessions that ended before {rfc3339_ms(before)} are removed"


class _Decision(msgspec.Struct, frozen=True):
    session_id: str
    audit_id: int
    ended: bool


async def kill(
    fragment: str, *, store: Store, control: SessionControl, clock: Clock, actor: str
) -> KillAnswer | Rejected:
    """Ends a session: a queued one is cancelled at once, a running one is told to end.

    The wish is durable before anything is signalled, so a restart in between does not lose it. The answer
    comes when the shim has the order; the proof is the ledger's terminal status. Raises UnavailableError
    when the shim does not answer (the order stays recorded), and what `Store.write` raises.
    """
    at = clock.now()

    def work(tx: Transaction) -> _Decision | Rejected:
        session = resolve(tx, fragment)
        if isinstance(session, Rejected):
            return session
        if session.gateway_session_id is not None and session.status not in TERMINAL:
            text = f"session {session.session_id} runs at a gateway, and none is configured"
            return reject("GATEWAY_UNAVAILABLE", text)
        if session.status in TERMINAL:
            when = f" at {rfc3339_ms(session.ended_at)}" if session.ended_at else ""
            return reject(
                "NOTHING_RUNS", f"session {session.session_id} has already ended: {session.status}{when}"
            )
        audit_id = tx.audit.append(
            AuditEntry(kind="control.kill", at=at, actor=actor, subject=session.session_id)
        )
        waits = not control.holds(session.session_id)
        return _Decision(session.session_id, audit_id, _order_end(tx, session, at, waits=waits))

    try:
        decision = await store.write(work)
        if isinstance(decision, Rejected):
            return decision
        await control.end(decision.session_id)
    finally:
        control.wake()  # whatever became of this caller, a recorded end is carried out
    return KillAnswer(
        ok=True,
        session_id=decision.session_id,
        signal="cancelled" if decision.ended else "sent",
        ended=decision.ended,
        audit_id=decision.audit_id,
    )


def _order_end(tx: Transaction, session: SessionRecord, at: datetime, *, waits: bool) -> bool:
    """Records the wish; True when the session ended by it at once because nothing of it runs.

    Should it be picked to start at this very moment, the start finds it cancelled: both are decided in
    transactions of the one writer.
    """
    run = tx.runs.get(session.session_id) or RunRecord(session_id=session.session_id)
    if session.status is SessionStatus.QUEUED and (waits or run.attempt == 0):
        cancel(tx, session, run, at)
        return True
    tx.runs.put(msgspec.structs.replace(run, end_cause=ENDED_BY_OPERATOR))
    return False


def cancel(tx: Transaction, session: SessionRecord, run: RunRecord, at: datetime) -> None:
    """Closes a session that never ran."""
    tx.ledger.append(session.session_id, [transition(session.status, SessionStatus.CANCELLED, at)])
    tx.ledger.change(
        session.session_id, SessionChange(status=SessionStatus.CANCELLED, ended_at=at, runtime_ms=0)
    )
    tx.usage.account(session.session_id)
    note_task_end(tx, run, SessionStatus.CANCELLED, at)


def note_task_end(tx: Transaction, run: RunRecord, status: SessionStatus, at: datetime) -> None:
    """Writes the outcome of the spool task behind a session, if there is one."""
    if run.task_id is None:
        return
    before = tx.tasks.get(run.task_id)
    outcome = "committed" if status is SessionStatus.SUCCESS else "error"
    tx.tasks.put(
        TaskOutcome(
            task_id=run.task_id,
            outcome=outcome,
            session_id=run.session_id,
            file_name=before.file_name if before else "",
            at=at,
        )
    )
    tx.tasks.count(outcome)
