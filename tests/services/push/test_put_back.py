"""A control plane whose database is an older copy: the node goes on, and nothing is lost unseen."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import trio

from ambientd.core.assignments import Told
from ambientd.flows.push import PUT_BACK
from ambientd.wire.outbox_enums import OutboxStream
from tests.api.fleet.kit import FleetApi, api_over
from tests.pushkit import NodeRig, store_at
from tests.services.push.test_work import end, mine, sessions, submit, task
from tests.store.fleet.kit import SqlitePlace
from tests.store.kit import StillClock, ingest

COPY = "copy.db"


class Putting:
    """A node beside a control plane that can be put back."""

    def __init__(self, rig: NodeRig, folder: Path, stack: AsyncExitStack) -> None:
        self.rig = rig
        self._folder = folder
        self._stack = stack

    def copy(self) -> None:
        """A backup of this moment."""
        source = apsw.Connection(str(self._folder / "fleet.db"))
        source.execute("VACUUM INTO ?", (str(self._folder / COPY),))
        source.close()

    async def put_back(self, *, marked: bool = True) -> None:
        """Stops the control plane, brings the copy in, and starts it again; the node does not hear of it."""
        await self._stack.aclose()
        for path in self._folder.glob("fleet.db*"):
            path.unlink()
        shutil.copy(self._folder / COPY, self._folder / "fleet.db")
        clock = self.rig.clock
        api = await self._stack.enter_async_context(api_over(SqlitePlace(self._folder), clock=clock))
        if marked:
            await api.plane.store.write(lambda tx: tx.items.begin_era())
        self.rig.api = self.rig.wire.api = self.rig.owner.api = api

    async def rounds(self, count: int = 1) -> None:
        """Rounds as the loop does them when everything is due."""
        for _ in range(count):
            self.rig.later(1)
            self.rig.service._pull_at = 0.0
            self.rig.service._send_at = 0.0
            self.rig.service._beat_at = 0.0
            await self.rig.service._turn()

    async def told(self) -> list[Any]:
        """What the node has written down of the control plane's loss."""
        found = await self.rig.store.read(lambda tx: tx.audit.records(0, 10_000))
        return [record for record in found if record.kind == PUT_BACK]


@asynccontextmanager
async def beside(folder: Path) -> AsyncIterator[Putting]:
    for name in ("node", "plane"):
        (folder / name).mkdir()
    clock = StillClock()
    async with store_at(folder / "node" / "ambient.db", clock) as store, AsyncExitStack() as stack:
        place = SqlitePlace(folder / "plane")
        plane: FleetApi = await stack.enter_async_context(api_over(place, clock=clock))
        rig = NodeRig(store, plane, "edge-1", await plane.person("ann"))
        await rig.join()
        yield Putting(rig, folder / "plane", stack)
        await trio.lowlevel.checkpoint()


def dropped(rig: NodeRig) -> dict[str, int]:
    return {one.stream.value: one.dropped for one in rig.service.depth.streams if one.dropped}


async def in_step(rig: NodeRig) -> None:
    assert rig.there() == await rig.here()


async def advance(rig: NodeRig, name: str, reports: int = 3) -> None:
    """Sessions, audit records and reports that the control plane takes."""
    await rig.write(lambda tx: ingest(tx, name, events=2))
    await rig.record(3)
    for _ in range(reports):
        rig.later(60)
        await rig.sample()
    await rig.drain()


async def test_what_it_has_lost_comes_again_and_what_is_gone_is_counted_and_said(tmp_path: Path) -> None:
    async with beside(tmp_path) as put:
        rig = put.rig
        await advance(rig, "ses_a")
        put.copy()
        await advance(rig, "ses_b")
        before = rig.reports_there()
        await put.put_back()
        assert [row[0] for row in rig.there()["sessions"]] == ["ses_a"]
        await rig.write(lambda tx: ingest(tx, "ses_c", events=1))
        await put.rounds(3)
        await rig.drain()
        await in_step(rig)
        # Reports lie nowhere else: those between are gone, at both sides, and the node says how many.
        gone = set(before) - set(rig.reports_there())
        assert gone
        assert dropped(rig) == {"reports": len(gone)}
        told = {record.subject: record.detail for record in await put.told()}
        assert set(told) == {"reports", "audit", "ledger"}
        assert told["reports"]["lost"] == len(gone)
        assert told["ledger"]["there"] < told["ledger"]["acknowledged"]
        assert "control_plane.put_back" in str(rig.log.lines)
        assert rig.service.blocked == {}


async def test_it_is_noticed_though_the_node_has_nothing_new_to_tell(tmp_path: Path) -> None:
    for number, marked in enumerate((True, False)):
        (folder := tmp_path / str(number)).mkdir()
        async with beside(folder) as put:
            rig = put.rig
            await advance(rig, "ses_a")
            put.copy()
            await policy(rig, "p1", 1)
            await advance(rig, "ses_b")
            await put.rounds()
            assert len(await policies(rig)) == 1
            await put.put_back(marked=marked)
            await put.rounds(2)
            await in_step(rig)


async def policy(rig: NodeRig, name: str, revision: int) -> None:
    admin = await rig.api.person(f"root-{name}-{revision}", role="admin")  # type: ignore[arg-type]
    draft = {"id": name, "revision": revision, "destinations": ["https://a.example"], "protocols": ["https"]}
    await admin.post("/policies/issue", {"policy": [{**draft, "valid_for": "30d"}]}, status=201)


async def policies(rig: NodeRig) -> list[str]:
    rows = await rig.store.read(
        lambda tx: tx._connection.execute("SELECT DISTINCT policy_id FROM policy_items ORDER BY 1").fetchall()
    )
    return [str(row[0]) for row in rows]


async def test_no_item_that_is_added_afterwards_is_missed(tmp_path: Path) -> None:
    """The node was given revisions that the copy does not know, and that must not be given twice."""
    async with beside(tmp_path) as put:
        rig = put.rig
        await put.rounds()
        put.copy()
        for number in range(5):
            await policy(rig, f"before-{number}", 1)
        await put.rounds()
        assert len(await policies(rig)) == 5
        await put.put_back()
        for number in range(7):  # while the node is away
            await policy(rig, f"after-{number}", 1)
        await put.rounds()
        assert len(await policies(rig)) == 12


async def test_work_whose_end_it_has_lost_is_not_done_again(tmp_path: Path) -> None:
    async with beside(tmp_path) as put:
        rig = put.rig
        await rig.drain()
        task_id = await submit(rig)
        await rig.sync()
        await rig.sync()
        [session_id] = await sessions(rig)
        put.copy()  # it knows that the task runs
        await end(rig, session_id)
        await rig.drain()
        assert (await task(rig, task_id))["status"] == "completed"
        await put.put_back()
        assert (await task(rig, task_id))["status"] == "running"
        await put.rounds(3)
        found = await task(rig, task_id)
        assert (found["status"], found["result"]["session_id"]) == ("completed", session_id)
        assert (await mine(rig, task_id)).told is Told.ENDED
        assert len((await rig.here())["sessions"]) == 1
        await in_step(rig)


async def test_work_that_it_never_heard_of_is_ended_and_stays_in_the_ledger(tmp_path: Path) -> None:
    async with beside(tmp_path) as put:
        rig = put.rig
        await rig.drain()
        put.copy()
        await submit(rig)
        await rig.sync()
        [session_id] = await sessions(rig)
        await put.put_back()
        rig.service._reconciled = False
        await put.rounds(2)
        assert rig.sessions.ended == [session_id]
        await put.rounds()
        await in_step(rig)


async def test_a_node_that_it_does_not_know_any_more_says_so_and_joins_again(tmp_path: Path) -> None:
    async with beside(tmp_path) as put:
        rig = put.rig
        put.copy()
        rig.api.place.rows("UPDATE device_credentials SET revoked_at = 1")
        await rig.join()  # a credential that the copy does not know
        await advance(rig, "ses_a")
        await put.put_back()
        await put.rounds()
        assert "was put back" in (rig.refusal() or "")
        await rig.join()
        await put.rounds(2)
        await rig.drain()
        assert rig.refusal() is None
        await in_step(rig)


async def test_audit_records_that_are_nowhere_any_more_are_named_and_hold_nothing_else_up(
    tmp_path: Path,
) -> None:
    async with beside(tmp_path) as put:
        rig = put.rig
        await advance(rig, "ses_a")
        put.copy()
        await advance(rig, "ses_b")
        await rig.write(lambda tx: tx.audit.prune(5, 100))
        await put.put_back()
        await put.rounds(3)
        said = rig.service.blocked[OutboxStream.AUDIT]
        assert "neither here nor at the control plane" in said
        there = rig.there()
        assert [row[0] for row in there["sessions"]] == ["ses_a", "ses_b"]
        audit = next(record for record in await put.told() if record.subject == "audit")
        assert audit.detail["removed_here"] == 2
