"""Work that the control plane gives: what it asks for, and what a node does about it. Pure."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from ambientd.core.outbox import NUMBER_MAX
from ambientd.core.records import SessionRecord, UsageRecord
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms, to_ms
from ambientd.core.trustedtime import Trusted
from ambientd.wire.enums import TERMINAL, SessionStatus
from ambientd.wire.fleet_enums import AwayPolicy, ExecutionStatus, Verdict

AGENT_SESSION = "agent_session"
CONNECT_ONLY = "connect_only"
TIME_LIMIT = "time_limit"
"""The code in the result of a task that ran longer than it may; the control plane says the same."""
TEXT_MAX = 200
_MILLISECOND = 1000
ERROR_MAX = 500
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # a part of an address as well


class AssignmentState(StrEnum):
    """Life of an assignment on its node."""

    STARTING = "starting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


ENDED = frozenset({AssignmentState.COMPLETED, AssignmentState.FAILED, AssignmentState.STOPPED})
TOLD_AGAIN = ENDED - {AssignmentState.STOPPED}
"""Ends that a control plane is told again when it has forgotten them; what was stopped may begin anew."""


class Told(StrEnum):
    """The last word about an assignment that the control plane has."""

    NOTHING = "nothing"
    IN_PROGRESS = "in_progress"
    ENDED = "ended"


class StopCause(StrEnum):
    """Why the node ends work before its time."""

    AWAY = "away"
    VERDICT = "verdict"
    TIME_LIMIT = "time_limit"


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One task as this node has it. `lease_id` is the lease of a `connect_only` task; `result` is what is
    told of the end; instants are RFC 3339. A session may run for `limit_ms` (None: as long as it likes) from
    `given_at`, which was `begun_boot_ms` of the boot clock of `begun_boot_id`."""

    task_id: str
    attempt: int
    task_type: str
    away_policy: AwayPolicy
    away_after_ms: int | None
    state: AssignmentState
    given_at: str
    session_id: str | None = None
    lease_id: str | None = None
    stop_cause: StopCause | None = None
    result: Any = None
    told: Told = Told.NOTHING
    ended_at: str | None = None
    limit_ms: int | None = None
    begun_boot_id: str | None = None
    begun_boot_ms: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in ENDED


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the control plane tells of it."""

    task_id: str
    attempt: int
    task_type: str
    inputs: Any
    away_policy: AwayPolicy
    away_after_ms: int | None
    max_execution_sec: int


class SessionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of an `agent_session` task."""

    agent_id: str
    prompt: str
    model: str | None = None
    title: str | None = None
    category: str | None = None


class Steps(NamedTuple):
    """What follows from the control plane's word: tasks to begin, tasks to end, and tasks whose end is to be
    told (again)."""

    begin: tuple[Offered, ...]
    stop: tuple[str, ...]
    tell: tuple[str, ...]


def is_sound(offered: Offered) -> bool:
    """Whether this can be kept: a control plane of ours says nothing else."""
    after = offered.away_after_ms
    return (
        _ID.fullmatch(offered.task_id) is not None
        and 1 <= offered.attempt <= NUMBER_MAX
        and (after is None or 1 <= after <= NUMBER_MAX)
        and 1 <= offered.max_execution_sec <= NUMBER_MAX // _MILLISECOND
        and "\0" not in offered.task_type
    )


def read_order(inputs: Any) -> SessionOrder | str:
    """The order in a task's inputs, or what is wrong with it. Further fields are left alone."""
    if not isinstance(inputs, Mapping):
        return "the inputs are no object"
    values: dict[str, str] = {}
    for name in ("agent_id", "prompt", "model", "title", "category"):
        value = inputs.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            return f"inputs.{name} is no string"
        if "\0" in value:
            return f"inputs.{name} holds a NUL character"
        values[name] = value
    for name in ("agent_id", "prompt"):
        if not values.get(name, "").strip():
            return f"inputs.{name} is missing"
    return SessionOrder(**values)


def steps_of(
    verdicts: Mapping[str, Verdict], offered: Iterable[Offered], held: Mapping[str, Assignment]
) -> Steps:
    """Compares the control plane's word with what this node holds.

    Nothing that runs is begun again, and a task of an attempt that has ended here is not begun again either:
    its end was not heard, and is told once more.
    """
    begin, tell = [], []
    for one in offered:
        mine = held.get(one.task_id)
        if mine is None or (mine.has_ended and mine.attempt < one.attempt):
            begin.append(one)
        elif mine.has_ended and (
            verdicts.get(one.task_id) is Verdict.START
            or (verdicts.get(one.task_id) is Verdict.KEEP and mine.told is Told.ENDED)
        ):
            tell.append(one.task_id)
    stop = [
        task_id
        for task_id, verdict in verdicts.items()
        if verdict is Verdict.STOP and task_id in held and not held[task_id].has_ended
    ]
    return Steps(tuple(begin), tuple(stop), tuple(tell))


def overdue(held: Iterable[Assignment], away_ms: int, now: Trusted) -> dict[str, StopCause]:
    """Tasks that this node ends by itself, and why: it has had no answer for longer than they allow, or they
    have run for longer than they may."""
    found = {one.task_id: _left(one, away_ms, now) for one in held}
    return {task_id: min(lefts)[1] for task_id, lefts in found.items() if lefts and min(lefts)[0] <= 0}


def next_overdue(held: Iterable[Assignment], away_ms: int, now: Trusted) -> int | None:
    """In how many milliseconds the next task would be ended so; None when no task asks for it."""
    waits = [max(0, left) for one in held for left, _ in _left(one, away_ms, now)]
    return min(waits, default=None)


def _left(one: Assignment, away_ms: int, now: Trusted) -> list[tuple[int, StopCause]]:
    """In how many milliseconds a task would be ended, for each reason that it can be ended for."""
    if one.has_ended or one.stop_cause is not None:
        return []
    found = []
    if one.away_policy is AwayPolicy.STOP and one.away_after_ms is not None:
        found.append((one.away_after_ms - away_ms, StopCause.AWAY))
    if one.limit_ms is not None and one.session_id is not None:
        found.append((one.limit_ms - _run_ms(one, now), StopCause.TIME_LIMIT))
    return found


def _run_ms(one: Assignment, now: Trusted) -> int:
    """How long a task has run. Within one boot of the machine the boot clock says it, whatever the wall clock
    does meanwhile; over a start of the machine only the wall clock can."""
    if one.begun_boot_ms is not None and one.begun_boot_id == now.boot_id:
        return max(0, now.boot_ms - one.begun_boot_ms)
    return max(0, now.now_ms - to_ms(parse_rfc3339(one.given_at)))


def ended_state(status: SessionStatus, stop_cause: StopCause | None) -> AssignmentState | None:
    """What a session's state means for its task; None while it has not ended."""
    if status not in TERMINAL:
        return None
    if status is SessionStatus.SUCCESS:
        return AssignmentState.COMPLETED
    # What the away policy has ended may be given to another node; what anybody else has ended failed.
    return AssignmentState.STOPPED if stop_cause is StopCause.AWAY else AssignmentState.FAILED


EXECUTION = {
    AssignmentState.COMPLETED: ExecutionStatus.COMPLETED,
    AssignmentState.FAILED: ExecutionStatus.FAILED,
    AssignmentState.STOPPED: ExecutionStatus.STOPPED,
}


def session_result(session: SessionRecord, usage: UsageRecord | None, output: str | None) -> dict[str, Any]:
    """What is told of a session that has ended. `output` is the agent's last message."""
    found: dict[str, Any] = {
        "session_id": session.session_id,
        "status": session.status.value,
        "agent_id": session.agent_id,
        "model_id": session.model_id,
        "runtime_ms": session.runtime_ms,
        "ended_at": None if session.ended_at is None else rfc3339_ms(session.ended_at),
        "artifacts": session.artifact_count,
    }
    if output is not None:
        found["output"] = output
    if session.error_code is not None:
        found["error"] = failure(session.error_code, session.error_message)["error"]
    figures = {} if usage is None else _figures(usage)
    if figures:
        found["usage"] = figures
    return {name: value for name, value in found.items() if value is not None}


def _figures(usage: UsageRecord) -> dict[str, Any]:
    """What is known of it."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens", "cost_usd")
    return {name: value for name in names if (value := getattr(usage, name)) is not None}


def failure(code: str, message: str | None) -> dict[str, Any]:
    """What is told of work that could not be done."""
    return {"error": {"code": code, "message": (message or code)[:ERROR_MAX]}}


def limit_failure(limit_ms: int | None) -> dict[str, Any]:
    """What is told of work that ran longer than it may."""
    seconds = (limit_ms or 0) // _MILLISECOND
    return failure(TIME_LIMIT, f"the {seconds} seconds that the task allows were over")
