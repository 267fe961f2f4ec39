"""Results, proofs and changed rate limits at a control plane that runs as a process, over a restart."""

import time
from pathlib import Path

from tests.e2e.fleetkit import REGISTRATION, Plane, Reply

OVERRIDES = "/admin/throttle-overrides"
SOON = 10.0  # seconds


def test_a_changed_limit_and_a_result_are_there_after_a_kill(tmp_path: Path) -> None:
    plane = Plane(tmp_path / "cp")
    made = plane.init()
    with plane:
        plane.log_in("admin", made["password"])
        plane.call("POST", "/nodes", {"node_id": "edge-1", **REGISTRATION}, status=201)
        task = {"task_type": "computation", "inputs": {}}
        task_id = plane.call("POST", "/tasks", task, status=201)["task_id"]
        done = plane.call("POST", f"/tasks/{task_id}/result", {"node_id": "edge-1", "result": 7})
        assert (done["status"], done["proof_verified"]) == ("completed", False)
        proof = {"task_id": task_id, "proof_data": "AAAA", "public_inputs": ""}
        assert plane.call("POST", "/proofs/verify", proof, status=501)["error"]["code"] == "NOT_IMPLEMENTED"
        slow = {"tier": "proof", "client": "127.0.0.0/8", "rpm": 1, "burst": 1, "expires_in": 600}
        plane.call("POST", OVERRIDES, slow, status=201)
        assert plane.call("POST", "/proofs/verify", proof, status=501)
        assert 0 < int(proofs(plane, proof).headers["retry-after"]) <= 60
        plane.kill()
        plane.start()
        assert plane.call("GET", f"/tasks/{task_id}")["result"] == 7
        (override,) = plane.call("GET", OVERRIDES)["overrides"]
        # It answers a moment before it has read them.
        until = time.monotonic() + SOON
        while proofs(plane, proof).status != 429:
            assert time.monotonic() < until
        plane.call("DELETE", f"{OVERRIDES}/{override['override_id']}")
        assert proofs(plane, proof).status == 501


def proofs(plane: Plane, body: object) -> Reply:
    return plane.ask("POST", "/api/v1/proofs/verify", body, token=plane.token)
