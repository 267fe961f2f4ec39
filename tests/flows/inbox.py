"""An inbox on disk with a real database behind it, and ways to die between two steps."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ambientd.config.schema import AgentConfig
from ambientd.core.records import SessionChange, SessionRecord
from ambientd.flows.intake import Intake, close_finished, take_in
from ambientd.flows.sessions import note_task_end
from ambientd.host.spool_dir import DiskSpool
from ambientd.host.threads import run_inline
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from tests.fakes.clock import CountingIds, TrioWallClock
from tests.fakes.store import CrashError, TroubledStore

MAX_FILE = 64 * 1024


class MortalSpool(DiskSpool):
    """A spool under which the process dies right before, or right after, a move."""

    def __init__(self, state: Path) -> None:
        super().__init__(state, max_file_size=MAX_FILE, run_sync=run_inline)
        self.die_before_move = False
        self.die_after_move = False
        self.broken: set[str] = set()

    async def move(
        self,
        name: str,
        to: str,
        *,
        source: str | None = None,
        note: tuple[str, Mapping[str, Any]] | None = None,
    ) -> str:
        if name in self.broken:
            raise PermissionError(1, "Operation not permitted", name)
        if self.die_before_move:
            raise CrashError
        final = await super().move(name, to, source=source, note=note)
        if self.die_after_move:
            raise CrashError
        return final


def task(task_id: str = "t1", **more: Any) -> dict[str, Any]:
    """A good document, or one that `more` makes bad."""
    document = {"task_id": task_id, "agent_id": "worker", "prompt": "do it"} | more
    return {key: value for key, value in document.items() if value is not None}


class Inbox:
    """The folder, the database and the flow over both."""

    def __init__(self, state: Path, store: SqliteStore, clock: TrioWallClock) -> None:
        self.state = state
        self.folder = state / "inbox"
        self.real_store = store
        self.store = TroubledStore(store)
        self.spool = MortalSpool(state)
        self.agents = {"worker": AgentConfig(id="worker", command=("true",), models=("m/1", "m/2"))}
        self.clock = clock
        self.intake = Intake(
            spool=self.spool, store=self.store, clock=clock, ids=CountingIds(), agents=lambda: self.agents
        )

    def hand_in(self, name: str, content: Any = None) -> None:
        """The documented way: written under another name, then renamed."""
        data = content if isinstance(content, bytes) else json.dumps(content or task()).encode()
        part = self.folder / f".{name}.part"
        part.write_bytes(data)
        part.rename(self.folder / name)

    async def sweep(self) -> int:
        """Every file of the inbox, by name; returns how many sessions came of them."""
        return sum([await take_in(self.intake, name) for name in (await self.spool.scan()).names])

    async def close(self) -> int:
        """Every file under way; returns how many ended."""
        return sum([await close_finished(self.intake, name) for name in (await self.spool.scan()).running])

    def names(self, folder: str = "") -> list[str]:
        """Files of a folder."""
        return sorted(entry.name for entry in os.scandir(self.folder / folder) if not entry.is_dir())

    def note(self, folder: str, name: str, kind: str = "reason") -> dict[str, Any]:
        """The note beside an ended file."""
        path = self.folder / folder / f"{name.removesuffix('.json')}.{kind}.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    async def sessions(self) -> list[SessionRecord]:
        return await self.real_store.read(lambda tx: tx.ledger.active())

    async def counters(self) -> dict[str, int]:
        return dict(await self.real_store.read(lambda tx: tx.tasks.counters()))

    async def end_session(self, session_id: str, status: SessionStatus = SessionStatus.SUCCESS) -> None:
        """The session's run ends."""
        at = self.clock.now()

        def work(tx: Any) -> None:
            tx.ledger.change(session_id, SessionChange(status=status, ended_at=at, runtime_ms=1234))
            note_task_end(tx, tx.runs.get(session_id), status, at)

        await self.real_store.write(work)


@asynccontextmanager
async def inbox(state: Path) -> AsyncIterator[Inbox]:
    """A ready inbox below `state`."""
    clock = TrioWallClock()
    store = SqliteStore(state / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        found = Inbox(state, store, clock)
        await found.spool.prepare()
        yield found
        await store.close()
