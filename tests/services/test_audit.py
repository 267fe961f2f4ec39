"""When heads are signed, and what is told when the chain does not hold; on virtual time."""

import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from trio.testing import MockClock

from ambientd.core.audit import BEGINNING
from ambientd.core.checkpoint import parse_note
from ambientd.core.records import AuditEntry
from ambientd.flows.audit import Auditing, verify
from ambientd.host.checkpoint_file import DiskCheckpointFile
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreFullError, UnavailableError
from ambientd.ports.store import Transaction
from ambientd.services.audit import AGAIN_SEC, EVERY_RECORDS, EVERY_SEC, LOOK_SEC, AuditHead, AuditService
from ambientd.store.sqlite import SqliteStore
from tests.core.auditkit import OTHER_SEED, SEED
from tests.fakes.clock import TrioWallClock
from tests.fakes.identity import SeedIdentity
from tests.fakes.log import ListLog
from tests.fakes.store import TroubledStore
from tests.store.kit import sql_of
from tests.store.test_audit import UNLOCKED


class Rig:
    """A store, the service over it, and a daemon that starts and stops."""

    def __init__(self, folder: Path, real: SqliteStore, head: AuditHead, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.real = real
        self.store = TroubledStore(real)
        self.head = head
        self.identity = SeedIdentity(SEED)
        self.file = DiskCheckpointFile(folder, run_sync=run_inline)
        self.clock = TrioWallClock()
        self.log = ListLog()
        self.changed = 0
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self.service = self._made()

    @property
    def auditing(self) -> Auditing:
        return Auditing(store=self.store, clock=self.clock, identity=self.identity, file=self.file)

    def _made(self) -> AuditService:
        return AuditService(self.auditing, head=self.head, changed=self._changed, log=self.log)

    def _changed(self) -> None:
        self.changed += 1

    async def start(self) -> None:
        self.service = self._made()
        self._scope, self._stopped = trio.CancelScope(), trio.Event()
        self._nursery.start_soon(self._run, self.service, self._scope, self._stopped)
        await self.settle()

    async def _run(self, service: AuditService, scope: trio.CancelScope, stopped: trio.Event) -> None:
        with scope:
            await service.run()
        stopped.set()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()

    async def settle(self) -> None:
        await trio.sleep(1)

    async def grow(self, count: int, kind: str = "control.kill") -> None:
        def work(tx: Transaction) -> None:
            for _ in range(count):
                entry = AuditEntry(kind=kind, at=self.clock.now(), actor="uid:0", subject="s")
                tx.audit.append(entry)

        await self.real.write(work)

    def force(self, sql: str) -> None:
        sql_of(self.folder / "ambient.db", UNLOCKED + sql)

    def signed(self) -> int:
        """The record that the file's checkpoint signs."""
        path = self.folder / "audit.checkpoint"
        signed = parse_note(path.read_text()) if path.exists() else None
        return 0 if signed is None else signed.checkpoint.seq

    def kinds(self) -> list[str]:
        rows = sql_of(self.folder / "ambient.db", "SELECT kind FROM audit_records ORDER BY seq")
        return [kind for (kind,) in rows if kind != "control.kill"]

    def broken(self) -> int | None:
        status = self.service.status()
        assert status is not None
        return status.broken_at


@asynccontextmanager
async def rigged(folder: Path, **more: Any) -> AsyncIterator[Rig]:
    head = AuditHead()
    store = SqliteStore(
        folder / "ambient.db", clock=TrioWallClock(), ballast=0, run_sync=run_inline, audited=head.moved
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        yield Rig(folder, store, head, nursery)
        nursery.cancel_scope.cancel()


async def test_a_head_is_signed_after_a_hundred_records(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(EVERY_RECORDS - 1)
        await rig.settle()
        assert rig.signed() == 0
        await rig.grow(1)
        await rig.settle()
        assert rig.signed() == EVERY_RECORDS
        await rig.grow(EVERY_RECORDS + 7)
        await rig.settle()
        assert rig.signed() == 2 * EVERY_RECORDS + 7
        status = rig.service.status()
        assert status is not None
        assert (status.records, status.head_seq, status.checkpoint_seq) == (207, 207, 207)
        assert (status.broken_at, status.reason, rig.service.problems()) == (None, None, [])


async def test_a_head_is_signed_ten_minutes_after_a_new_record_and_never_without(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await trio.sleep(3 * EVERY_SEC)
        assert rig.signed() == 0
        await rig.grow(1)
        await trio.sleep(EVERY_SEC / 2)
        await rig.grow(1)
        await trio.sleep(EVERY_SEC / 2 - 2)
        assert rig.signed() == 0
        await trio.sleep(4)
        assert rig.signed() == 2
        before = (tmp_path / "audit.checkpoint").read_bytes()
        await trio.sleep(5 * LOOK_SEC)
        assert (tmp_path / "audit.checkpoint").read_bytes() == before
        assert sql_of(tmp_path / "ambient.db", "SELECT count(*) FROM audit_checkpoints") == [(1,)]


async def test_a_head_is_signed_at_stop_and_found_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(3)
        await rig.stop()
        assert rig.signed() == 3
        await rig.start()
        await rig.grow(2)
        await rig.settle()
        status = rig.service.status()
        assert status is not None
        assert (status.head_seq, status.checkpoint_seq) == (5, 3)
        await rig.stop()
        assert rig.signed() == 5


CUTS: list[tuple[str, int]] = [
    ("DELETE FROM audit_records WHERE seq > 2", 3),
    ("DELETE FROM audit_records", 1),
    ("UPDATE audit_records SET actor = 'x' WHERE seq = 7", 7),
    ("DELETE FROM audit_records WHERE seq = 6", 6),
    ("DELETE FROM audit_records WHERE seq > 2; DELETE FROM audit_checkpoints", 3),
]


async def test_a_break_is_found_at_start_told_recorded_once_and_not_forgotten(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    for number, (sql, bad) in enumerate(CUTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with rigged(folder) as rig:
            await rig.start()
            await rig.grow(4)
            await rig.stop()
            await rig.grow(3)
            rig.force(sql)
            await rig.start()
            assert rig.broken() == bad, sql
            (problem,) = rig.service.problems()
            assert (problem.id, problem.severity) == ("audit.broken", "warning")
            assert rig.kinds() == ["audit.broken"]
            for _ in range(3):
                await rig.stop()
                await rig.start()
                await rig.grow(EVERY_RECORDS)
                await rig.settle()
            assert rig.broken() == bad
            assert rig.kinds() == ["audit.broken"]
            assert rig.signed() > 3 * EVERY_RECORDS, "the chain goes on, and is signed"
            answer = await rig.service.accept("uid:0")
            assert [one.seq for one in answer.breaks] == [bad]
            assert (rig.broken(), rig.service.problems()) == (None, [])
            await rig.stop()
            await rig.start()
            assert rig.broken() is None
            assert rig.kinds() == ["audit.broken", "audit.accepted"]
            assert (await rig.service.accept("uid:0")).audit_id is None


async def test_what_is_appended_before_the_first_look_does_not_stand_in_for_what_was_cut(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(9)
        await rig.stop()
    for records in (1, 3, 20):
        folder = tmp_path / str(records)
        shutil.copytree(tmp_path, folder, ignore=lambda _, names: [n for n in names if n.isdigit()])
        connection = apsw.Connection(str(folder / "ambient.db"))
        connection.execute(UNLOCKED)
        connection.execute("DELETE FROM audit_records WHERE seq > 6")
        connection.close()
        async with rigged(folder) as rig:
            await rig.grow(records)
            await rig.start()
            assert rig.broken() == 7
            assert rig.kinds() == ["audit.broken"]
            await rig.stop()
            await rig.start()
            assert rig.kinds() == ["audit.broken"]


async def test_a_tail_cut_behind_the_last_checkpoint_is_not_seen_after_a_restart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing outside the table knows of these records: said in the README, and so it is (FAULTS A1)."""
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(4)
        await rig.stop()
        await rig.grow(3)
        rig.force("DELETE FROM audit_records WHERE seq > 4")
        await rig.start()
        assert rig.broken() is None


async def test_records_that_go_while_the_node_runs_are_missed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(5)
        await rig.settle()
        rig.force("DELETE FROM audit_records WHERE seq > 3")
        await rig.grow(1)
        await rig.settle()
        assert rig.broken() == 4
        assert rig.kinds() == ["audit.broken"]


async def test_the_chain_is_looked_at_every_hour_also_when_it_does_not_grow(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(EVERY_RECORDS)
        await rig.settle()
        rig.force("DELETE FROM audit_records WHERE seq > 50")
        await trio.sleep(LOOK_SEC + 2)
        assert rig.broken() == 51


async def test_a_forged_or_torn_file_is_a_break_and_a_missing_one_is_made_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    changes: list[Callable[[str], str]] = [
        lambda text: text[:-9],
        lambda text: text.replace("\n2\n", "\n3\n"),
    ]
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with rigged(folder) as rig:
            await rig.start()
            await rig.grow(2)
            await rig.stop()
            path = folder / "audit.checkpoint"
            path.write_text(change(path.read_text()))
            await rig.start()
            assert rig.broken() == 2
            assert [item.name[:23] for item in folder.glob("*.broken-*")] == ["audit.checkpoint.broken"]
            assert rig.signed() == 3, "a new one, over the record of the break"
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(2)
        await rig.stop()
        (tmp_path / "audit.checkpoint").unlink()
        await rig.start()
        assert rig.broken() is None
        await rig.grow(1)
        await rig.stop()
        assert rig.signed() == 3


@pytest.mark.parametrize("what", ["folder", "link", "dangling", "fifo"])
async def test_something_else_in_the_place_of_the_file_is_a_break_too(
    tmp_path: Path, autojump_clock: MockClock, what: str
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(2)
        await rig.stop()
        path = tmp_path / "audit.checkpoint"
        path.unlink()
        match what:
            case "folder":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case _:
                path.symlink_to("/etc/passwd" if what == "link" else "nowhere")
        found = await verify(rig.auditing, BEGINNING, rows=50)
        assert found.bad is not None
        await rig.start()
        assert rig.broken() == 2
        assert len(list(tmp_path.glob("*.broken-*"))) == 1
        assert rig.signed() == 3


async def test_a_file_that_cannot_be_read_is_told_before_anything_is_known(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def failing() -> str | None:
        raise OSError(errno.EIO, "Input/output error")

    async with rigged(tmp_path) as rig:
        good, rig.file.read = rig.file.read, failing  # type: ignore[method-assign]
        await rig.start()
        await rig.grow(2)
        status = rig.service.status()
        assert status is not None
        assert "input/output error" in str(status.reason)
        assert [problem.id for problem in rig.service.problems()] == ["audit.failing"]
        with pytest.raises(UnavailableError, match="input/output error"):
            await verify(rig.auditing, BEGINNING, rows=50)
        rig.file.read = good  # type: ignore[method-assign]
        await trio.sleep(AGAIN_SEC + 1)
        assert not rig.service.problems()


async def test_a_key_that_may_not_be_used_signs_nothing_and_a_good_one_soon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        rig.identity.problem = "made on another host"
        await rig.start()
        await rig.grow(EVERY_RECORDS)
        await rig.settle()
        status = rig.service.status()
        assert status is not None
        assert "no checkpoints are signed" in str(status.reason)
        assert rig.signed() == 0
        await trio.sleep(5 * EVERY_SEC)
        rig.identity.problem = None
        rig.service.retry()
        await rig.settle()
        assert rig.signed() == EVERY_RECORDS
        status = rig.service.status()
        assert status is not None
        assert status.reason is None


async def test_another_key_is_recorded_and_signs_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(2)
        await rig.stop()
        rig.identity = SeedIdentity(OTHER_SEED)
        await rig.start()
        assert rig.kinds() == ["identity.other_key"]
        assert rig.broken() is None
        assert rig.signed() == 3
        await rig.stop()
        await rig.start()
        assert rig.kinds() == ["identity.other_key"]


async def test_a_disk_that_is_full_is_told_and_tried_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(EVERY_RECORDS - 1)
        rig.store.trouble = StoreFullError("the disk is full; nothing was written")
        await rig.grow(1)
        await trio.sleep(10 * AGAIN_SEC)
        assert 5 < rig.store.refused < 15
        status = rig.service.status()
        assert status is not None
        assert "the disk is full" in str(status.reason)
        assert rig.log.events().count("audit.failing") == 1
        rig.store.trouble = None
        await trio.sleep(AGAIN_SEC + 1)
        assert rig.signed() == EVERY_RECORDS
        status = rig.service.status()
        assert status is not None
        assert status.reason is None


async def test_a_long_chain_without_checkpoints_is_walked_once_in_stretches(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.grow(5_000)
        await rig.start()
        assert rig.signed() == 5_000
        assert rig.broken() is None


async def test_what_a_verification_finds_is_noted(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        await rig.start()
        await rig.grow(EVERY_RECORDS)
        await rig.settle()
        rig.force("UPDATE audit_records SET subject = 'x' WHERE seq = 9")
        found = await verify(rig.auditing, BEGINNING, rows=50)
        assert found.bad is not None
        assert (found.bad.seq, found.own) == (9, True)
        await rig.service.note(found.bad)
        await rig.service.note(found.bad)
        assert rig.broken() == 9
        assert rig.kinds() == ["audit.broken"]
