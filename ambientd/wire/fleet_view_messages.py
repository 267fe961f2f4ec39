"""The control plane's view, as the node passes it on (keys are snake_case)."""

import msgspec

from ambientd.wire.fleet_api_messages import NodeInfo, TaskInfo


class FleetTasks(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/fleet/tasks`; `next`, given as `cursor`, goes on."""

    tasks: list[TaskInfo]
    next: str | None = None


class FleetNodes(msgspec.Struct, omit_defaults=True):
    """`GET /api/v1/node/fleet/nodes`."""

    nodes: list[NodeInfo]
    next: str | None = None
