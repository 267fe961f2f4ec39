"""Life of a session: which steps exist, and what an ended run means for the ledger."""

from collections.abc import Mapping
from datetime import datetime
from signal import Signals

from ambientd.core.records import NewEvent, SessionChange
from ambientd.wire.enums import TERMINAL, EventType, SessionStatus

ENDED_BY_OPERATOR = "killed"

# Unlisted steps are errors (HOUSE rule 2). A queued session may fail without ever running: its agent is
# gone from the configuration, or its program cannot be started.
STEPS: Mapping[SessionStatus, frozenset[SessionStatus]] = {
    SessionStatus.QUEUED: frozenset(
        {SessionStatus.RUNNING, SessionStatus.CANCELLED, SessionStatus.FAILED, SessionStatus.KILLED}
    ),
    SessionStatus.RUNNING: TERMINAL,
    SessionStatus.SUCCESS: frozenset(),
    SessionStatus.FAILED: frozenset(),
    SessionStatus.KILLED: frozenset(),
    SessionStatus.CANCELLED: frozenset(),
}


def may_step(before: SessionStatus, after: SessionStatus) -> bool:
    """Whether the life cycle knows this step."""
    return after in STEPS[before]


def transition(
    before: SessionStatus | None, after: SessionStatus, at: datetime, **facts: str | int | bool | None
) -> NewEvent:
    """The `state_transition` event of one step; facts that are None are left out."""
    payload: dict[str, str | int | bool] = {"to": after.value}
    if before is not None:
        payload["from"] = before.value
    payload.update({key: value for key, value in facts.items() if value is not None})
    return NewEvent(event_type=EventType.STATE_TRANSITION, at=at, payload=payload)


def conclude(
    *,
    cause: str,
    exit_code: int | None,
    signal: int | None,
    error: str | None,
    message: str | None,
    end_cause: str | None,
    timeout: float,
) -> tuple[SessionStatus, str | None, str | None]:
    """The truth about an ended run: terminal status, error code and error message.

    What the run did itself goes before what was asked of it: an agent that finished before the signal
    reached it has finished, not been killed. `timeout` is in seconds.
    """
    if error is not None:
        return SessionStatus.FAILED, error, message or error
    if cause == "timeout":
        return SessionStatus.FAILED, "timeout", f"ended after its time limit of {timeout:g} s"
    if cause == "ended":
        if end_cause == ENDED_BY_OPERATOR:
            return SessionStatus.KILLED, None, None
        return SessionStatus.FAILED, "runner_stopped", "ended from outside, not by an operator of this node"
    if signal is not None:
        return SessionStatus.FAILED, "signal", f"ended by {_signal_name(signal)}"
    if exit_code:
        return SessionStatus.FAILED, "exit_status", f"exited with status {exit_code}"
    return SessionStatus.SUCCESS, None, None


def closing(
    status: SessionStatus,
    *,
    ended_at: datetime,
    runtime_ms: int | None,
    artifacts: int,
    error: tuple[str | None, str | None],
) -> SessionChange:
    """The last change of a session's row."""
    code, message = error
    return SessionChange(
        status=status,
        ended_at=ended_at,
        runtime_ms=runtime_ms,
        artifact_count=artifacts,
        error_code=code,
        error_message=message,
    )


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
