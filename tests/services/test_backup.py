"""One backup at a time: ordered, made, fetched in pieces, given up; through the routes, on virtual time."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from ambientd.api.backup import backup_routes
from ambientd.api.router import build_application
from ambientd.core.target import Target, parse_target
from ambientd.flows.backup import Backups
from ambientd.host.backup_place import DiskBackupPlace
from ambientd.host.threads import run_inline
from ambientd.ports.backup import ExtraFile, Progress, SnapshotFacts
from ambientd.ports.errors import StoreError, StoreFullError
from ambientd.ports.http import Caller, Request, Response
from ambientd.services.backup import KEPT_SEC, PIECE_MAX, BackupService
from ambientd.store.sqlite import SqliteStore
from tests.fakes.audited import Audited
from tests.fakes.clock import TrioWallClock
from tests.fakes.http_log import ListHttpLog
from tests.fakes.log import ListLog

OPERATOR = Caller(transport="unix", uid=1000, pid=7, may_write=True)
READER = Caller(transport="unix", uid=1001, pid=8, may_write=False)


class SlowDatabase:
    """A database of `size` bytes whose copy takes a virtual second."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.error: Exception | None = None
        self.copies = 0

    async def snapshot(self, target: str, progress: Progress) -> SnapshotFacts:
        self.copies += 1
        progress("copying", 1, 2)
        await trio.sleep(1)
        if self.error is not None:
            raise self.error
        Path(target).write_bytes(b"d" * self.size)
        return SnapshotFacts(self.size, 2, {"session_ledger": 4})


class Bench:
    """The routes of one service."""

    def __init__(self, folder: Path, store: SqliteStore, size: int) -> None:
        self.folder = folder
        self.store = store
        self.database = SlowDatabase(size)
        self.log = ListLog()
        self.audited = Audited()
        clock = TrioWallClock()
        backups = Backups(
            snapshots=self.database,
            place=DiskBackupPlace(folder, run_sync=run_inline, still_wanted=lambda: None),
            clock=clock,
            version="0.1.0",
            configuration=lambda: [ExtraFile("config/ambient.toml", b"x = 1\n")],
            identity=lambda: b"seed",
        )
        numbers = iter(range(100))
        self.service = BackupService(
            backups=backups,
            store=store,
            new_id=lambda: f"B{next(numbers)}",
            log=self.log,
            run_sync=run_inline,
        )
        self._application = build_application(
            backup_routes(self.service, self.audited),
            readiness=lambda: None,
            log=ListHttpLog(),
            admin_group="g",
            audited=self.audited,
        )

    async def ask(self, method: str, target: str, body: Any = None, caller: Caller = OPERATOR) -> Response:
        found = parse_target(target.encode())
        assert isinstance(found, Target)
        raw = b"" if body is None else msgspec.json.encode(body)
        headers = {"content-type": "application/json"} if raw else {}
        request = Request(method, found.path, found.query, headers, raw, caller, "req-1")
        return await self._application(request)

    async def order(self, **body: Any) -> dict[str, Any]:
        answer = await self.ask("POST", "/api/v1/node/backup", body)
        assert answer.status == 200, answer
        document: dict[str, Any] = json.loads(answer.body)
        return document

    async def view(self, backup_id: str) -> dict[str, Any]:
        answer = await self.ask("GET", f"/api/v1/node/backup/{backup_id}")
        assert answer.status == 200, answer
        document: dict[str, Any] = json.loads(answer.body)
        return document

    async def piece(self, backup_id: str, offset: int) -> Response:
        return await self.ask("GET", f"/api/v1/node/backup/{backup_id}/content?offset={offset}")

    async def fetch(self, backup_id: str, size: int) -> bytes:
        found = b""
        while len(found) < size:
            answer = await self.piece(backup_id, len(found))
            assert answer.status == 200
            assert 0 < len(answer.body) <= PIECE_MAX
            found += answer.body
        return found


@asynccontextmanager
async def bench(folder: Path, size: int = 1000) -> AsyncIterator[Bench]:
    store = SqliteStore(folder / "ambient.db", clock=TrioWallClock(), ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        found = Bench(folder, store, size)
        nursery.start_soon(found.service.run)
        yield found
        nursery.cancel_scope.cancel()


async def test_a_backup_is_ordered_made_and_fetched_in_pieces(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with bench(tmp_path, size=PIECE_MAX * 2) as node:
        backup_id = (await node.order())["backup_id"]
        await trio.sleep(0.5)
        halfway = await node.view(backup_id)
        assert (halfway["state"], halfway["stage"], halfway["done"]) == ("making", "copying", 1)
        await trio.sleep(1)
        view = await node.view(backup_id)
        assert view["state"] == "ready"
        assert view["counts"] == {"session_ledger": 4}
        assert view["files"] == ["config/ambient.toml", "ambient.db"]
        raw = await node.fetch(backup_id, view["bytes"])
        assert len(raw) == view["bytes"]
        assert b"x = 1\n" in raw
        assert (await node.view(backup_id))["state"] == "gone"
        assert (await node.piece(backup_id, 0)).status == 404
    with closing(sqlite3.connect(tmp_path / "ambient.db")) as connection:
        kinds = connection.execute("SELECT kind, actor, subject FROM audit_records").fetchall()
    assert kinds == [("backup.made", "uid:1000", backup_id)]


async def test_a_second_order_waits_for_the_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with bench(tmp_path) as node:
        first = await node.order()
        answer = await node.ask("POST", "/api/v1/node/backup", {})
        assert answer.status == 429
        await trio.sleep(2)
        second = await node.order()
        assert second["backup_id"] != first["backup_id"]
        assert (await node.piece(first["backup_id"], 0)).status == 404
        await trio.sleep(2)
        assert (await node.view(second["backup_id"]))["state"] == "ready"
        assert node.database.copies == 2


async def test_what_nobody_fetches_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with bench(tmp_path) as node:
        backup_id = (await node.order())["backup_id"]
        for _ in range(4):
            await trio.sleep(KEPT_SEC - 1)
            assert (await node.view(backup_id))["state"] == "ready"
        await trio.sleep(KEPT_SEC + 1)
        assert (await node.view(backup_id))["state"] == "gone"


async def test_a_full_disk_is_told_and_the_next_order_may_come(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with bench(tmp_path) as node:
        errors: list[tuple[Exception, str]] = [
            (StoreFullError("the disk is full"), "STORAGE_FULL"),
            (StoreError("damaged", code="STORAGE_UNAVAILABLE"), "STORAGE_UNAVAILABLE"),
            (OSError(5, "I/O error"), "STORAGE_UNAVAILABLE"),
        ]
        for error, code in errors:
            node.database.error = error
            backup_id = (await node.order())["backup_id"]
            await trio.sleep(2)
            view = await node.view(backup_id)
            assert (view["state"], view["error_code"]) == ("failed", code)
            assert not list((tmp_path / "backup").iterdir())
        node.database.error = None
        backup_id = (await node.order())["backup_id"]
        await trio.sleep(2)
        assert (await node.view(backup_id))["state"] == "ready"


async def test_a_crash_on_the_way_does_not_block_the_next(tmp_path: Path, autojump_clock: MockClock) -> None:
    store = SqliteStore(tmp_path / "never", clock=TrioWallClock())
    node = Bench(tmp_path, store, 10)
    node.database.error = RuntimeError("a defect")
    backup_id = (await node.order())["backup_id"]
    with pytest.raises(RuntimeError, match="a defect"):
        await node.service.run()
    view = await node.view(backup_id)
    assert (view["state"], view["error_code"]) == ("failed", "INTERNAL_ERROR")
    assert (await node.order())["backup_id"] != backup_id


async def test_the_identity_is_in_it_only_when_asked_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with bench(tmp_path) as node:
        backup_id = (await node.order(with_identity=True))["backup_id"]
        await trio.sleep(2)
        assert "identity.key" in (await node.view(backup_id))["files"]


async def test_an_order_and_a_refused_one_leave_an_audit_line(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with bench(tmp_path) as b:
        made = await b.order(with_identity=True)
        await b.ask("POST", "/api/v1/node/backup", {})
        told = [(line.get("backup"), line.get("refused")) for line in b.audited.lines]
        assert told == [(made["backup_id"], None), (None, "TOO_MANY_REQUESTS")]
        assert {line["action"] for line in b.audited.lines} == {"backup"}


async def test_readers_get_nothing_of_a_backup(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with bench(tmp_path) as node:
        backup_id = (await node.order())["backup_id"]
        for method, target, body in (
            ("POST", "/api/v1/node/backup", {}),
            ("GET", f"/api/v1/node/backup/{backup_id}", None),
            ("GET", f"/api/v1/node/backup/{backup_id}/content?offset=0", None),
        ):
            assert (await node.ask(method, target, body, READER)).status == 403
        assert (await node.ask("GET", f"/api/v1/node/backup/{backup_id}/content")).status == 400
        assert (await node.ask("GET", "/api/v1/node/backup/other")).status == 404
