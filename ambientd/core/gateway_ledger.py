"""What a gateway's rows and audit list mean for the ledger: one row per run.

The first run of a gateway's session bears the session's own id, later ones `<session>~<run>`. Instants are
those of the gateway, in milliseconds, until `to_ingest`. A run's start is when it was asked for, as far as
that is known: a row's own `startedAt` moves with every retry.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ambientd.core.contracts.canonical import (
    CanonicalEvent,
    CanonicalIngest,
    CanonicalSession,
    CanonicalUsage,
)
from ambientd.core.gateway_view.kills import KillLog
from ambientd.core.gateway_view.rows import SessionRow, text_of, whole_of
from ambientd.core.gateway_view.status import (
    DONE_WORDS,
    FAILED_WORDS,
    KILLED_WORDS,
    RUNNING_WORDS,
    SETTLING_MS,
)
from ambientd.core.ingest import StoredSession
from ambientd.core.session import transition
from ambientd.core.timefmt import from_ms, to_ms
from ambientd.wire.enums import TERMINAL, SessionStatus

SOURCE = "openclaw-gateway"
PRICING = "openclaw-gateway"  # the gateway's own estimate, from the prices that it is configured with
RESTARTED = "gateway_restart"
RESTARTED_TEXT = "the gateway restarted while it ran"
LOST = "run_lost"
# Two reports of an unnamed run that ended this close together are of the same run.
SAME_END_MS = 2_000

_AUDIT_ENDS: Mapping[str, tuple[SessionStatus, str | None]] = {
    "succeeded": (SessionStatus.SUCCESS, None),
    "failed": (SessionStatus.FAILED, "run_failed"),
    "blocked": (SessionStatus.FAILED, "run_blocked"),
    "timed_out": (SessionStatus.FAILED, "timeout"),
    "timeout": (SessionStatus.FAILED, "timeout"),
    "cancelled": (SessionStatus.KILLED, None),
}


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard of one run; None was not said."""

    gateway_session_id: str
    agent_id: str
    status: SessionStatus
    run_id: str | None = None
    started_ms: int | None = None
    seen_ms: int | None = None  # when it was told of
    ended_ms: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    model: str | None = None
    title: str | None = None
    text: str | None = None
    category: str | None = None
    label: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    provisional: bool = False  # the end may be told otherwise in a moment: a run that is open stays open


class AuditEvent(NamedTuple):
    """One entry of the gateway's audit list: its number, and the report it makes; None when it is none."""

    sequence: int
    report: RunReport | None


class AuditPage(NamedTuple):
    """One page of the gateway's audit list, newest first."""

    events: list[AuditEvent]
    cursor: str | None


# --- what was heard


def report_of_row(row: SessionRow, kills: KillLog) -> RunReport | None:
    """The run that a row tells of; None when it tells of none, or not how it stands."""
    status = _status_of(row, kills)
    if status is None or not row.agent_id:
        return None
    ends = status in TERMINAL
    ended = (row.ended_ms or row.updated_ms or None) if ends else None
    code, message = _error_of(row) if status is SessionStatus.FAILED else (None, None)
    return RunReport(
        gateway_session_id=row.session_id,
        agent_id=row.agent_id,
        status=status,
        run_id=row.run_id,
        started_ms=_start_of(row, ended),
        seen_ms=row.updated_ms or None,
        ended_ms=ended,
        error_code=code,
        error_message=message,
        model=row.model,
        title=row.title,
        input_tokens=row.input_tokens if ends else None,
        output_tokens=row.output_tokens if ends else None,
        cost_usd=row.cost_usd if ends else None,
    )


def _status_of(row: SessionRow, kills: KillLog) -> SessionStatus | None:
    """Sub-agents are sessions of their own: a parent's run has ended when its own part has."""
    if _runs(row):
        return SessionStatus.RUNNING
    if row.status in KILLED_WORDS:
        return SessionStatus.KILLED
    failed = row.status in FAILED_WORDS or row.error is not None
    if failed and row.status not in RUNNING_WORDS:
        return SessionStatus.KILLED if kills.covers(row) else SessionStatus.FAILED
    return SessionStatus.SUCCESS if row.status in DONE_WORDS else None


def _error_of(row: SessionRow) -> tuple[str, str | None]:
    return ("timeout" if row.status == "timeout" else "run_failed"), row.error


def _start_of(row: SessionRow, ended_ms: int | None) -> int | None:
    """When the run was asked for, else the earliest that is known of it."""
    before = ended_ms if ended_ms is not None else row.ended_ms
    asked = row.interaction_ms
    if ended_ms is None:
        known = [at for at in (asked, row.started_ms) if at is not None and at > (before or 0)]
        return min([*known, *[at for at in (row.updated_ms,) if at > (before or 0)]], default=None)
    known = [at for at in (asked, row.started_ms) if at is not None and at <= ended_ms]
    return min(known, default=None)


def parse_audit(payload: object) -> AuditPage | None:
    """The answer of `audit.activity.list`; None when it is none."""
    if not isinstance(payload, Mapping) or not isinstance(payload.get("events"), list):
        return None
    events = []
    for raw in payload["events"]:
        sequence = whole_of(raw.get("sequence")) if isinstance(raw, Mapping) else None
        if sequence is not None:
            events.append(AuditEvent(sequence, _audited(raw)))
    return AuditPage(events, text_of(payload.get("nextCursor")))


def _audited(raw: Mapping[Any, Any]) -> RunReport | None:
    session_id, agent_id = text_of(raw.get("sessionId")), text_of(raw.get("agentId"))
    run_id, at = text_of(raw.get("runId")), whole_of(raw.get("occurredAt"))
    if raw.get("kind") != "agent_run" or None in (session_id, agent_id, run_id, at):
        return None
    began = raw.get("action") == "agent.run.started"
    word = text_of(raw.get("status"), 64) or ""
    status, code = (SessionStatus.RUNNING, None) if began else _AUDIT_ENDS.get(word, (None, None))
    if status is None or not (began or raw.get("action") == "agent.run.finished"):
        return None
    return RunReport(
        gateway_session_id=session_id or "",
        agent_id=agent_id or "",
        status=status,
        run_id=run_id,
        started_ms=at if began else None,
        ended_ms=None if began else at,
        error_code=None if code is None else text_of(raw.get("errorCode"), 64) or code,
    )


def enrich(report: RunReport, row: SessionRow | None) -> RunReport:
    """An audited run with what the session's row adds, as far as the row is of the same run."""
    if row is None or row.session_id != report.gateway_session_id:
        return report
    wish: dict[str, Any] = {"title": row.title}
    if row.run_id == report.run_id:
        wish["model"] = row.model
        if report.status is SessionStatus.FAILED:
            wish["error_message"] = row.error
        if report.status in TERMINAL:
            wish |= {
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "cost_usd": row.cost_usd,
            }
        if report.status is SessionStatus.RUNNING or report.started_ms is None:
            asked = _start_of(row, report.ended_ms)
            if asked is not None:
                wish["started_ms"] = min(asked, report.started_ms or asked)
    return msgspec.structs.replace(
        report, **{name: value for name, value in wish.items() if value is not None}
    )


# --- where it belongs


class Known(NamedTuple):
    """What the ledger holds of a gateway's session: the row of its own id, the run's, the newest runs."""

    first: StoredSession | None
    own: StoredSession | None
    runs: Sequence[StoredSession]


class Place(NamedTuple):
    """The ledger row of a run: a stored one, or a new one under this id, which began `after` the others."""

    session_id: str
    stored: StoredSession | None
    after: datetime | None = None


def run_row_id(gateway_session_id: str, run_id: str) -> str:
    """The id of a later run's row."""
    return f"{gateway_session_id}~{run_id}"


def place(report: RunReport, known: Known, *, skew_ms: int = 0) -> Place | None:
    """The row that a report belongs to; None while that cannot be told. `skew_ms` as in `to_ingest`."""
    ended_ms = None if report.ended_ms is None else report.ended_ms - skew_ms
    found = _find_place(report, known, ended_ms)
    if found is None or found.stored is not None:
        return found
    return found._replace(after=max((row.started_at for row in known.runs), default=None))


def _find_place(report: RunReport, known: Known, ended_ms: int | None) -> Place | None:
    """`ended_ms` is the report's end on this machine's clock, as the stored rows have theirs."""
    if report.run_id is not None:
        return _place_named(report, report.run_id, known, ended_ms)
    unended = [row for row in known.runs if row.status not in TERMINAL]
    if unended:
        return Place(unended[0].session_id, unended[0])
    if ended_ms is not None:
        for row in known.runs:
            if row.ended_at is not None and _is_same_end(row.ended_at, ended_ms):
                return Place(row.session_id, row)
    if not known.runs and known.first is None:
        return Place(report.gateway_session_id, None)
    newest = max((to_ms(row.ended_at) for row in known.runs if row.ended_at), default=None)
    is_news = newest is None or (ended_ms is not None and ended_ms > newest)
    if report.status not in TERMINAL or not is_news:
        return None  # its run will be named, or it is an echo of one that is there
    return Place(run_row_id(report.gateway_session_id, f"t{report.ended_ms}"), None)


def _is_same_end(ended_at: datetime, ended_ms: int) -> bool:
    return abs(to_ms(ended_at) - ended_ms) <= SAME_END_MS


def _place_named(report: RunReport, run_id: str, known: Known, ended_ms: int | None) -> Place:
    first = [known.first] if known.first is not None else []  # which may be too old for `runs`
    named = next((row for row in (*known.runs, *first) if row.run_id == run_id), None)
    found = known.own or named
    if found is not None:
        return Place(found.session_id, found)
    unnamed = next((row for row in known.runs if row.run_id is None and row.status not in TERMINAL), None)
    if unnamed is None and ended_ms is not None:
        ends = [row for row in known.runs if row.run_id is None and row.ended_at is not None]
        unnamed = next((row for row in ends if row.ended_at and _is_same_end(row.ended_at, ended_ms)), None)
    if unnamed is not None:
        return Place(unnamed.session_id, unnamed)
    if known.first is None and not known.runs:
        return Place(report.gateway_session_id, None)
    return Place(run_row_id(report.gateway_session_id, run_id), None)


def as_open(report: RunReport, where: Place) -> RunReport:
    """A provisional end of a run that is not recorded as ended is only told as far as it is certain."""
    ended = where.stored is not None and where.stored.status in TERMINAL
    if not report.provisional or ended:
        return report
    return msgspec.structs.replace(report, status=SessionStatus.RUNNING, ended_ms=None)


def to_ingest(
    report: RunReport, where: Place, at: datetime, *, skew_ms: int = 0, version: str | None = None
) -> CanonicalIngest:
    """The report as the ledger takes it in; `at` is now, `skew_ms` how far the gateway's clock is ahead."""
    stored = where.stored
    status, ended = report.status, _instant(report.ended_ms, skew_ms, at)
    started = stored.started_at if stored else _first_instant(report, where.after, skew_ms, at) or ended or at
    disputed = stored is not None and stored.status in TERMINAL and stored.status is not status
    if stored is not None and disputed and status in TERMINAL:
        status, ended = stored.status, None  # an ended run is never changed back
    if ended is not None:
        ended = max(ended, started)
    failed = status is SessionStatus.FAILED and not disputed
    return CanonicalIngest(
        source=SOURCE,
        session=CanonicalSession(
            session_id=where.session_id,
            agent_id=stored.agent_id if stored else report.agent_id,
            agent_label=report.label,
            status=status,
            started_at=started,
            ended_at=ended,
            run_id=stored.run_id if stored and stored.run_id else report.run_id,
            model_id=report.model,
            task_title=report.title,
            task_text=report.text,
            task_category=report.category,
            error_code=report.error_code if failed else None,
            error_message=report.error_message if failed else None,
            source_version=f"openclaw/{version}" if version else "openclaw",
            gateway_session_id=report.gateway_session_id,
        ),
        usage=_usage(report, status),
        events=tuple(_steps(stored, status, started, ended or at, report.error_code)),
        version="gateway",
    )


def _first_instant(report: RunReport, after: datetime | None, skew_ms: int, now: datetime) -> datetime | None:
    """When a new run began: the session's row may still bear the time of the request before."""
    for ms in (report.started_ms, report.seen_ms):
        found = _instant(ms, skew_ms, now)
        if found is not None and (after is None or found > after):
            return found
    return None


def _instant(ms: int | None, skew_ms: int, now: datetime) -> datetime | None:
    """On this machine's clock, and never in the future."""
    if ms is None:
        return None
    try:
        return min(from_ms(ms - skew_ms), now)
    except ValueError:
        return None


def _usage(report: RunReport, status: SessionStatus) -> CanonicalUsage:
    if status not in TERMINAL or (report.input_tokens is None and report.output_tokens is None):
        return CanonicalUsage()
    provider, slash, _ = (report.model or "").partition("/")
    return CanonicalUsage(
        prompt_tokens=report.input_tokens,
        completion_tokens=report.output_tokens,
        provider=provider if slash else None,
    )


def _steps(
    stored: StoredSession | None, status: SessionStatus, started: datetime, ended: datetime, code: str | None
) -> list[CanonicalEvent]:
    """The steps of the run's life that this report adds."""
    before = stored.status if stored else None
    if before is status or before in TERMINAL:
        return []
    steps = []
    if before is None:
        steps.append(transition(None, SessionStatus.RUNNING, started))
        before = SessionStatus.RUNNING
    if status in TERMINAL:
        error = code if status is SessionStatus.FAILED else None
        steps.append(transition(before, status, ended, error=error))
    return [
        CanonicalEvent(event_type=step.event_type, at=_cut(step.at), payload=step.payload) for step in steps
    ]


def _cut(at: datetime) -> datetime:
    return from_ms(to_ms(at))


# --- runs that nobody tells the end of


class Look(NamedTuple):
    """What is known around an open run, on the gateway's clock.

    `boot_ms`: when the gateway's process was first seen. `other_ms`: since when another run of the session
    has been under way instead. `audited`: an audit list may yet tell how a failure came about.
    """

    row: SessionRow | None
    now_ms: int
    boot_ms: int | None = None
    other_ms: int | None = None
    audited: bool = False
    killed: bool = False


AUDIT_LAG_MS = 5_000
# Messages that are sent to a busy session have runs of their own and do not end the one under way.
# A gateway that came back takes some seconds to go on with what it means to go on with.
RESTARTED_MS = 15_000
OTHER_RUN_MS = 5 * 60 * 1000


def conclude(stored: StoredSession, look: Look, kills: KillLog, *, skew_ms: int = 0) -> RunReport | None:
    """The end of an open run, as far as its session's row tells it; None while it may still run."""
    row = look.row
    restarted = look.boot_ms is not None and to_ms(stored.started_at) + skew_ms < look.boot_ms
    if row is not None and _runs(row):
        wait = AUDIT_LAG_MS if restarted else OTHER_RUN_MS
        if look.other_ms is None or look.now_ms - look.other_ms < wait:
            return None
        return _lost(stored, look, restarted=restarted)
    since_ms = row.updated_ms if row is not None else 0
    settled_ms = look.now_ms - since_ms
    told = None if row is None or is_other_run(stored, row) else report_of_row(row, kills)
    if told is not None and told.status in TERMINAL:
        wait = AUDIT_LAG_MS if look.audited and told.status is SessionStatus.FAILED else 0
        return told if settled_ms >= wait else None
    if restarted:  # whatever the row says, it was written by a process that is gone
        settled_ms, wait = look.now_ms - max(since_ms, look.boot_ms or 0), RESTARTED_MS
    else:
        wait = SETTLING_MS
    return _lost(stored, look, restarted=restarted) if settled_ms >= wait else None


def is_other_run(stored: StoredSession, row: SessionRow) -> bool:
    """Whether the session's row tells of another run than the stored one."""
    return row.run_id is not None and stored.run_id is not None and row.run_id != stored.run_id


def _runs(row: SessionRow) -> bool:
    return row.active is True or (row.active is None and row.status in RUNNING_WORDS)


def _lost(stored: StoredSession, look: Look, *, restarted: bool) -> RunReport:
    """Killed when we know that, else failed: nobody will ever tell how it ended."""
    code = RESTARTED if restarted else LOST
    text = RESTARTED_TEXT if restarted else "the gateway does not tell how it ended"
    return RunReport(
        gateway_session_id=stored.gateway_session_id or stored.session_id,
        agent_id=stored.agent_id,
        status=SessionStatus.KILLED if look.killed else SessionStatus.FAILED,
        run_id=stored.run_id,
        error_code=None if look.killed else code,
        error_message=None if look.killed else text,
    )
