"""The steps of a local run in the ledger: begun, running, speaking, ended. Each is one transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from ambientd.config.schema import AgentConfig, SessionsConfig
from ambientd.core.agent_output import expand_command
from ambientd.core.pricing import PriceTable, price_usage
from ambientd.core.records import (
    UNKNOWN_MODEL,
    AuditEntry,
    NewEvent,
    NewSession,
    RunRecord,
    SessionChange,
    SessionRecord,
    UsageRecord,
)
from ambientd.core.session import closing, conclude, transition
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.flows.sessions import SOURCE_VERSION, cancel, note_task_end
from ambientd.ports.runner import ArtifactFile, RunLimits, RunResult, RunSpec
from ambientd.ports.store import Transaction
from ambientd.wire.enums import TERMINAL, EventType, MetricConfidence, MetricSource, SessionStatus

# Events of one session; beyond it output is counted, not kept, so that one chatty agent cannot fill the
# ledger. The shim's own bound on bytes comes first for long lines, this one for short ones.
OUTPUT_EVENTS_MAX = 50_000


def build_spec(
    agent: AgentConfig,
    session: SessionRecord,
    *,
    attempt: int,
    environment: Mapping[str, str],
    bounds: SessionsConfig,
) -> RunSpec:
    """What the shim is told for one attempt."""
    model = None if session.model_id == UNKNOWN_MODEL else session.model_id
    prompt = session.task_text or ""
    own = {"AMBIENT_SESSION_ID": session.session_id, "AMBIENT_AGENT_ID": agent.id}
    if model:
        own["AMBIENT_MODEL"] = model
    return RunSpec(
        session_id=session.session_id,
        attempt=attempt,
        argv=expand_command(agent.command, prompt=prompt, model=model, session_id=session.session_id),
        stdin=prompt,
        environment={**environment, **own},
        workdir=agent.workdir,
        timeout=agent.timeout,
        grace=bounds.grace,
        output_limit=bounds.output_limit,
        line_limit=bounds.line_limit,
        limits=RunLimits(
            memory=agent.memory_limit,
            processes=agent.process_limit,
            file_size=agent.file_size_limit,
            open_files=agent.open_files_limit,
            cpu_time=None if agent.cpu_time_limit is None else max(1, round(agent.cpu_time_limit)),
        ),
    )


def begin(tx: Transaction, session_id: str, at: datetime) -> RunRecord | None:
    """Counts a new attempt of a queued session; None when it must not start any more."""
    session = tx.ledger.get(session_id)
    run = tx.runs.get(session_id)
    if session is None or run is None or session.status is not SessionStatus.QUEUED:
        return None
    if run.end_cause is not None:
        cancel(tx, session, run, at)
        return None
    begun = msgspec.structs.replace(run, attempt=run.attempt + 1, spool_offset=0)
    tx.runs.put(begun)
    return begun


UNKNOWN_AGENT = "unknown"


def adopt(tx: Transaction, session_id: str, attempt: int, at: datetime) -> bool:
    """Gives a live run that the ledger does not know (its database was lost) a row again; False when it
    is known after all. Which agent it is nobody can tell any more."""
    if tx.ledger.get(session_id) is not None:
        return False
    tx.ledger.add(
        NewSession(
            session_id=session_id,
            agent_id=UNKNOWN_AGENT,
            agent_label="unknown (its record was lost)",
            started_at=at,
            source_version=SOURCE_VERSION,
        )
    )
    tx.runs.add(RunRecord(session_id=session_id, attempt=attempt))
    tx.ledger.append(session_id, [transition(None, SessionStatus.QUEUED, at, adopted=True)])
    entry = AuditEntry(kind="session.adopted", at=at, actor="node", subject=session_id)
    tx.audit.append(entry)
    return True


def mark_running(tx: Transaction, session_id: str, started_at: datetime) -> bool:
    """Notes that the agent's process exists. False when the ledger already knew."""
    session = tx.ledger.get(session_id)
    if session is None or session.status is not SessionStatus.QUEUED:
        return False
    tx.ledger.append(session_id, [transition(session.status, SessionStatus.RUNNING, started_at)])
    return tx.ledger.change(session_id, SessionChange(status=SessionStatus.RUNNING, running_since=started_at))


def record_output(
    tx: Transaction, run: RunRecord, events: Sequence[NewEvent], usage: UsageRecord | None
) -> RunRecord:
    """Appends output events and moves the offset in one step; returns the run as stored."""
    room = max(0, OUTPUT_EVENTS_MAX - run.output_events)
    kept, dropped = events[:room], len(events[room:])
    stored = tx.runs.get(run.session_id)
    updated = msgspec.structs.replace(
        run,
        output_events=run.output_events + len(kept),
        output_dropped=run.output_dropped + dropped,
        end_cause=stored.end_cause if stored else run.end_cause,
    )
    if kept:
        tx.ledger.append(run.session_id, kept)
    if usage is not None:
        tx.usage.put(usage)
    tx.runs.put(updated)
    return updated


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a run that has ended."""

    session_id: str
    result: RunResult
    artifacts: tuple[ArtifactFile, ...]
    usage: UsageRecord | None
    timeout: float
    model: str | None = None  # as the agent named it
    prices: PriceTable | None = None  # for a cost that the agent did not report


def finish(tx: Transaction, ending: Ending) -> SessionRecord | None:
    """Closes a session truthfully; None when it had been closed before."""
    session = tx.ledger.get(ending.session_id)
    run = tx.runs.get(ending.session_id) or RunRecord(session_id=ending.session_id)
    if session is None or session.status in TERMINAL:
        return None
    result = ending.result
    ended_at = from_ms(result.ended_at_ms)
    status, code, message = conclude(
        cause=result.cause,
        exit_code=result.exit_code,
        signal=result.signal,
        error=result.error,
        message=result.message,
        end_cause=run.end_cause,
        timeout=ending.timeout,
    )
    started = result.started_at_ms
    if session.status is SessionStatus.QUEUED and started is not None:
        mark_running(tx, session.session_id, from_ms(started))
        session = tx.ledger.get(session.session_id) or session
    tx.ledger.append(session.session_id, _last_events(session, ending, run, status, ended_at))
    model = ending.model if session.model_id == UNKNOWN_MODEL else None
    tx.usage.put(_final_usage(ending, model or session.model_id, ended_at))
    change = closing(
        status,
        ended_at=max(ended_at, session.started_at),
        runtime_ms=result.runtime_ms,
        artifacts=len(ending.artifacts),
        error=(code, message),
    )
    tx.ledger.change(session.session_id, msgspec.structs.replace(change, model_id=model))
    tx.usage.account(session.session_id)
    if run.end_cause is not None:
        tx.audit.append(
            AuditEntry(
                kind="control.kill.result",
                at=ended_at,
                actor="node",
                subject=session.session_id,
                detail={"status": status.value, "proof": result.proof},
            )
        )
    note_task_end(tx, run, status, ended_at)
    return tx.ledger.get(session.session_id)


def close_vanished(tx: Transaction, session_id: str, at: datetime) -> bool:
    """Closes a session whose agent ran and of which nothing is left on disk; False when it never ran.

    How long it ran is not known: its folder, which would tell, was removed while no daemon looked.
    """
    session = tx.ledger.get(session_id)
    if session is None or session.status is not SessionStatus.RUNNING:
        return False
    result = RunResult(
        cause="lost",
        started_at_ms=to_ms(session.running_since or session.started_at),
        ended_at_ms=to_ms(at),
        runtime_ms=0,
        error="runner_lost",
        message="the folder of the run is gone; how the agent ended is not known",
        proof=False,
    )
    usage = tx.usage.get(session_id)
    finish(tx, Ending(session_id=session_id, result=result, artifacts=(), usage=usage, timeout=0.0))
    return True


def close_unrunnable(tx: Transaction, session_id: str, at: datetime, code: str, message: str) -> None:
    """Closes a queued session that can never start: its agent is gone, or cannot be prepared."""
    session = tx.ledger.get(session_id)
    run = tx.runs.get(session_id)
    if session is None or session.status in TERMINAL:
        return
    tx.ledger.append(session_id, [transition(session.status, SessionStatus.FAILED, at, error=code)])
    tx.ledger.change(
        session_id,
        SessionChange(
            status=SessionStatus.FAILED, ended_at=at, runtime_ms=0, error_code=code, error_message=message
        ),
    )
    tx.usage.account(session_id)
    if run is not None:
        note_task_end(tx, run, SessionStatus.FAILED, at)


def _last_events(
    session: SessionRecord, ending: Ending, run: RunRecord, status: SessionStatus, at: datetime
) -> list[NewEvent]:
    result = ending.result
    events = [
        NewEvent(
            event_type=EventType.ARTIFACT,
            at=at,
            payload={"name": item.name, "bytes": item.bytes}
            | ({"sha256": item.sha256} if item.sha256 else {}),
        )
        for item in ending.artifacts
    ]
    lost = {"output_dropped_bytes": result.dropped_bytes, "output_dropped_events": run.output_dropped}
    facts = {key: value for key, value in lost.items() if value}
    if result.survivors_ended:
        facts["processes_ended"] = result.survivors_ended
    events.append(
        transition(
            session.status,
            status,
            at,
            cause=result.cause,
            exit_code=result.exit_code,
            signal=result.signal,
            error=result.error,
            proof=result.proof,
            **facts,
        )
    )
    return events


def _final_usage(ending: Ending, model_id: str, at: datetime) -> UsageRecord:
    """Usage as the agent reported it, a cost estimated if need be, and the runtime that was measured."""
    base = ending.usage or UsageRecord(session_id=ending.session_id, computed_at=at)
    return msgspec.structs.replace(
        price_usage(base, model_id, ending.prices),
        runtime_ms=ending.result.runtime_ms,
        runtime_source=MetricSource.DERIVED,
        runtime_confidence=MetricConfidence.MEDIUM
        if ending.result.error != "runner_lost"
        else MetricConfidence.LOW,
        computed_at=at,
    )
