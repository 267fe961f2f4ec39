"""A process with the embedded database that is killed: what it acknowledged is there, once."""

import subprocess
import sys
from pathlib import Path

from tests.meta.tree import ROOT
from tests.store.fleet.kit import SqlitePlace, add_node, add_user, opened
from tests.store.fleet.pusher import NODES

ROUNDS = 4
ACKNOWLEDGED = 150  # of each round, before the kill


def round_of(path: Path, first: int) -> set[tuple[str, int]]:
    """What one process acknowledged until it was killed."""
    command = [sys.executable, "-m", "tests.store.fleet.pusher", str(path), str(first)]
    found: set[tuple[str, int]] = set()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break
            node_id, seq, _duplicate = line.split()
            found.add((node_id, int(seq)))
            if len(found) == ACKNOWLEDGED:
                process.kill()
    return found


async def test_what_was_acknowledged_before_a_kill_is_there_once(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path)
    async with opened(place) as store:
        await store.write(lambda tx: add_user(tx, "ann"))
        for n in range(NODES):
            await store.write(lambda tx, n=n: add_node(tx, f"n{n}"))  # type: ignore[misc]
    acknowledged: set[tuple[str, int]] = set()
    for _ in range(ROUNDS):
        # As a node that did not hear: it begins with numbers that may have been taken.
        last = [max((seq for node, seq in acknowledged if node == f"n{n}"), default=0) for n in range(NODES)]
        fresh = round_of(place.path, max(1, min(last)))
        assert len(fresh) >= ACKNOWLEDGED
        acknowledged |= fresh
    rows = place.rows("SELECT node_id, report_seq FROM node_heartbeat_history")
    assert len(rows) == len(set(rows))
    assert acknowledged - set(rows) == set()
    assert place.rows("PRAGMA integrity_check") == [("ok",)]
