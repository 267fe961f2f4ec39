"""What is wrong, in words, with the command that helps; and how bad it is all together."""

from collections.abc import Iterable
from datetime import datetime

from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.enums import Health
from ambientd.wire.messages import HeartbeatStatus, HttpStatus, IntakeStatus, LedgerStatus, Problem

CRITICAL = "critical"
WARNING = "warning"

# A cycle later than this many intervals is a stuck loop as far as an operator is concerned.
LATE_CYCLES = 3


def problems_of(
    *,
    heartbeat: HeartbeatStatus,
    ledger: LedgerStatus,
    intake: IntakeStatus,
    intake_failing: str | None,
    now: datetime,
    others: Iterable[Problem] = (),
) -> list[Problem]:
    """Every problem, the worst first, in a fixed order; `others` are those that were found elsewhere."""
    found = [
        *_ledger_problems(ledger),
        *_heartbeat_problems(heartbeat, now),
        *_intake_problems(intake, intake_failing),
        *others,
    ]
    return sorted(found, key=lambda problem: problem.severity != CRITICAL)


def health_of(problems: Iterable[Problem]) -> Health:
    """Failing with a critical problem, degraded with any, else ok."""
    severities = {problem.severity for problem in problems}
    if CRITICAL in severities:
        return Health.FAILING
    return Health.DEGRADED if severities else Health.OK


def http_problems(http: HttpStatus | None) -> Iterable[Problem]:
    """An API on TCP that was asked for and does not listen."""
    if http is not None and http.enabled and http.address is None and http.reason:
        yield Problem("http.not_listening", WARNING, http.reason, "ambientctl config show --origin")


def _ledger_problems(ledger: LedgerStatus) -> Iterable[Problem]:
    if not ledger.ready:
        yield Problem(
            "ledger.not_ready",
            CRITICAL,
            ledger.reason or "the ledger is not ready",
            "ambientctl migrate status",
        )
    if ledger.degraded:
        yield Problem("ledger.degraded", WARNING, ledger.degraded)


def _heartbeat_problems(heartbeat: HeartbeatStatus, now: datetime) -> Iterable[Problem]:
    if heartbeat.refused:
        yield Problem(
            "feed.refused", WARNING, f"feed not written: {heartbeat.refused}", "ambientctl config show"
        )
    elif heartbeat.failing:
        text = f"feed append failed, {heartbeat.lost} lost: {heartbeat.last_error}"
        yield Problem("feed.failing", WARNING, text, "ambientctl feed drift")
    if heartbeat.file_error:
        # a watchdog that reads the file takes this node for stuck
        text = f"heartbeat.json is not written: {heartbeat.file_error}"
        yield Problem("heartbeat_file.failing", WARNING, text)
    last = heartbeat.last_cycle_at
    if last is not None:
        age = (now - parse_rfc3339(last)).total_seconds()
        if age > LATE_CYCLES * heartbeat.interval_sec + 5:
            yield Problem(
                "dispatcher.late", CRITICAL, f"no cycle for {age:.0f} s", "ambientctl status --watch"
            )


def _intake_problems(intake: IntakeStatus, failing: str | None) -> Iterable[Problem]:
    if failing:
        yield Problem("intake.failing", WARNING, f"the inbox cannot be swept: {failing}")
    if intake.unknown_files:
        text = f"{intake.unknown_files} files in the inbox are not named <name>.json"
        yield Problem("intake.unknown_files", WARNING, text)
    for agent in intake.breakers_open:
        reason = intake.breaker_reasons.get(agent)
        text = f"starts of {agent} keep failing" + (f": {reason}" if reason else "")
        yield Problem(f"breaker.{agent}", WARNING, text, f"ambientctl sessions --agent {agent}")
