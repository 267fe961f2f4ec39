"""What events of a node's work look like where they are kept."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ambientd.core.fleet.records import NodeEvent
from ambientd.wire.fleet_enums import NodeEventKind


def event_metadata(event: NodeEvent) -> dict[str, str]:
    """The metadata of an event's row: what it is about, so that the row outlives its task."""
    metadata = {"task_id": event.task_id, "task_type": event.task_type, "event": event.kind.value}
    if event.session_id is not None:
        metadata["session_id"] = event.session_id
    return metadata


def read_event(node_id: str, kind: NodeEventKind, metadata: Mapping[str, Any], at: datetime) -> NodeEvent:
    """The event of a row; what its metadata lacks is empty."""
    session = metadata.get("session_id")
    return NodeEvent(
        node_id=node_id,
        kind=kind,
        task_id=str(metadata.get("task_id", "")),
        task_type=str(metadata.get("task_type", "")),
        at=at,
        session_id=None if session is None else str(session),
    )


def cleared(task_id: str, task_type: str, nodes: Iterable[str], at: datetime) -> list[NodeEvent]:
    """One event for every node that has or had a task that is gone."""
    kind = NodeEventKind.TASK_CLEARED
    return [NodeEvent(node_id=node, kind=kind, task_id=task_id, task_type=task_type, at=at) for node in nodes]
