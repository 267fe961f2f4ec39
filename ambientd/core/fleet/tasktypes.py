"""The closed list of task types: what each asks of a node, and its bounds."""

from typing import NamedTuple

from ambientd.wire.fleet_enums import NodeType

CONNECT_ONLY = "connect_only"
AGENT_SESSION = "agent_session"
_MIB = 1024 * 1024


class TaskType(NamedTuple):
    """One type. Times in seconds, sizes in bytes; `exclusive`: a node has one of it at a time. With the node
    type `any` nodes of every type can take it. `own_nodes`: only nodes of whoever submitted it, for it runs
    with what their owner has entrusted to them.
    """

    name: str
    node_type: NodeType
    min_bandwidth_mbps: float
    min_cores: int
    min_memory_gb: float
    max_time_sec: int
    max_bytes: int
    needs_wasm: bool = False
    exclusive: bool = False
    own_nodes: bool = False


_ROWS = (
    TaskType("federated_learning", NodeType.COMPUTE, 500, 8, 32, 3600, 50 * _MIB),
    TaskType("zk_proof", NodeType.COMPUTE, 100, 8, 16, 1800, 25 * _MIB),
    TaskType("wasm_execution", NodeType.COMPUTE, 100, 4, 8, 900, 10 * _MIB, needs_wasm=True),
    TaskType("computation", NodeType.COMPUTE, 50, 4, 8, 1800, 20 * _MIB),
    TaskType(CONNECT_ONLY, NodeType.OPEN_INTERNET, 50, 1, 1, 3600, 1 * _MIB, exclusive=True),
    TaskType(AGENT_SESSION, NodeType.ANY, 1, 1, 1, 3600, 1 * _MIB, own_nodes=True),
    TaskType("feen_connectivity", NodeType.FEEN_RESONATOR, 100, 4, 4, 600, 5 * _MIB),
)

TASK_TYPES: dict[str, TaskType] = {row.name: row for row in _ROWS}
