"""A full disk and a read-only one (FAULTS D5, D7, D8): real file systems, so root only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from ambientd.ports.errors import StoreError, StoreFullError, UnavailableError
from ambientd.ports.store import Transaction
from ambientd.store.ballast import Ballast
from ambientd.store.sqlite import SqliteStore
from ambientd.store.unit import SqliteTransaction
from tests.store.kit import ingest, opened

MIB = 1024 * 1024


def can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder = tempfile.mkdtemp(dir="/tmp")
    done = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    os.rmdir(folder)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root and mount")


def mounted(options: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def small() -> Iterator[Path]:
    yield from mounted("size=1m")


@pytest.fixture
def few_inodes() -> Iterator[Path]:
    yield from mounted("size=4m,nr_inodes=3")


def remove_some(tx: Transaction, limit: int) -> int:
    """What retention will do: a bounded batch of the oldest."""
    assert isinstance(tx, SqliteTransaction)
    connection = tx.keys._connection
    oldest = "SELECT session_key FROM session_ledger ORDER BY started_at LIMIT ?"
    connection.execute(f"DELETE FROM session_ledger WHERE session_key IN ({oldest})", (limit,))  # noqa: S608 - constant
    return connection.changes()


async def fill(store: SqliteStore, prefix: str, words: int) -> list[str]:
    """Writes sessions until it fails; returns those that were acknowledged."""
    acknowledged: list[str] = []
    for n in range(10_000):
        name = f"{prefix}{n}"
        try:
            await store.write(partial(ingest, session_id=name, task_text="text " * words))
        except StoreFullError:
            return acknowledged
        acknowledged.append(name)
    raise AssertionError("the disk is never full")


def hog_all(hog: Path) -> None:
    """Fills the disk to its last block."""
    with hog.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_refuses_keeps_what_it_has_and_can_be_cleaned(small: Path) -> None:
    async with opened(small / "ambient.db", ballast=256 * 1024) as store:
        acknowledged = await fill(store, "s", 50)
        assert len(acknowledged) > 20
        assert store.facts().ready
        assert "the disk is full" in str(store.facts().degraded)

        def lost(tx: Transaction) -> list[str]:
            return [name for name in acknowledged if tx.ledger.get(name) is None]

        assert await store.read(lost) == []
        assert await store.read(lambda tx: tx.ledger.get(f"s{len(acknowledged)}")) is None
        assert await store.give_up_ballast()
        removed = 0
        with trio.fail_after(30):
            while removed < len(acknowledged) // 2:
                removed += await store.write(lambda tx: remove_some(tx, 10))
                await trio.sleep(0.3)
        await store.write(lambda tx: ingest(tx, "after"))
        assert store.facts().degraded is None
    async with opened(small / "ambient.db") as again:
        assert await again.read(lambda tx: tx.ledger.count()) == len(acknowledged) - removed + 1


async def test_room_made_by_others_is_used_without_a_restart(small: Path) -> None:
    hog = small / "hog"
    async with opened(small / "ambient.db") as store:
        await store.write(lambda tx: ingest(tx, "s1"))
        hog_all(hog)
        assert len(await fill(store, "t", 500)) < 500
        hog.unlink()
        await store.write(lambda tx: ingest(tx, "after"))
        assert store.facts().degraded is None


async def test_a_disk_that_is_full_at_the_start_is_waited_for(small: Path) -> None:
    hog = small / "hog"
    hog_all(hog)
    async with opened(small / "ambient.db") as store:
        facts = store.facts()
        assert not facts.ready
        assert "full" in str(facts.reason)
        hog.unlink()
        with trio.fail_after(20):
            while not store.facts().ready:
                await trio.sleep(0.05)
        await store.write(lambda tx: ingest(tx, "s1"))
        assert store.facts().degraded is None


async def test_a_disk_without_inodes_is_a_full_disk(few_inodes: Path) -> None:
    (few_inodes / "one").touch()
    async with opened(few_inodes / "ambient.db") as store:
        assert not store.facts().ready
        (few_inodes / "one").unlink()
        with pytest.raises((StoreError, UnavailableError)):
            await store.write(lambda tx: ingest(tx, "s1"))


def test_a_ballast_never_takes_the_last_room(small: Path) -> None:
    ballast = Ballast(small / "ambient.db", 700 * 1024)
    assert not ballast.ensure()
    assert list(small.iterdir()) == []
    fits = Ballast(small / "ambient.db", 300 * 1024)
    assert fits.ensure()
    assert fits.present()
    facts = os.statvfs(small)
    assert facts.f_bavail * facts.f_frsize <= MIB - 300 * 1024


async def test_a_read_only_file_system_is_waited_for(small: Path) -> None:
    async with opened(small / "ambient.db") as store:
        await store.write(lambda tx: ingest(tx, "s1"))
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    async with opened(small / "ambient.db") as store:
        assert "read-only" in str(store.facts().reason)
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        with trio.fail_after(20):
            while not store.facts().ready:
                await trio.sleep(0.05)
        assert await store.read(lambda tx: tx.ledger.count()) == 1
        await store.write(lambda tx: ingest(tx, "s2"))
