"""What `/api/v1/node` and the routes below it tell of this node (keys are snake_case, as under `/api/v1`)."""

from typing import Any

import msgspec

from ambientd.wire.enums import Connectivity


class NodeLink(msgspec.Struct):
    """A network interface that is up, with carrier and address; `default_route` leads out of it."""

    name: str
    default_route: bool


class NodeState(msgspec.Struct):
    """Where the node stands with its links. `duration_sec` is by a clock that nobody sets; `offline`: the
    operator has told it to be."""

    name: Connectivity
    since: str
    duration_sec: int
    reason: str
    offline: bool


class NodeControl(msgspec.Struct, omit_defaults=True):
    """The control plane, without `url` when none is configured."""

    connected: bool
    url: str | None = None
    since: str | None = None
    reason: str | None = None
    next_try_at: str | None = None
    attempt: int | None = None
    latency_ms: int | None = None


class NodeView(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node`. `allowed` says of each action whether this moment's state allows it."""

    name: str
    host_id: str
    version: str
    pid: int
    mode: str
    generated_at: str
    state: NodeState
    control: NodeControl
    links: list[NodeLink]
    allowed: dict[str, bool]
    started_at: str | None = None
    links_error: str | None = None


class Heartbeat(msgspec.Struct, omit_defaults=True):
    """One beat as this node made it; the page's counters say how many did not reach the feed's file."""

    seq: int
    at: str
    active_sessions: int
    state: Connectivity | None = None
    cycle_ms: int | None = None  # of the cycle before


class HeartbeatsPage(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/heartbeats`: the last beats of this process, the newest first. `lost` counts those
    that did not reach the feed since the start."""

    run_id: str
    interval_sec: float
    seq: int
    lost: int
    heartbeats: list[Heartbeat]
    last_written_at: str | None = None


class ActivityEvent(msgspec.Struct, omit_defaults=True):
    """Something that happened: `node_state_transition` (`audit_seq` is its record), `session_started`,
    `session_ended`."""

    at: str
    event: str
    detail: dict[str, Any]
    session_id: str | None = None
    agent_id: str | None = None
    audit_seq: int | None = None


class ActivityPage(msgspec.Struct):
    """`GET /api/v1/node/activity`: of the last 24 hours, the newest first."""

    events: list[ActivityEvent]
