"""Which nodes get a task: pure, from what the registry says at that moment."""

import heapq
from collections.abc import Iterable
from datetime import datetime

import msgspec

from ambientd.core.fleet.records import Capabilities, Requirements
from ambientd.core.fleet.tasktypes import TaskType
from ambientd.wire.fleet_enums import NodeType, TaskStatus

MAX_ACTIVE_PER_NODE = 50
OWNER_SHARE = 0.5
"""Of a node's places, kept for its owner, whatever others hand in."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks a node has at once: `most` in all, `others` of people who do not own it."""

    most: int = MAX_ACTIVE_PER_NODE
    others: int = MAX_ACTIVE_PER_NODE - int(MAX_ACTIVE_PER_NODE * OWNER_SHARE)

    def has_place(self, candidate: "Candidate", creator_id: str | None) -> bool:
        """Whether a node has a place for a task of somebody."""
        if candidate.active >= self.most:
            return False
        return candidate.owner_id == creator_id or candidate.foreign < self.others


def room_of(most: int, owner_share: float = OWNER_SHARE) -> Room:
    """From the settings; `owner_share` in [0, 1], rounded down to whole places."""
    return Room(most=most, others=most - int(most * owner_share))


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An online node that does not have the task. `active`: tasks it has, `foreign` ones of them not its
    owner's; `connected`: it has an active connect session or a task that will be one."""

    node_id: str
    owner_id: str
    registered_at: datetime
    node_type: NodeType
    capabilities: Capabilities
    active: int = 0
    foreign: int = 0
    connected: bool = False


ROOM = Room()


def is_able(candidate: Candidate, kind: TaskType) -> bool:
    """Whether a node is of the type and the size for tasks of a kind."""
    has = candidate.capabilities
    return (
        (candidate.node_type is kind.node_type or NodeType.ANY in (kind.node_type, candidate.node_type))
        and has.bandwidth_mbps >= kind.min_bandwidth_mbps
        and has.cpu_cores >= kind.min_cores
        and has.memory_gb >= kind.min_memory_gb
    )


def can_take(
    candidate: Candidate,
    kind: TaskType,
    requirements: Requirements,
    *,
    creator_id: str | None = None,
    room: Room = ROOM,
) -> bool:
    """Whether a node is able, free and allowed to take a task of a kind that somebody submitted."""
    return (
        (candidate.owner_id == creator_id or not kind.own_nodes)
        and is_able(candidate, kind)
        and (candidate.capabilities.gpu_available or not requirements.require_gpu)
        and room.has_place(candidate, creator_id)
        and not (kind.exclusive and candidate.connected)
    )


def choose(
    kind: TaskType,
    requirements: Requirements,
    *,
    missing: int,
    candidates: Iterable[Candidate],
    creator_id: str | None = None,
    room: Room = ROOM,
) -> list[str]:
    """The nodes to attach, up to as many as the task misses: those with the fewest tasks, of equal ones the
    first.

    Candidates come oldest registration first. Fewer than it needs are attached as well: they keep their place
    while the task is pending.
    """
    able = (one for one in candidates if can_take(one, kind, requirements, creator_id=creator_id, room=room))
    return [one.node_id for one in heapq.nsmallest(missing, able, key=lambda one: one.active)]


def status_for(requirements: Requirements, attached: int) -> TaskStatus:
    """Running once it has as many nodes as it needs, else pending."""
    return TaskStatus.RUNNING if attached >= requirements.min_nodes else TaskStatus.PENDING
