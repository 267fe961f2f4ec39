"""What status, doctor and the local API say of the links, and what of it is a problem."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from ambientd.config.upstream import ControlAddress
from ambientd.core.connectivity import NO_CONTROL_PLANE, Answer, Links, State
from ambientd.core.text import age, age_of
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms
from ambientd.wire.autonomy_messages import ControlStatus, StateStatus
from ambientd.wire.enums import Connectivity
from ambientd.wire.messages import Problem

WORDS = {
    Connectivity.UNKNOWN: "starting",
    Connectivity.ONLINE: "online",
    Connectivity.OFFLINE: "offline",
    Connectivity.NO_UPSTREAM: "no upstream",
}
"""How people call the states."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the links at one moment.

    `since` and `control_since` are instants in the time of the wall clock as it is now; `duration` is in
    seconds, by a clock that nobody sets; `due` is the instant of the next round. `order` is why the node is
    told to stay offline. `failures` counts rounds in a row without the control plane, `lost` changes that
    never got into the audit; `unrecorded` is why others wait for it.
    """

    state: State
    since: datetime
    duration: float
    order: str
    links: Links
    targets: int
    control: ControlAddress | None
    control_answer: Answer | None
    control_since: datetime
    failures: int
    due: datetime
    lost: int = 0
    unrecorded: str | None = None


def state_status(seen: Seen) -> StateStatus:
    """`status.state`."""
    return StateStatus(
        name=seen.state.name,
        since=rfc3339_ms(seen.since),
        reason=seen.state.reason,
        offline=bool(seen.order),
    )


def control_status(seen: Seen) -> ControlStatus:
    """`status.control`. While a link counts as standing, `reason` says what its last round missed."""
    if seen.control is None:
        return ControlStatus(connected=False, reason=NO_CONTROL_PLANE)
    url, since = seen.control.url, rfc3339_ms(seen.control_since)
    if seen.order:
        return ControlStatus(connected=False, url=url, since=since, reason=seen.order)
    connected = seen.state.name is Connectivity.ONLINE
    answer = seen.control_answer
    if answer is not None and answer.ok:
        held = None if connected else "it answers again, and must do so for a while"
        return ControlStatus(
            connected=connected, url=url, since=since, reason=held, latency_ms=answer.latency_ms
        )
    return ControlStatus(
        connected=connected,
        url=url,
        since=since,
        reason=answer.reason if answer is not None else seen.links.none or seen.state.reason,
        next_try_at=rfc3339_ms(seen.due),
        attempt=seen.failures,
    )


def connectivity_problems(seen: Seen) -> Iterable[Problem]:
    """What a person should look at. A node that is told to be offline, or has nothing to reach, is well."""
    state = seen.state
    wants = seen.control is not None or seen.targets > 0
    if state.name is Connectivity.NO_UPSTREAM and wants and not seen.order:
        yield Problem(
            "links.no_upstream", "warning", f"no upstream: {state.reason}", "ambientctl doctor links"
        )
    elif state.name is Connectivity.OFFLINE and seen.control is not None and not seen.order:
        now = control_status(seen)
        what = "not counted on yet" if now.latency_ms is not None else "unreachable"
        text = f"control plane {what}: {now.reason}"
        yield Problem("control.unreachable", "warning", text, "ambientctl doctor control")
    if seen.unrecorded:
        text = f"changes of the links wait for the audit: {seen.unrecorded}"
        yield Problem("links.not_recorded", "warning", text, "ambientctl doctor database")
    elif seen.lost:
        text = f"{seen.lost} changes of the links are missing in the audit"
        yield Problem("links.not_recorded", "warning", text, "ambientctl logs")


def control_line(control: ControlStatus, state: StateStatus | None, now: datetime) -> tuple[str, str]:
    """Mark and text of the status screen's row."""
    if control.url is None:
        return "off", "none configured"
    if control.refused:
        return "act", f"{control.url} refuses this node: {control.refused}"
    if state is not None and state.offline:
        return "off", f"not asked: {control.reason}"
    if control.connected and control.reason is None:
        latency = "" if control.latency_ms is None else f", {control.latency_ms}ms"
        return "good", f"{control.url}{f' as {control.node_id}' if control.node_id else ''}{latency}"
    if control.connected:
        return "look", f"{control.url}, last probe: {control.reason}"
    if state is not None and state.name is Connectivity.UNKNOWN:
        return "look", f"asking {control.url}"
    since = parse_rfc3339(control.since) if control.since else None
    text = f"unreachable for {age_of(since, now)}"
    text += f" ({control.reason})" if control.reason else ""
    if control.next_try_at:
        wait = max(0, round((parse_rfc3339(control.next_try_at) - now).total_seconds()))
        text += f", next try in {wait}s"
    return "act", text


def state_words(state: StateStatus, now: datetime) -> tuple[str, str]:
    """The state and how long, for the head of the status screen: `offline`, `6m12s`."""
    return WORDS[state.name], age(max(0.0, (now - parse_rfc3339(state.since)).total_seconds()))


def links_text(links: Links) -> str:
    """The usable links, for people."""
    named = [f"{link.name}{' (default route)' if link.routed else ''}" for link in links.usable]
    return ", ".join(named)
