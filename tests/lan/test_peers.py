"""Three real daemons on a LAN of their own, without a control plane (R1.57 to R1.67, FAULTS N1 to N3)."""

import json
import os
import time
from functools import partial
from pathlib import Path

from tests.lan.fleet import LanFleet, Member, bundle, key_of, until

INTERVAL = 3.0
LONG = bool(os.environ.get("AMBIENT_LAN_LONG"))


def holds(member: Member, name: str) -> bool:
    return name in member.policies()


def test_policies_reach_every_node_and_every_operator_can_see_it(
    trio_of_nodes: LanFleet, tmp_path: Path
) -> None:
    fleet = trio_of_nodes
    fleet[0].take(bundle(tmp_path, fleet[0].node, "web", "db"))
    assert until(lambda: fleet.hold("web", "db"), 5) < 2
    for member in (fleet[1], fleet[2]):
        (applied, *_) = member.audit("peer_sync_applied")
        assert applied["detail"]["sender"] in {fleet[0].key, fleet[1].key, fleet[2].key}
        assert applied["detail"]["added"] == 2
    until(lambda: fleet[2].node.status()["policy"].get("peersAgree") == 2, 5)
    status = fleet[2].node.status()
    assert status["peers"]["linked"] == 2
    assert status["policy"]["peers"] == 2
    done = fleet[2].node.ctl("sync")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0].split() == [
        "PEER",
        "KEY",
        "POLICY",
        "SEEN",
        "ADDED",
        "KEPT",
        "REFUSED",
    ]
    assert "0 changed (import never overwrites), 0 refused" in done.stdout
    document = json.loads(fleet[2].node.ctl("sync", "--json").stdout)
    assert document["schema"] == "ambient.sync/1"
    errors = {one["key"]: one.get("error") for one in document["peers"]}
    assert errors.pop(key_of("traitor")) == "not linked"
    assert set(errors.values()) == {None}
    assert {one["kept"] for one in document["peers"]} == {0, 2}


def test_an_entry_of_a_node_is_never_overwritten_by_a_peer(trio_of_nodes: LanFleet, tmp_path: Path) -> None:
    fleet = trio_of_nodes
    fleet.lan.split({0}, {1, 2})
    fleet[0].take(bundle(tmp_path, fleet[0].node, "mine"))
    fleet[1].take(bundle(tmp_path, fleet[1].node, "mine", revision=2))
    until(lambda: fleet[2].policies().get("mine") == 2, 5)
    fleet.lan.heal()
    time.sleep(1.5 * INTERVAL)
    assert fleet[0].policies()["mine"] == 1
    assert fleet[1].policies()["mine"] == fleet[2].policies()["mine"] == 2


def test_a_split_heals_within_two_intervals(trio_of_nodes: LanFleet, tmp_path: Path) -> None:
    """With AMBIENT_LAN_LONG also one that is long enough for the kernel to give the links up."""
    fleet = trio_of_nodes
    for number, seconds in enumerate((3.0, 24.0) if LONG else (3.0,)):
        fleet.lan.split({0}, {1, 2})
        names = [f"cut-{number}-{place}" for place in (0, 1)]
        for place in (0, 1):
            fleet[place].take(bundle(tmp_path, fleet[place].node, names[place]))
        until(partial(holds, fleet[2], names[1]), 5)
        time.sleep(seconds)
        assert names[1] not in fleet[0].policies()
        fleet.lan.heal()
        took = until(partial(fleet.hold, *names), 30, "the split to heal")
        assert took <= 2 * INTERVAL + 1, took


def test_with_one_in_ten_packets_lost_they_still_agree(trio_of_nodes: LanFleet, tmp_path: Path) -> None:
    fleet = trio_of_nodes
    fleet.lan.lose(10)
    try:
        fleet[1].take(bundle(tmp_path, fleet[1].node, "lossy"))
        assert until(lambda: fleet.hold("lossy"), 30) <= 10 * INTERVAL
    finally:
        fleet.lan.heal()
