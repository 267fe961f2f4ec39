"""A hostile node on the LAN, also one whose key is trusted: nothing of it enters, all of it is recorded, and
the honest ones agree all the while (FAULTS P1 to P9, P13, 6.4)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import REPOSITORY
from tests.lan.fleet import LanFleet, bundle, key_of, until
from tests.lan.kit import Host, Lan

# The last host of the LAN is the attacker's; the fleet is the two others.
HONEST = 2


@pytest.fixture(scope="module")
def besieged() -> Iterator[tuple[LanFleet, Host]]:
    with Lan(HONEST + 1) as lan:
        fleet = LanFleet(lan, hosts=lan.hosts[:HONEST], peers={"interval": "5s"}, also_trusted=("traitor",))
        failed = True
        try:
            fleet.start()
            until(fleet.is_linked, 30, "both to be linked")
            yield fleet, lan.hosts[HONEST]
            failed = False
        finally:
            fleet.close(keep=failed)


def hostile(host: Host, target: LanFleet, *arguments: str) -> "subprocess.Popen[str]":
    victim = target[0]
    return subprocess.Popen(
        [
            *host.wrapper,
            sys.executable,
            "-m",
            "tests.lan.hostile",
            victim.host.address,
            victim.key,
            *arguments,
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def forgiven(process: "subprocess.Popen[str]", fleet: LanFleet, seconds: float = 60.0) -> dict[str, object]:
    """The same, while an operator's word lets the attacker be heard again after each offence."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        answer = fleet[0].node.post("/api/v1/node/peers/trust", {"key": key_of("somebody else")})
        assert answer.status == 200, answer
        time.sleep(0.1)
    return told(process, 1.0)


def told(process: "subprocess.Popen[str]", seconds: float = 60.0) -> dict[str, object]:
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    return found


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_traitor_gets_nothing_in_and_everything_is_recorded(
    besieged: tuple[LanFleet, Host], tmp_path: Path
) -> None:
    fleet, attacker = besieged
    fleet[0].take(bundle(tmp_path, fleet[0].node, "before"))
    until(lambda: fleet.hold("before"), 5)
    ended = forgiven(hostile(attacker, fleet, "all"), fleet)["ended"]
    assert isinstance(ended, dict)
    assert all(ended[name] for name in ("reorder", "repeat_frame", "garbage", "open_text", "too_large")), (
        ended
    )
    assert fleet[0].policies() == fleet[1].policies() == {"before": 1}
    records = fleet[0].audit("peer_sync_refused")
    reasons = {record["detail"].get("reason") for record in records}
    assert {
        "replayed",
        "malformed",
        "from_future",
        "too_old",
        "expired",
        "jump",
        "network",
        "audience",
        "unknown_signer",
        "out_of_order",
        "bad_proof",
        "protocol",
        "flood",
    } <= reasons, reasons
    assert reasons & {"bad_signature", "bad_digest"}
    traitor = key_of("traitor")
    assert {record["detail"]["sender"] for record in records} == {traitor}
    assert any(record["detail"].get("codes") == {"untrusted_issuer": 1} for record in records)
    assert sum(fleet[0].peers()[traitor]["refused"].values()) >= len(reasons) - 2
    # Honest nodes never lost each other, and what is new still spreads at once.
    fleet[1].take(bundle(tmp_path, fleet[1].node, "after"))
    assert until(lambda: fleet.hold("after"), 5) < 2
    done = fleet[0].node.ctl("peers")
    assert "REFUSED" in done.stdout


def test_a_flood_of_refusals_does_not_fill_the_audit(besieged: tuple[LanFleet, Host]) -> None:
    fleet, attacker = besieged
    before = len(fleet[0].audit("peer_sync_refused"))
    for _ in range(4):
        forgiven(hostile(attacker, fleet, "truncate"), fleet)
    assert len(fleet[0].audit("peer_sync_refused")) == before
    assert fleet[0].peers()[key_of("traitor")]["refused"]["malformed"] >= 9


def test_a_key_that_is_not_trusted_is_shown_and_gets_no_further(besieged: tuple[LanFleet, Host]) -> None:
    fleet, attacker = besieged
    assert forgiven(hostile(attacker, fleet, "nobody"), fleet)["ended"]
    stranger = until_stranger(fleet)
    assert stranger["state"] == "stranger"
    assert stranger["address"].startswith(attacker.address)
    assert "trusted" not in stranger
    assert "not_trusted" in {r["detail"].get("reason") for r in fleet[0].audit("peer_sync_refused")}


def until_stranger(fleet: LanFleet) -> dict[str, str]:
    until(lambda: key_of("nobody") in fleet[0].peers(), 5)
    found: dict[str, str] = fleet[0].peers()[key_of("nobody")]
    return found


def test_a_crowd_at_the_door_costs_little_and_keeps_nobody_out(
    besieged: tuple[LanFleet, Host], tmp_path: Path
) -> None:
    fleet, attacker = besieged
    seconds = 6.0
    process = hostile(attacker, fleet, "knock", str(seconds))
    time.sleep(1.0)
    cpu, began = cpu_of(fleet[0].node.pid), time.monotonic()
    fleet[1].take(bundle(tmp_path, fleet[1].node, "meanwhile"))
    assert until(lambda: fleet.hold("meanwhile"), 5) < 2
    fleet.lan.unplug(1)
    time.sleep(0.5)
    fleet.lan.plug(1)
    told(process)
    share = (cpu_of(fleet[0].node.pid) - cpu) / (time.monotonic() - began)
    assert share < 0.5, share
    until(fleet.is_linked, 30, "both to be linked again")
