"""Missed beats: gaps against the interval, silence, and holes in a run's sequence numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ambientd.core.feedevent import is_heartbeat
from ambientd.core.feedline import instant_ms

STALE_SEC = 120
"""The known monitor calls a dispatcher stuck when its last beat is older."""
LATE_SHARE = 1.5
"""A beat later than one and a half intervals after the one before means that one was missed."""
LATE_LEAST_MS = 1000
GAPS_KEPT = 1000


class Gap(NamedTuple):
    """A stretch without beats; `beats` is how many should have been there (0: the interval is unknown).

    `kind`: "silent" (none were made within a run), "restart" (between two runs of a host), "lost" (made
    but never written: a hole in the sequence numbers).
    """

    kind: str
    host_id: str
    run_id: str
    from_ms: int
    to_ms: int
    beats: int


class HostDrift(NamedTuple):
    """One host's beats. A live host must not hide a dead one, so each stands alone."""

    host_id: str
    run_id: str
    runs: int
    beats: int
    first_ms: int
    last_ms: int
    interval_sec: float | None
    longest_gap_ms: int
    age_ms: int
    stale: bool


class DriftReport(NamedTuple):
    """`drift`: a host is stale, beats are missing or lost, or there are none at all.

    Only the first GAPS_KEPT gaps are listed; the counts are whole.
    """

    drift: bool
    beats: int
    missed: int
    lost: int
    hosts: tuple[HostDrift, ...]
    gaps: tuple[Gap, ...]


class _Host:
    def __init__(self, run_id: str, at_ms: int) -> None:
        self.run_id = run_id
        self.runs = 1
        self.beats = 0
        self.first_ms = at_ms
        self.last_ms = at_ms
        self.seq: int | None = None
        self.interval: float | None = None
        self.longest_ms = 0


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if value > 0 else None


class DriftWatch:
    """Folds a feed's lines, in order, into a report."""

    def __init__(self, *, interval: float | None = None, stale: float = STALE_SEC) -> None:
        """`interval` in seconds overrides what the beats say of themselves (`interval_sec`)."""
        self._interval = interval
        self._stale = stale
        self._hosts: dict[str, _Host] = {}
        self._gaps: list[Gap] = []
        self._missed = 0
        self._lost = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """Folds one line; lines that are no heartbeats with a time are passed over."""
        at_ms = instant_ms(event)
        if at_ms is None or not is_heartbeat(event):
            return
        name, run_id = str(event.get("host_id", "")), str(event.get("run_id", ""))
        seq = event.get("heartbeat_seq")
        number = seq if isinstance(seq, int) else None
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(run_id, at_ms)
        else:
            self._compare(name, host, run_id, number, at_ms)
        host.interval = self._interval or _number(event.get("interval_sec"))
        host.seq = number
        host.beats += 1
        host.last_ms = max(host.last_ms, at_ms)

    def _compare(self, name: str, host: _Host, run_id: str, seq: int | None, at_ms: int) -> None:
        passed_ms = at_ms - host.last_ms
        host.longest_ms = max(host.longest_ms, passed_ms)
        late = passed_ms > self._late_ms(host.interval)
        kind = "silent"
        if run_id != host.run_id:
            kind, host.run_id, host.seq = "restart", run_id, None
            host.runs += 1
        skipped = max(0, seq - host.seq - 1) if seq is not None and host.seq is not None else 0
        if skipped:
            self._lost += skipped
            self._add(Gap("lost", name, run_id, host.last_ms, at_ms, skipped))
        elif late:
            beats = max(1, round(passed_ms / (host.interval * 1000)) - 1) if host.interval else 0
            self._missed += max(1, beats)
            self._add(Gap(kind, name, run_id, host.last_ms, at_ms, beats))

    def _late_ms(self, interval: float | None) -> float:
        if interval is None:
            return self._stale * 1000
        return max(interval * 1000 * LATE_SHARE, interval * 1000 + LATE_LEAST_MS)

    def _add(self, gap: Gap) -> None:
        if len(self._gaps) < GAPS_KEPT:
            self._gaps.append(gap)

    def report(self, now_ms: int) -> DriftReport:
        """The verdict at `now_ms`. A last beat from the future is stale as well: it proves nothing."""
        hosts = tuple(self._host_report(name, host, now_ms) for name, host in self._hosts.items())
        bad = not hosts or any(host.stale for host in hosts) or bool(self._missed or self._lost)
        beats = sum(host.beats for host in hosts)
        return DriftReport(bad, beats, self._missed, self._lost, hosts, tuple(self._gaps))

    def _host_report(self, name: str, host: _Host, now_ms: int) -> HostDrift:
        age_ms = now_ms - host.last_ms
        return HostDrift(
            host_id=name,
            run_id=host.run_id,
            runs=host.runs,
            beats=host.beats,
            first_ms=host.first_ms,
            last_ms=host.last_ms,
            interval_sec=host.interval,
            longest_gap_ms=host.longest_ms,
            age_ms=age_ms,
            stale=abs(age_ms) > self._stale * 1000,
        )
