"""What a session's row means: the words are compared whole, and a run that was killed has not failed.

First that fits: failed, running, done, idle. For an agent the same order over its sessions that are active
or ended recently (R3.11-R3.18, R3.20).
"""

from collections.abc import Iterable
from typing import NamedTuple

from ambientd.core.gateway_view.kills import KillLog
from ambientd.core.gateway_view.rows import SessionRow
from ambientd.wire.enums import AgentStatus

# An ended session speaks for its agent this long; without a window one old failure would stick for ever.
WINDOW_MS = 15 * 60 * 1000
# A row that says running without an active run is settling; past this it was left behind.
SETTLING_MS = 60 * 1000

SETTLING, STALE = "settling", "stale running row"

FAILED_WORDS = frozenset({"failed", "timeout", "error", "crashed"})
RUNNING_WORDS = frozenset({"running", "queued", "in_progress", "in progress", "executing"})
DONE_WORDS = frozenset({"done", "success", "succeeded", "completed"})
KILLED_WORDS = frozenset({"killed", "cancelled", "canceled", "aborted"})


class Verdict(NamedTuple):
    """What one session is. `killed`: its last run was ended from outside."""

    status: AgentStatus
    reason: str
    killed: bool = False


class AgentVerdict(NamedTuple):
    """What an agent is, the session that says so, and its active sessions, newest first.

    It holds until `until_ms` unless one of the sessions changes; None is for as long as none does.
    """

    status: AgentStatus
    reason: str
    shown: SessionRow | None
    active: tuple[SessionRow, ...]
    activity_ms: int | None
    until_ms: int | None = None


def is_active(row: SessionRow) -> bool:
    """Whether something of this session runs, as far as the row tells."""
    if row.active is None:
        return row.subagent_active or row.status in RUNNING_WORDS
    return row.active or row.subagent_active


def is_settled(row: SessionRow) -> bool:
    """Whether the row does not contradict itself; one that does is worth another look soon."""
    if row.status in RUNNING_WORDS:
        return row.active is not False
    return not (row.active and row.status in FAILED_WORDS | DONE_WORDS | KILLED_WORDS)


def judge(row: SessionRow, now_ms: int, kills: KillLog) -> Verdict:
    """The normalised status of one session; `now_ms` on the gateway's clock."""
    active = is_active(row)
    killed = row.status in KILLED_WORDS or (not active and kills.covers(row))
    if not killed:
        if row.status in FAILED_WORDS:
            return Verdict(AgentStatus.FAILED, row.error or row.status)
        if row.error is not None and not active:
            return Verdict(AgentStatus.FAILED, row.error)
    if active:
        own = row.active is True or not row.subagent_active
        return Verdict(AgentStatus.RUNNING, "active session" if own else "a sub-agent is running")
    if killed:
        return Verdict(AgentStatus.IDLE, "last run killed", killed=True)
    if row.status in DONE_WORDS:
        return Verdict(AgentStatus.DONE, "last session succeeded")
    if row.status in RUNNING_WORDS:
        if now_ms - row.updated_ms <= SETTLING_MS:
            return Verdict(AgentStatus.RUNNING, SETTLING)
        return Verdict(AgentStatus.IDLE, STALE)
    return Verdict(AgentStatus.IDLE, "no run yet" if not row.status else "no active run")


def judge_agent(
    rows: Iterable[SessionRow], now_ms: int, kills: KillLog, window_ms: int = WINDOW_MS
) -> AgentVerdict:
    """The status of an agent from all its known sessions, in whatever order."""
    ordered = sorted(rows, key=lambda row: (row.activity_ms, row.key), reverse=True)
    found = [(row, judge(row, now_ms, kills)) for row in ordered]
    recent = [pair for pair in found if now_ms - pair[0].activity_ms <= window_ms]
    active = tuple(row for row, verdict in found if verdict.status is AgentStatus.RUNNING)
    status, reason, shown = _highest(found, recent, active)
    activity = ordered[0].activity_ms or None if ordered else None
    return AgentVerdict(status, reason, shown, active, activity, _until(recent, window_ms))


def _highest(
    found: list[tuple[SessionRow, Verdict]],
    recent: list[tuple[SessionRow, Verdict]],
    active: tuple[SessionRow, ...],
) -> tuple[AgentStatus, str, SessionRow | None]:
    for row, verdict in recent:
        if verdict.status is AgentStatus.FAILED:
            return AgentStatus.FAILED, verdict.reason, row
    if active:
        first = next(verdict for row, verdict in found if row is active[0])
        reason = first.reason if len(active) == 1 else f"{len(active)} active sessions"
        return AgentStatus.RUNNING, reason, active[0]
    ended = next(((row, verdict) for row, verdict in recent if _has_ended(verdict)), None)
    if ended is not None and ended[1].status is AgentStatus.DONE:
        return AgentStatus.DONE, ended[1].reason, ended[0]
    stale = any(verdict.reason == STALE for _, verdict in found)
    reason = ended[1].reason if ended else STALE if stale else "no recent session"
    return AgentStatus.IDLE, reason, None


def _until(recent: list[tuple[SessionRow, Verdict]], window_ms: int) -> int | None:
    """When time alone changes something: a session leaves the window, or has settled long enough."""
    leaves = [row.activity_ms + window_ms + 1 for row, _ in recent]
    leaves += [row.updated_ms + SETTLING_MS + 1 for row, verdict in recent if verdict.reason == SETTLING]
    return min(leaves, default=None)


def _has_ended(verdict: Verdict) -> bool:
    return verdict.killed or verdict.status is AgentStatus.DONE
