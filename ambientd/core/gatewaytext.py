"""The gateway's line on the status screen, and what of it is a problem, with the remedy."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from ambientd.core.text import age_of
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.messages import AgentView, GatewayStatus, Problem

OFF, CONNECTING, WAITING, REFUSED = "off", "connecting", "waiting", "refused"


class GatewaySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What status shows of the gateway at one moment.

    `as_of` is the time of the last good data while they outlive a link that was just lost, else None.
    """

    status: GatewayStatus
    agents: tuple[AgentView, ...] = ()
    as_of: datetime | None = None


NO_GATEWAY = GatewaySnapshot(status=GatewayStatus(connected=False, healthy=False, phase=OFF))


def gateway_line(gateway: GatewayStatus, now: datetime) -> tuple[str, str]:
    """Mark and text, as the other lines of the screen have them."""
    if gateway.phase == OFF:
        return "off", "off"
    if gateway.phase == CONNECTING and not gateway.attempt and not gateway.connected:
        return "look", f"connecting to {gateway.url}"
    if not gateway.connected:
        return "act", _away(gateway, now)
    if gateway.phase in (CONNECTING, WAITING, REFUSED):
        seen = age_of(parse_rfc3339(gateway.as_of) if gateway.as_of else None, now)
        return "look", f"lost {seen} ago, last data shown: {gateway.reason or gateway.phase}"
    count = gateway.agents or 0
    latency = "" if gateway.latency_ms is None else f", {gateway.latency_ms}ms"
    text = f"{gateway.url}{latency}, {count} agent{'' if count == 1 else 's'}"
    if gateway.live == "polling":
        text += ", polled"
    if gateway.healthy:
        return "good", text
    return "look", f"{text}, {gateway.reason or _UNWELL.get(gateway.phase, 'not healthy')}"


_UNWELL = {"draining": "it is about to stop and takes no requests", "ready": "sessions not listed yet"}


def _away(gateway: GatewayStatus, now: datetime) -> str:
    if gateway.phase == REFUSED:
        text = f"refused: {gateway.reason or 'the gateway does not say why'}"
    else:
        since = parse_rfc3339(gateway.since) if gateway.since else None
        text = f"unreachable for {age_of(since, now)}"
        text += f" ({gateway.reason})" if gateway.reason else ""
    if gateway.next_try_at:
        wait = max(0, round((parse_rfc3339(gateway.next_try_at) - now).total_seconds()))
        text += f", next try in {wait}s"
    return text


def gateway_problems(gateway: GatewayStatus) -> Iterable[Problem]:
    """What a person should look at. A gateway that is away is one; none at all is not."""
    where = gateway.remedy or "ambientctl doctor gateway"
    if gateway.phase == REFUSED:
        text = f"the gateway refuses this node: {gateway.reason or 'it does not say why'}"
        yield Problem("gateway.refused", "warning", text, where)
    elif not gateway.connected and (gateway.phase == WAITING or (gateway.attempt or 0) > 1):
        text = f"gateway unreachable: {gateway.reason or 'no answer'}"
        yield Problem("gateway.away", "warning", text, where)
    elif gateway.connected and not gateway.healthy and gateway.reason:
        yield Problem("gateway.unhealthy", "warning", f"gateway: {gateway.reason}", gateway.remedy)
