"""When a node that says nothing counts as unknown, then as offline: pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from ambientd.core.fleet.records import DEFAULT_REPORT_INTERVAL_MS, QuietNode, StatusChange
from ambientd.wire.fleet_enums import NodeStatus


class LivenessTimes(NamedTuple):
    """Seconds without a report, for a node that reports every minute; longer ones for one that does so less
    often, in proportion."""

    unknown_after: float = 180.0
    offline_after: float = 900.0


def status_at(
    node: QuietNode, now: datetime, times: LivenessTimes, since: datetime | None = None
) -> NodeStatus:
    """Where an online or unknown node stands at `now`. Only a report makes it better.

    `since`: nobody listened before.
    """
    factor = max(1.0, node.report_interval_ms / DEFAULT_REPORT_INTERVAL_MS)
    heard = node.last_seen if since is None else max(node.last_seen, since)
    silent = (now - heard).total_seconds()
    if silent >= times.offline_after * factor:
        return NodeStatus.OFFLINE
    if silent >= times.unknown_after * factor:
        return NodeStatus.UNKNOWN
    return node.status


def suspects_before(now: datetime, times: LivenessTimes) -> datetime:
    """Nodes that were seen at or after this instant need not be looked at."""
    return now - timedelta(seconds=min(times.unknown_after, times.offline_after))


def changes(
    nodes: Iterable[QuietNode], now: datetime, times: LivenessTimes, since: datetime | None = None
) -> list[StatusChange]:
    """Those that stand worse than the registry says."""
    found = []
    for node in nodes:
        after = status_at(node, now, times, since)
        if after is not node.status:
            change = StatusChange(
                node_id=node.node_id, before=node.status, after=after, last_seen=node.last_seen
            )
            found.append(change)
    return found
