"""The stable, private name of this machine in the feed (seed "Heartbeat Event Spec" 4)."""

import hashlib
from typing import NamedTuple

WITH_MACHINE = "sha256(node:machine_id)"
NODE_ONLY = "sha256(node)"


class HostId(NamedTuple):
    """`value` goes into the feed; `algorithm` is shown in status and never written there (R2.28)."""

    value: str
    algorithm: str


def build_host_id(node: str, machine_id: str | None) -> HostId:
    """SHA-256 of the node name, with the machine's id where there is one (R2.27, R2.31)."""
    text = f"{node}:{machine_id}" if machine_id else node
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return HostId(f"sha256:{digest}", WITH_MACHINE if machine_id else NODE_ONLY)
