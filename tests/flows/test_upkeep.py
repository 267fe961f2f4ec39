import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import trio

from ambientd.config.schema import RetentionConfig, SessionsConfig, SpoolConfig
from ambientd.core.records import NewSession, SessionChange
from ambientd.flows.upkeep import Upkeep, new_plan, preview, run
from ambientd.host.session_folders import DiskSessionFolders
from ambientd.host.spool_dir import DiskSpool
from ambientd.host.threads import run_inline
from ambientd.ports.errors import UnavailableError
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import RetentionAnswer
from tests.fakes.clock import EPOCH, TrioWallClock

DAY = 86_400.0


class Kept:
    """A state directory with old and new things in it."""

    def __init__(self, state: Path, store: SqliteStore, clock: TrioWallClock) -> None:
        self.state, self.store, self.clock = state, store, clock
        self.spool_bounds = SpoolConfig(keep=30 * DAY, keep_at_least=0)
        self.session_bounds = SessionsConfig(keep_folders=7 * DAY)
        self.spool = DiskSpool(state, max_file_size=1024, run_sync=run_inline)
        self.stuck: set[str] = set()
        self.ledger_bounds = RetentionConfig()
        self.told: list[RetentionAnswer] = []
        self.rests = 0
        self.upkeep = Upkeep(
            store=store,
            files=self.spool,
            folders=DiskSessionFolders(state, discard=self._discard, run_sync=run_inline),
            clock=clock,
            spool_bounds=lambda: self.spool_bounds,
            session_bounds=lambda: self.session_bounds,
            ledger_bounds=lambda: self.ledger_bounds,
            rest=self._rest,
            make_room=store.give_up_ballast,
        )

    async def _rest(self) -> None:
        self.rests += 1

    async def _discard(self, session_id: str) -> None:
        if session_id in self.stuck:
            raise UnavailableError("a run of the session is alive")
        folder = self.state / "sessions" / session_id
        for item in folder.iterdir():
            item.unlink()
        folder.rmdir()

    def file(self, folder: str, name: str, days: float, content: str = "{}") -> None:
        """A file that was last changed so many days ago."""
        path = self.state / "inbox" / folder / name
        path.write_text(content)
        at = EPOCH.timestamp() - days * DAY
        os.utime(path, (at, at))

    async def session(self, name: str, days: float | None, *, known: bool = True) -> None:
        """A session's folder; it ended so many days ago, or runs."""
        folder = self.state / "sessions" / name
        folder.mkdir(parents=True)
        (folder / "output").write_text("x" * 100)
        if not known:
            return
        ended = None if days is None else datetime.fromtimestamp(EPOCH.timestamp() - days * DAY, EPOCH.tzinfo)

        def work(tx: Transaction) -> None:
            row = NewSession(session_id=name, agent_id="a", agent_label="a", started_at=ended or EPOCH)
            tx.ledger.add(row)
            if ended is not None:
                tx.ledger.change(name, SessionChange(status=SessionStatus.SUCCESS, ended_at=ended))

        await self.store.write(work)

    def everything(self) -> dict[str, bytes]:
        """All files below the inbox and the sessions."""
        places = (self.state / "inbox", self.state / "sessions")
        return {
            str(path.relative_to(self.state)): path.read_bytes()
            for place in places
            for path in place.rglob("*")
            if path.is_file()
        }

    async def prune(self, *, dry_run: bool) -> RetentionAnswer:
        if dry_run:
            return await preview(self.upkeep, actor="uid:0")
        return await run(self.upkeep, new_plan(self.upkeep), actor="uid:0", tell=self.told.append)


FILES = ("inbox/done", "inbox/rejected", "inbox/blocked", "sessions")


def counts(answer: RetentionAnswer) -> dict[str, tuple[int, int]]:
    """Things and bytes of each folder."""
    return {row.name: (row.rows, row.bytes) for row in answer.tables if row.name in FILES}


@asynccontextmanager
async def kept(state: Path) -> AsyncIterator[Kept]:
    clock = TrioWallClock()
    store = SqliteStore(state / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        found = Kept(state, store, clock)
        await found.spool.prepare()
        yield found
        await store.close()


async def fill(box: Kept) -> None:
    for number in range(3):
        box.file("done", f"old{number}.json", 40)
        box.file("done", f"old{number}.result.json", 40)
    box.file("done", "new.json", 1)
    box.file("rejected", "bad.json", 31)
    box.file("rejected", "bad.reason.json", 31)
    box.file("blocked", "waits.json", 29)
    await box.session("ses_old", 8)
    await box.session("ses_new", 6)
    await box.session("ses_running", None)


async def test_what_is_old_goes_and_the_rest_stays(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        await fill(box)
        answer = await box.prune(dry_run=False)
        assert counts(answer) == {
            "inbox/done": (3, 12),
            "inbox/rejected": (1, 4),
            "inbox/blocked": (0, 0),
            "sessions": (1, 100),
        }
        assert set(box.everything()) == {
            "inbox/done/new.json",
            "inbox/blocked/waits.json",
            "sessions/ses_new/output",
            "sessions/ses_running/output",
        }
        assert answer.dry_run is False
        assert not (tmp_path / "sessions" / "ses_old").exists()


async def test_a_dry_run_tells_exactly_what_would_go_and_changes_nothing(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        await fill(box)
        before = box.everything()
        plan = await box.prune(dry_run=True)
        assert box.everything() == before
        assert await box.store.read(lambda tx: tx.ledger.count()) == 3
        real = await box.prune(dry_run=False)
        assert counts(plan) == counts(real)
        assert plan.dry_run
        assert counts(await box.prune(dry_run=True)) == dict.fromkeys(counts(real), (0, 0))


async def test_a_minimum_of_the_newest_is_kept_whatever_their_age(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        box.spool_bounds = replace(box.spool_bounds, keep_at_least=2)
        for number in range(5):
            box.file("done", f"{number}.json", 40 + number)
        await box.prune(dry_run=False)
        assert set(box.everything()) == {"inbox/done/0.json", "inbox/done/1.json"}


async def test_files_that_are_none_of_ours_are_never_deleted(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        for name in ("notes.txt", "README", ".hidden.json", "job.yaml"):
            box.file("done", name, 1000)
        (tmp_path / "inbox" / "waiting.json").write_text("{}")
        os.utime(tmp_path / "inbox" / "waiting.json", (0, 0))
        box.file("running", "runs.json", 1000)
        await box.session("ses_of_somebody_else", 1000, known=False)
        (tmp_path / "sessions" / os.fsdecode(b"not-utf8-\xff")).mkdir()
        before = box.everything()
        answer = await box.prune(dry_run=False)
        assert box.everything() == before
        assert (tmp_path / "sessions" / os.fsdecode(b"not-utf8-\xff")).exists()
        assert {rows for rows, _ in counts(answer).values()} == {0}


async def test_a_file_that_its_note_outlived_goes_with_the_note_s_age(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        box.file("done", "a.json", 40)
        box.file("done", "a.result.json", 1)
        await box.prune(dry_run=False)
        assert set(box.everything()) == {"inbox/done/a.json", "inbox/done/a.result.json"}


async def test_a_folder_that_cannot_go_keeps_no_other_and_is_not_counted(tmp_path: Path) -> None:
    async with kept(tmp_path) as box:
        for name in ("ses_a", "ses_b", "ses_c"):
            await box.session(name, 10)
        box.stuck = {"ses_b"}
        answer = await box.prune(dry_run=False)
        assert set(box.everything()) == {"sessions/ses_b/output"}
        assert counts(answer)["sessions"] == (2, 200)


async def test_a_link_in_the_sessions_folder_is_not_followed(tmp_path: Path) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    async with kept(state) as box:
        (state / "sessions").mkdir()
        (state / "sessions" / "ses_link").symlink_to(elsewhere)
        await box.prune(dry_run=False)
        assert (elsewhere / "precious").exists()
