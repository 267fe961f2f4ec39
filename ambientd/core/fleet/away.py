"""What becomes of the work of a node that is away: pure."""

from datetime import datetime

from ambientd.core.fleet.records import AwayAssignment
from ambientd.wire.fleet_enums import AwayPolicy, DetachReason

# A node counts from the last answer it got, which may have been on its way for a request's longest time, and
# its clock may run a tenth slower than ours: only after both has it surely stopped.
STOP_GRACE = 150.0  # seconds
STOP_DRIFT = 0.1


def taken_away(
    assignment: AwayAssignment, now: datetime, since: datetime | None = None
) -> DetachReason | None:
    """Why an assignment ends now, None while it stays. `since`: nobody listened before.

    `move`: once its node has been away for the task's time. `stop`: once it is certain that the node has
    stopped the work by itself, so that it never runs twice.
    """
    policy, after_ms = assignment.away.policy, assignment.away.after_ms
    if policy is AwayPolicy.WAIT or after_ms is None:
        return None
    heard = assignment.last_seen if since is None else max(assignment.last_seen, since)
    away = (now - heard).total_seconds()
    after = after_ms / 1000
    if policy is AwayPolicy.MOVE:
        return DetachReason.MOVED if away >= after else None
    return DetachReason.STOPPED if away >= after * (1 + STOP_DRIFT) + STOP_GRACE else None
