"""The status screen: a document becomes lines (LOOK 5.1). Nothing is read, nothing is decided here."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import msgspec

from ambientd.core.connectivitytext import control_line, state_words
from ambientd.core.delta_v_words import delta_v_line
from ambientd.core.gatewaytext import gateway_line
from ambientd.core.leasetext import lease_line
from ambientd.core.outboxtext import outbox_line
from ambientd.core.peertext import peers_line
from ambientd.core.policytext import policy_line
from ambientd.core.text import age, age_of, cut, number, pad, printable, size, width_of
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.autonomy_messages import AuditStatus
from ambientd.wire.enums import AgentStatus, Connectivity, Health
from ambientd.wire.messages import AgentView, AlertsStatus, LedgerStatus, Problem, StatusDocument

NARROWEST = 40
WIDEST = 200
PROBLEM_HELP_COLUMN = 50

_COLOURS = {"good": "32", "look": "33", "act": "31", "off": "2", "run": "36"}
_GLYPHS = {"good": "✓", "look": "!", "act": "✕", "off": "○", "run": "▶", "up": "●"}
_ASCII = {"good": "*", "look": "!", "act": "x", "off": "o", "run": ">", "up": "*"}
_HEALTH = {Health.OK: "good", Health.DEGRADED: "look", Health.FAILING: "act"}
_AGENT = {
    AgentStatus.FAILED: "act",
    AgentStatus.RUNNING: "run",
    AgentStatus.DONE: "good",
    AgentStatus.IDLE: "off",
}
_STATE = {
    Connectivity.ONLINE: "good",
    Connectivity.OFFLINE: "look",
    Connectivity.NO_UPSTREAM: "act",
    Connectivity.UNKNOWN: "off",
}


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How the reader's terminal is: columns, colours, and whether it shows more than ASCII."""

    width: int = 80
    colour: bool = False
    ascii_only: bool = False

    def glyph(self, mark: str) -> str:
        """A mark, coloured when colours are wanted."""
        sign = (_ASCII if self.ascii_only else _GLYPHS)[mark]
        return self.paint(sign, "good" if mark == "up" else mark)

    def paint(self, text: str, mark: str) -> str:
        """State words and marks carry colour, nothing else does."""
        return f"\x1b[{_COLOURS[mark]}m{text}\x1b[0m" if self.colour else text

    def plain(self, text: str) -> str:
        """The text with what the terminal cannot show replaced."""
        if not self.ascii_only:
            return text
        return text.replace("·", "-").replace("…", "..").encode("ascii", "replace").decode()


def render_short(document: StatusDocument, look: Look) -> str:
    """One line for prompts and scripts."""
    return _headline(document, look) + "\n"


def render(document: StatusDocument, look: Look) -> str:
    """The whole screen; every line fits the width."""
    width = min(max(look.width, NARROWEST), WIDEST)
    look = msgspec.structs.replace(look, width=width)
    now = parse_rfc3339(document.generated_at)
    lines = [_headline(document, look), *_rows(document, look, now)]
    if document.agents:
        lines += ["", *_agents(document.agents, look, now)]
    if document.problems:
        lines += ["", *_problems(document.problems, look)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _headline(document: StatusDocument, look: Look) -> str:
    node, mark = document.node, _HEALTH[document.health]
    sign = look.glyph("up" if document.health is Health.OK else mark)
    left = f"{printable(node.name)}  "
    words = _words(document)
    right = f"ambientd {node.version} · up {age(node.uptime_sec)} · pid {node.pid}"
    room = look.width - 2 - width_of(left) - sum(width_of(word) for word, _ in words)
    gap = " " * max(2, room - width_of(right))
    painted = "".join(
        look.paint(look.plain(word), mark) if mark else look.plain(word) for word, mark in words
    )
    return f"{sign} {look.plain(left)}{painted}" + look.plain(cut(gap + right, max(0, room)))


def _words(document: StatusDocument) -> list[tuple[str, str]]:
    """Texts with their colours: the state of the links and how long, and the health when it is not well."""
    health = (document.health.value, _HEALTH[document.health])
    if document.state is None:
        return [health]
    state, passed = state_words(document.state, parse_rfc3339(document.generated_at))
    mark = _STATE[document.state.name]
    # Offline by choice, or with nothing to reach, is no reason for a look.
    if mark != "good" and (document.state.offline or document.control is None or not document.control.url):
        mark = "off"
    words = [(state, mark), (f" · {passed}", "")]
    return words if document.health is Health.OK else [*words, (", ", ""), health]


_Row = tuple[str, str, str]  # name, mark, text


def _rows(document: StatusDocument, look: Look, now: datetime) -> Iterable[str]:
    host = document.node.host_id
    yield _row(("host", "", f"{host[:11]}…{host[-4:]} ({document.node.host_id_source})"), look)
    yield ""
    for row in (*_links(document, now), *_work(document, look), *_watch(document)):
        yield _row(row, look)


def _row(row: _Row, look: Look) -> str:
    name, mark, text = row
    lead = f"  {name:<8} " + (f"{look.glyph(mark)} " if mark else "")
    used = 11 + (2 if mark else 0)
    return lead + look.plain(cut(printable(text), look.width - used))


def _links(document: StatusDocument, now: datetime) -> Iterable[_Row]:
    if document.control is not None:
        yield ("control", *control_line(document.control, document.state, now))
    yield ("gateway", *gateway_line(document.gateway, now))
    yield ("pulse", *_pulse(document, now))
    if document.policy is not None:
        yield ("policy", *policy_line(document.policy))
    if document.peers is not None:
        yield ("peers", *peers_line(document.peers))
    if document.outbox is not None:
        yield ("outbox", *outbox_line(document.outbox, now))


def _work(document: StatusDocument, look: Look) -> Iterable[_Row]:
    yield ("ledger", *_ledger(document.ledger))
    counts = document.sessions
    busy = counts.running + counts.queued
    yield ("sessions", "run" if busy else "off", f"{counts.running} running, {counts.queued} queued")
    yield ("inbox", *_intake(document))
    if document.leases is not None:
        yield ("leases", *lease_line(document.leases))
    if document.delta_v is not None:
        name = "dv" if look.ascii_only else "Δv"
        yield (name, "", delta_v_line(document.delta_v, ascii_only=look.ascii_only))


def _watch(document: StatusDocument) -> Iterable[_Row]:
    if document.alerts is not None:
        yield ("alerts", *_alerts(document.alerts))
    if document.audit is not None and document.audit.reason:
        yield ("audit", *_audit(document.audit))


def _ledger(ledger: LedgerStatus) -> tuple[str, str]:
    if not ledger.ready:
        return "act", f"not ready: {ledger.reason}"
    count = f"{number(ledger.sessions)} session{'' if ledger.sessions == 1 else 's'}"
    text = f"{count}, {size(ledger.bytes)}, schema {ledger.schema_version}"
    return ("look" if ledger.degraded else "good"), text


def _pulse(document: StatusDocument, now: datetime) -> tuple[str, str]:
    beat = document.heartbeat
    every = f"every {beat.interval_sec:g}s"
    if not beat.enabled:
        return "off", f"feed off, {number(beat.cycles)} cycles, {every}"
    if beat.refused:
        return "look", f"not written: {beat.refused}"
    last = age_of(parse_rfc3339(beat.last_at) if beat.last_at else None, now)
    text = f"#{beat.seq} {last} ago, {every}, {number(beat.lost)} lost"
    if beat.clock_clamped_sec:
        text += f", clock held back {beat.clock_clamped_sec:g}s"
    if beat.note:
        text += f" ({beat.note})"
    return ("look" if beat.failing else "good"), text


def _intake(document: StatusDocument) -> tuple[str, str]:
    counts = document.intake
    text = (
        f"{number(counts.committed)} done, {number(counts.error)} failed, {number(counts.rejected)} rejected"
    )
    if counts.blocked:
        text += f", {number(counts.blocked)} blocked"
    if counts.waiting:
        text += f", {number(counts.waiting)} waiting"
    if counts.unknown_files:
        text += f", {number(counts.unknown_files)} with odd names"
    attention = counts.unknown_files or counts.breakers_open
    return ("look" if attention else "good"), text


def _alerts(counts: AlertsStatus) -> tuple[str, str]:
    found = [
        f"{number(count)} {word}"
        for word, count in (
            ("critical", counts.critical),
            ("warning", counts.warning),
            ("muted", counts.muted),
        )
        if count
    ]
    mark = "act" if counts.critical else "look" if counts.warning else "good"
    return mark, ", ".join(found) or "none"


def _audit(audit: AuditStatus) -> tuple[str, str]:
    if audit.broken_at is None:
        return "look", audit.reason or ""
    return "act", f"broken at record {number(audit.broken_at)}: {audit.reason}"


_HEADS = ("AGENT", "STATUS", "SINCE", "SESSION", "MODEL", "TASK")
_NAME_MAX = 24
# Columns that go first when the terminal is narrow, with the width below which they go.
_DROPPED_BELOW = {"MODEL": 70, "SESSION": 50, "TASK": 50}
_RIGHT = frozenset({"SINCE"})


def _agents(agents: list[AgentView], look: Look, now: datetime) -> Iterable[str]:
    shown = [n for n, head in enumerate(_HEADS) if look.width >= _DROPPED_BELOW.get(head, 0)]
    names = Counter(agent.name for agent in agents)
    table = [_HEADS, *(_agent_cells(agent, look, now, clash=names[agent.name] > 1) for agent in agents)]
    widths = {n: min(_NAME_MAX, max(width_of(row[n]) for row in table)) for n in shown}
    for index, row in enumerate(table):
        mark = _AGENT[agents[index - 1].status] if index else None
        line, used = " ", 1
        for n in shown:
            room = min(widths[n], look.width - used - 1) if n != len(_HEADS) - 1 else look.width - used - 1
            text = look.plain(cut(row[n], room))
            line += " " + _cell(_HEADS[n], text, widths[n], mark, look) + " "
            used += max(widths[n], width_of(text)) + (4 if _HEADS[n] == "STATUS" else 2)
        yield line


def _cell(head: str, text: str, width: int, mark: str | None, look: Look) -> str:
    blanks = " " * max(0, width - width_of(text))
    if head == "STATUS":
        return (f"{look.glyph(mark)} {look.paint(text, mark)}" if mark else text + "  ") + blanks
    return blanks + text if head in _RIGHT else text + blanks


def _agent_cells(agent: AgentView, look: Look, now: datetime, *, clash: bool) -> tuple[str, ...]:
    name = f"{agent.name} ({agent.kind})" if clash else agent.name
    since = age_of(parse_rfc3339(agent.since) if agent.since else None, now)
    session = agent.session_id[-8:] if agent.session_id else "-"
    texts = (name, agent.status.value, since, session, agent.model or "-", agent.task or "-")
    return tuple(look.plain(printable(text)) for text in texts)


def _problems(problems: list[Problem], look: Look) -> Iterable[str]:
    yield f"  {len(problems)} problem{'s' if len(problems) != 1 else ''}:"
    for problem in problems:
        mark = "act" if problem.severity == "critical" else "look"
        text = look.plain(printable(problem.text))
        help_text = look.plain(printable(problem.help or ""))
        line = f"  {look.glyph(mark)} "
        room = look.width - 4
        start = max(min(PROBLEM_HELP_COLUMN, room - len(help_text)), width_of(text) + 2)
        if help_text and start + len(help_text) <= room:
            yield line + pad(text, start) + help_text
        else:
            yield line + cut(text, room)
            if help_text:
                yield "      " + cut(help_text, look.width - 6)
