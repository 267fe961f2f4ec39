"""A node on a full disk, on a read-only one, and with something else in its heartbeat file's place."""

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.feedkit import CYCLES, assert_goes_on, assert_serves_readers, feed_status
from tests.e2e.harness import Node


def in_own_mounts(script: str) -> list[str]:
    """A wrapper that runs a script in a mount namespace of the daemon's own; skips where that cannot be."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False, timeout=10).returncode:
        pytest.skip("no mount namespaces here")
    return [*unshare, "sh", "-ec", script + '\nexec "$@"', "sh"]


def seen_by(node: Node, path: str) -> Path:
    """A path of the daemon's own mounts, from outside."""
    return Path(f"/proc/{node.pid}/root{node.root}/{path}")


def test_a_full_file_system_costs_whole_beats_until_there_is_room() -> None:
    script = "mkdir small; mount -t tmpfs -o size=16k tmpfs small; head -c 12288 /dev/zero > small/ballast"
    node = Node(wrapper=in_own_mounts(script))
    node.environment["LUKA_ACTIVITY_FEED_JSONL"] = str(node.root / "small/feed.jsonl")
    with node:
        node.wait_for(lambda: feed_status(node)["lost"] >= 3)
        assert "ENOSPC" in feed_status(node)["lastError"] or "short write" in feed_status(node)["lastError"]
        assert_goes_on(node)
        feed = seen_by(node, "small/feed.jsonl")
        assert feed.read_bytes().endswith(b"}\n")
        count = len(node.beats(feed))
        seen_by(node, "small/ballast").unlink()
        node.wait_for(lambda: len(node.beats(feed)) >= count + 3)
        assert_serves_readers(node, feed)
        assert not list(node.root.glob("small/*")), "nothing beside the mount"


def test_a_read_only_file_system_costs_beats_and_nothing_else() -> None:
    script = "mkdir shut; : > shut/feed.jsonl; mount --bind shut shut; mount -o remount,bind,ro shut"
    node = Node(wrapper=in_own_mounts(script))
    node.environment["LUKA_ACTIVITY_FEED_JSONL"] = str(node.root / "shut/feed.jsonl")
    with node:
        node.wait_for(lambda: feed_status(node)["lost"] >= 3)
        assert "EROFS" in feed_status(node)["lastError"]
        assert_goes_on(node)
        assert node.feed.read_bytes() == b""
        assert not (node.state / "observability").exists()


# --- the heartbeat file


def test_a_folder_in_the_heartbeat_files_place_is_told_and_stops_nothing() -> None:
    node = Node()
    node.heartbeat_file.mkdir(parents=True)
    node.state.chmod(0o700)
    with node:
        node.wait_for(lambda: len(node.beats()) >= 3)
        assert (feed_status(node)["lost"], feed_status(node)["fileError"]) == (0, "Is a directory")
        shown = node.ctl("status", "--check")
        assert shown.returncode == 10
        assert "heartbeat.json is not written" in shown.stdout
        node.heartbeat_file.rmdir()
        node.wait_for(node.heartbeat_file.exists)
        node.wait_for(
            lambda: node.heartbeat()["status"] == "watching" and "fileError" not in feed_status(node)
        )

        while not node.heartbeat_file.is_dir():
            node.heartbeat_file.unlink(missing_ok=True)
            with suppress(FileExistsError):
                node.heartbeat_file.mkdir()
        count = len(node.beats())
        node.wait_for(lambda: len(node.beats()) >= count + CYCLES)
        assert feed_status(node)["fileError"] == "Is a directory"
        assert_serves_readers(node)
        assert node.stop().code == 0
        assert list(node.state.glob("heartbeat.json*")) == [node.heartbeat_file]
