"""Two nodes that nobody told of each other trust each other by their owner's roster, and by nothing else."""

import socket
from pathlib import Path
from typing import Any

from tests.e2e.fleetkit import Plane
from tests.e2e.harness import Node
from tests.e2e.joinedkit import join, sync


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def peers(node: Node) -> dict[str, tuple[str, str]]:
    """By name: whose word it is trusted by, and how the link stands."""
    found: list[Any] = node.get("/api/v1/node/peers").json.get("peers", [])
    return {one.get("called") or one["key"]: (one.get("trusted", ""), one["state"]) for one in found}


def test_nodes_of_one_owner_trust_each_other_by_the_roster_alone(tmp_path: Path) -> None:
    port = free_port()
    first = {"peers": {"listen": f"127.0.0.1:{port}", "interval": "1s"}}
    second = {"peers": {"static": [f"127.0.0.1:{port}"], "interval": "1s"}}
    plane = Plane(tmp_path / "cp", config='[server]\nrosters = true\nsweep_interval = "500ms"\n')
    made = plane.init("--join-uses", "2")
    with plane.start(), Node(first) as here, Node(second) as there:
        plane.log_in("admin", made["password"])
        url = f"http://127.0.0.1:{plane.port}"
        for node, name in ((here, "edge-1"), (there, "edge-2")):
            assert join(node, url, made["joinToken"], name).status == 200
            assert peers(node) == {}

        def linked() -> bool:
            for node in (here, there):
                if not peers(node):
                    sync(node)
            wanted = {"edge-1": ("roster", "linked")}, {"edge-2": ("roster", "linked")}
            return (peers(there), peers(here)) == wanted

        here.wait_for(linked, 20)
        shown = here.ctl("peers").stdout
        assert "edge-2" in shown
        assert "roster" in shown

        plane.stop()
        here.stop()
        here.start()
        here.wait_for(lambda: peers(here) == {"edge-2": ("roster", "linked")}, 20)

        plane.start()
        plane.call("DELETE", "/nodes/edge-2")

        def parted() -> bool:
            sync(here)
            return "edge-2" not in peers(here)

        here.wait_for(parted, 20)
        assert all(state != "linked" for _, state in peers(here).values())
        told = here.get("/api/v1/node/audit?kind=peers&limit=100").json["rows"]
        assert [record["kind"] for record in told] == ["peers.roster_taken"] * 2
