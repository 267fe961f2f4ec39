"""Announcements by multicast: addresses are found, keys are not believed, floods are left (FAULTS P13)."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.harness import REPOSITORY
from tests.lan.fleet import LanFleet, bundle, key_of, until
from tests.lan.kit import Host, Lan

FLOOD_SEC = 2.5
CPU_SHARE = 0.3  # of a core, over the flood and what follows; left alone it would be most of one


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_of(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def announcing(host: Host, hint: str, seconds: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*host.wrapper, sys.executable, "-m", "tests.lan.announcer", host.address, hint, str(seconds)],
        cwd=REPOSITORY,
    )


def test_nodes_find_each_other_and_a_flood_of_announcements_costs_little(tmp_path: Path) -> None:
    with Lan(3) as lan:
        fleet = LanFleet(
            lan,
            hosts=lan.hosts[:2],
            static=False,
            peers={"discovery": True},
            also_trusted=("somebody away",),
        )
        failed = True
        try:
            fleet.start()
            until(fleet.is_linked, 30, "the two to find each other")
            assert fleet[0].node.get("/api/v1/node/peers").json["discovery"] == "on"
            pid = fleet[0].node.pid
            cpu, rss, began = cpu_of(pid), rss_of(pid), time.monotonic()
            before = lan.hosts[0].counters()
            flood = announcing(lan.hosts[2], key_of("somebody away").partition(":")[2][:16], FLOOD_SEC)
            assert flood.wait(FLOOD_SEC + 20) == 0
            time.sleep(2 * FLOOD_SEC)
            share = (cpu_of(pid) - cpu) / (time.monotonic() - began)
            sent = lan.hosts[0].counters().tx_packets - before.tx_packets
            assert share < CPU_SHARE, share
            assert rss_of(pid) - rss < 30
            # A goodbye, links that live, and eight dials at once, of which most end at the neighbour's
            # absence; not one answer or dial for each of what came.
            assert sent < 300, sent
            assert fleet[0].node.log_events("peers.discovery_paused")
            assert not fleet[0].node.log_events("service.crashed")
            assert fleet.is_linked()
            fleet[0].take(bundle(tmp_path, fleet[0].node, "after"))
            until(lambda: fleet.hold("after"), 5)
            failed = False
        finally:
            fleet.close(keep=failed)
