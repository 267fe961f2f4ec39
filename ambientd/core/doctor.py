"""What `doctor` says of what it found: verdicts over facts, and the report for people.

The checks stand in the order of what depends on what. An id is `<check>.<what>`; both may be asked for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ambientd.core.connectivity import Answer, Links
from ambientd.core.connectivitytext import control_line, links_text
from ambientd.core.gatewaytext import OFF, REFUSED, gateway_line
from ambientd.core.health import LATE_CYCLES
from ambientd.core.power import MODEL, NOTHING_FOUND, Input
from ambientd.core.statustext import Look
from ambientd.core.text import age, age_of, number, pad, printable, size
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire import exits
from ambientd.wire.autonomy_messages import AuditStatus, ControlStatus, DeltaVStatus, StateStatus
from ambientd.wire.doctor_messages import CheckResult
from ambientd.wire.enums import Connectivity, Health, MetricConfidence
from ambientd.wire.messages import GatewayStatus, HeartbeatStatus, LedgerStatus, Problem, StatusDocument

CHECKS = {
    "config.valid": "config",
    "files.private": "files",
    "daemon.answers": "daemon",
    "clock.sane": "clock",
    "database.whole": "database",
    "identity.bound": "identity",
    "audit.chain": "audit",
    "disk.free": "disk",
    "links.up": "links",
    "gateway.link": "gateway",
    "control.link": "control",
    "peers.seen": "peers",
    "pulse.feed": "pulse feed",
    "power.meter": "power",
}
"""Ids of all checks, in their order, with the names that people see."""

NO_CONTROL_PLANE = "no control plane is configured"
NO_GATEWAY = "no gateway is configured, and no token for one was found"
# Below this a day's sessions may not fit; below the second one the next minutes' may not.
DISK_LOW, DISK_OUT = 512 * 1024 * 1024, 32 * 1024 * 1024
INODES_LOW = 1_000
# No node ran before this, so a clock that says so was never set.
CLOCK_BEGINS = 2024
CLOCK_SLACK = timedelta(seconds=5)

_MARKS = {CheckResult.OK: "good", CheckResult.WARN: "look", CheckResult.FAIL: "act"}
_WORDS = {
    CheckResult.OK: ("ok", "ok"),
    CheckResult.WARN: ("warning", "warnings"),
    CheckResult.FAIL: ("failed", "failed"),
    CheckResult.SKIP: ("skipped", "skipped"),
}


class Finding(NamedTuple):
    """What one check came to."""

    result: CheckResult
    text: str
    remedy: str | None = None


def good(text: str) -> Finding:
    """Nothing to do."""
    return Finding(CheckResult.OK, text)


def warn(text: str, remedy: str | None = None) -> Finding:
    """Worth a look."""
    return Finding(CheckResult.WARN, text, remedy)


def fail(text: str, remedy: str | None = None) -> Finding:
    """Something does not work."""
    return Finding(CheckResult.FAIL, text, remedy)


def skip(why: str) -> Finding:
    """Not looked at; `why` goes on after "skipped: "."""
    return Finding(CheckResult.SKIP, f"skipped: {why}")


class Made(NamedTuple):
    """A check that was made, and how long it took."""

    id: str
    finding: Finding
    took_ms: int


def chosen(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ids meant by `wanted` (ids, or their part before the dot; nothing means all), and what means none."""
    if not wanted:
        return list(CHECKS), []
    unknown = [word for word in wanted if not any(_is_meant(name, word) for name in CHECKS)]
    return [name for name in CHECKS if any(_is_meant(name, word) for word in wanted)], unknown


def _is_meant(check_id: str, word: str) -> bool:
    return word in (check_id, check_id.partition(".")[0])


def health_of(made: Iterable[Made]) -> Health:
    """Failing with a failed check, degraded with a warning, else ok."""
    results = {one.finding.result for one in made}
    if CheckResult.FAIL in results:
        return Health.FAILING
    return Health.DEGRADED if CheckResult.WARN in results else Health.OK


EXIT_OF = {Health.OK: exits.DONE, Health.DEGRADED: exits.DEGRADED, Health.FAILING: exits.FAILING}


def render(made: Sequence[Made], took: float, look: Look) -> str:
    """The report for people; `took` is in seconds."""
    lines = []
    for check_id, finding, _ in made:
        mark = _MARKS.get(finding.result)
        sign = "-" if mark is None else look.glyph(mark)
        lines.append(f"{pad(CHECKS[check_id], 12)}{sign} {look.plain(printable(finding.text))}")
        if finding.remedy:
            arrow = "->" if look.ascii_only else "→"
            lines.append(f"{'':16}{arrow} {look.plain(printable(finding.remedy))}")
    counts = Counter(one.finding.result for one in made)
    told = [f"{counts[result]} {_WORDS[result][counts[result] != 1]}" for result in _WORDS if counts[result]]
    return "\n".join([*lines, f"{', '.join(told)} in {took:.1f}s."]) + "\n"


# --- verdicts over what the daemon says of itself


def judge_daemon(status: StatusDocument, *, own_version: str, took_ms: int) -> Finding:
    """A daemon that answered."""
    text = f"{status.node.version}, answers in {took_ms}ms, up {age(status.node.uptime_sec)}"
    if status.node.version != own_version:
        newer = f"{text}; this program is {own_version}"
        return warn(newer, "restart the daemon, so that both are of one version")
    late = _late_cycle(status)
    if late is not None:
        return fail(f"{text}, but its loop has not turned for {late}", "ambientctl logs")
    return good(f"{text}, same version as this program")


def _late_cycle(status: StatusDocument) -> str | None:
    last, now = status.heartbeat.last_cycle_at, parse_rfc3339(status.generated_at)
    if last is None:
        return None
    passed = (now - parse_rfc3339(last)).total_seconds()
    return age(passed) if passed > LATE_CYCLES * status.heartbeat.interval_sec else None


def judge_ledger(ledger: LedgerStatus) -> Finding:
    """The database, as the daemon that holds it says."""
    if not ledger.ready:
        return fail(
            f"not ready: {ledger.reason or 'the daemon does not say why'}", "ambientctl migrate status"
        )
    text = f"schema {ledger.schema_version}, {size(ledger.bytes)}, {number(ledger.sessions)} sessions"
    if ledger.degraded:
        return warn(f"{text}; {ledger.degraded}")
    return good(f"{text}, served by the daemon")


def judge_identity(problems: Iterable[Problem]) -> Finding:
    """The node's key, as the daemon that uses it says."""
    return judge_key(next((one.text for one in problems if one.id == "identity.refused"), None))


def judge_key(problem: str | None) -> Finding:
    """The same by what speaks against the key."""
    return good("the node's key is its own") if problem is None else fail(problem, "ambientctl identity")


def judge_audit(audit: AuditStatus | None) -> Finding:
    """The chain, as the daemon that looks after it says."""
    if audit is None:
        return skip("the daemon has not looked at the chain yet")
    if audit.broken_at is not None:
        return fail(f"broken at record {audit.broken_at}: {audit.reason}", "ambientctl audit verify")
    text = f"{number(audit.records)} records, signed up to #{audit.checkpoint_seq} of #{audit.head_seq}"
    return warn(f"{text}; {audit.reason}", "ambientctl identity") if audit.reason else good(text)


def judge_gateway(gateway: GatewayStatus, now: datetime) -> Finding:
    """The link, as the daemon that keeps it says."""
    if gateway.phase == OFF:
        return skip(NO_GATEWAY)
    mark, text = gateway_line(gateway, now)
    if gateway.connected and mark == "good":
        version = f"{gateway.version}, " if gateway.version else ""
        return good(f"{text}, {version}protocol {gateway.protocol}, token accepted")
    if mark == "act" or gateway.phase == REFUSED:
        return fail(text, gateway.remedy or unreachable_remedy(gateway.url))
    return warn(text, gateway.remedy)


def unreachable_remedy(url: str | None) -> str:
    """What to look at when nobody answers there."""
    return f"is the gateway running, and is gateway.url ({url}) where it listens? openclaw gateway status"


def judge_links(links: Links, *, wanted: bool) -> Finding:
    """The interfaces of this machine; `wanted`: something is configured that needs one."""
    if links.error:
        return warn(links.error)
    if links.none:
        if not wanted:
            return skip(f"{links.none}, and nothing is configured that needs one")
        return fail(links.none, "ip link; ip address")
    text = f"up: {links_text(links)}"
    if any(link.routed for link in links.usable):
        return good(text)
    if not wanted:
        return good(f"{text}; no default route")
    return warn(f"{text}; no default route", "ip route; ip -6 route")


def judge_control(control: ControlStatus, state: StateStatus, now: datetime) -> Finding:
    """The control plane, as the daemon that probes it says."""
    if control.url is None:
        return skip(NO_CONTROL_PLANE)
    mark, text = control_line(control, state, now)
    if mark == "off":
        return skip(text)
    if mark == "good":
        return good(f"{text}, it says it is healthy")
    if mark == "look":
        return warn(text)
    if state.name is Connectivity.NO_UPSTREAM:
        return fail(text, "ambientctl doctor links")
    return fail(text, control_remedy(control.url))


def judge_answer(url: str, answer: Answer) -> Finding:
    """The control plane, as one probe of ours found it."""
    if answer.ok:
        return good(f"{url} answers in {answer.latency_ms}ms, it says it is healthy")
    return fail(f"{url}: {answer.reason}", control_remedy(url))


def control_remedy(url: str) -> str:
    """What to look at when no control plane answers there."""
    return f"is control_plane.url ({url}) right, and does no firewall or log-in page stand before it?"


def judge_beats(heartbeat: HeartbeatStatus, now: datetime) -> Finding | None:
    """What is wrong with the feed as the daemon that writes it says; None when nothing is."""
    if heartbeat.refused:
        return fail(f"the feed's path is refused: {heartbeat.refused}", "ambientctl config show --origin")
    if heartbeat.failing:
        why = heartbeat.last_error or "the daemon does not say why"
        return fail(f"beats are lost ({heartbeat.lost}): {why}", "ambientctl status")
    if heartbeat.last_at is None:
        return None
    last = parse_rfc3339(heartbeat.last_at)
    if (now - last).total_seconds() > LATE_CYCLES * heartbeat.interval_sec:
        return warn(f"the last beat is {age_of(last, now)} old, every {heartbeat.interval_sec:g}s is wanted")
    return None


# --- verdicts over what was looked at


def judge_clock(
    now: datetime, told: Iterable[tuple[str, datetime]], *, synchronised: bool, doubt: str | None = None
) -> Finding:
    """`told` are instants of the past, as this machine wrote them down, with who says so; `doubt` is why the
    daemon does not believe its wall clock."""
    if now.year < CLOCK_BEGINS:
        return fail(f"the clock says {now.year}: it was never set", "timedatectl set-ntp true")
    if doubt is not None:
        return warn(doubt, "ambientctl clock")
    for who, at in told:
        if at - now > CLOCK_SLACK:
            ahead = age((at - now).total_seconds())
            return warn(f"{who} is {ahead} in the future: the clock was set back", "timedatectl set-ntp true")
    return good("synchronised" if synchronised else "runs forward; no peers to compare it with")


def judge_disk(free: int, inodes: int | None, where: str) -> Finding:
    """Free bytes and, where the file system counts them, free inodes for this user."""
    text = f"{size(free)} free in {where}"
    remedy = "ambientctl retention run --dry-run"
    if free < DISK_OUT:
        return fail(text, remedy)
    if inodes is not None and inodes < INODES_LOW:
        return warn(f"{text}, but only {inodes} more files", "remove files on this file system")
    return warn(text, remedy) if free < DISK_LOW else good(text)


NO_METER = "no power meter was found; power is estimated from the time of the cores"
_RAPL_REMEDY = "let the daemon's group read /sys/class/powercap/*/energy_uj (a udev or tmpfiles rule)"


def judge_power(power: Input, problems: Iterable[str]) -> Finding:
    """What this machine's meters said to this program; `problems` are why some said nothing."""
    told = "; ".join(dict.fromkeys(problems))
    if power.confidence is MetricConfidence.LOW:
        if not told:
            return skip(NO_METER)
        remedy = _RAPL_REMEDY if "energy_uj" in told else None
        return Finding(CheckResult.SKIP, f"skipped: {told}; power is estimated", remedy)
    text = f"{power.source} says {power.value:.1f} W, {power.confidence} confidence"
    return good(f"{text} ({told})" if told else text)


def judge_daemon_power(delta_v: DeltaVStatus) -> Finding | None:
    """The meter that the daemon uses; None when it has not taken a sample yet, or found none."""
    if delta_v.source is None:
        return None
    if delta_v.source.startswith(MODEL):
        if delta_v.reason is None or delta_v.reason == NOTHING_FOUND:
            return None
        nothing = Input(value=0.0, source=delta_v.source, confidence=MetricConfidence.LOW)
        return judge_power(nothing, [delta_v.reason])
    return good(f"{delta_v.source}, used by the daemon for Δv, {delta_v.confidence} confidence")
