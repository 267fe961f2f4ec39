import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ambientd.core.gateway_ledger import SOURCE
from ambientd.core.gateway_view.rows import parse_agents, parse_row
from ambientd.core.gateway_view.view import GatewayView
from ambientd.core.ingest import StoredSession
from ambientd.core.records import LedgerQuery
from ambientd.core.timefmt import from_ms
from ambientd.flows.gateway_ledger import AUDIT_MARK, GatewayLedger
from ambientd.host.threads import run_inline
from ambientd.ports.gateway import GatewayUnavailableError, LinkPhase
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from tests.fakes.clock import TrioWallClock
from tests.fakes.gateway_link import FakeGatewayLink
from tests.gatewaykit import play, recording

MINUTE = 60_000
NOW = 1_795_176_000_000  # the clock's epoch


class Rig:
    """The flow between a scripted gateway and a real database; `now_ms` is everybody's time."""

    def __init__(self, store: SqliteStore, clock: TrioWallClock) -> None:
        self.store = store
        self.clock = clock
        self.link = FakeGatewayLink(latency=0)
        self.link.now_ms = lambda: self.now_ms
        self.link.up()
        self.view = GatewayView()
        agents = parse_agents({"agents": [{"id": "main"}, {"id": "tony", "name": "Tony"}]})
        assert agents is not None
        self.view.set_agents(agents)
        self.changed: list[str] = []
        self.ended: list[str] = []
        self.ledger = self.make()

    def make(self) -> GatewayLedger:
        return GatewayLedger(
            link=self.link,
            view=self.view,
            store=self.store,
            clock=self.clock,
            prices=lambda: None,
            changed=self.changed.append,
            ended=self.ended.append,
        )

    @property
    def now_ms(self) -> int:
        return int(self.clock.now().timestamp() * 1000)

    def set_time(self, ms: int) -> None:
        self.clock.step((ms - self.now_ms) / 1000)

    async def follow(self, name: str, *, own_kills: bool = False) -> None:
        """A recording happens now, and the ledger looks after each of its steps."""
        for now in play(self.view, name, own_kills=own_kills):
            if now:
                self.set_time(now)
            await self.ledger.take_rows()

    def row(self, session_id: str = "s1", **facts: Any) -> None:
        """The view hears of a session, at this moment."""
        told = self.link.put(tell=False, sessionId=session_id, **facts)
        self.view.hear("sessions.changed", told | {"sessionKey": told["key"], "reason": "send"}, self.now_ms)

    async def rows(self) -> list[StoredSession]:
        def work(tx: Any) -> list[StoredSession]:
            names = [row.session_id for row in tx.ledger.page(LedgerQuery(limit=1000)).rows]
            return [tx.ingest.session(name) for name in reversed(names)]

        return await self.store.read(work)

    async def said(self) -> dict[str, tuple[str, str | None]]:
        """Status and error code of every row."""
        return {row.session_id: (row.status.value, row.error_code) for row in await self.rows()}

    async def events(self, session_id: str) -> list[tuple[str | None, str]]:
        found = await self.store.read(lambda tx: tx.ledger.events(session_id, 0, 100))
        return [(event.payload.get("from"), event.payload["to"]) for event in found]


@asynccontextmanager
async def rigged(folder: Path) -> AsyncIterator[Rig]:
    clock = TrioWallClock()
    store = SqliteStore(folder / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        rig = Rig(store, clock)
        await rig.ledger.begin()
        yield rig
        await store.close()


# --- rows alone, as recorded


@pytest.mark.parametrize(
    ("name", "session_id", "expected", "code"),
    [
        ("ok", "238e04ae-0942-40b6-af6a-81f1f1abd603", "success", None),
        ("killed-in-stream", "72d9577b-1519-4464-b0a4-a402971e96c7", "killed", None),
        ("http-400", "a4c5f02e-6ce7-494d-b7ba-9e7d2e49140a", "failed", "run_failed"),
    ],
)
async def test_a_recorded_run_enters_the_ledger_without_any_post(
    name: str, session_id: str, expected: str, code: str | None, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow(name)
        (row,) = await rig.rows()
        assert (row.session_id, row.status.value, row.error_code) == (session_id, expected, code)
        assert (row.source, row.agent_id, row.agent_label) == (SOURCE, "tony", "Tony")
        assert row.gateway_session_id == session_id
        assert row.run_id
        assert row.ended_at is not None
        assert row.started_at < row.ended_at
        assert await rig.events(session_id) == [(None, "running"), ("running", expected)]
        assert rig.ended == [session_id]
        if expected == "failed":
            assert (row.error_message or "").startswith("LLM request failed")


async def test_tokens_and_cost_are_called_what_they_are(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("ok")
        (row,) = await rig.rows()
        usage = await rig.store.read(lambda tx: tx.usage.get(row.session_id))
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (903, 42)
        assert usage.total_tokens == 945, "the row's own totalTokens is the size of the context, not a sum"
        assert (usage.token_source, usage.token_confidence) == ("derived", "medium")
        assert usage.cost_usd == pytest.approx(0.000997)
        assert (usage.cost_source, usage.cost_confidence) == ("estimated_from_pricing", "estimated")
        assert usage.pricing_version == "openclaw-gateway"
        assert (usage.runtime_source, usage.runtime_confidence) == ("derived", "medium")
        assert row.model_id == "mock/mock-fast"


async def test_a_killed_run_has_no_figures(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("killed-in-stream")
        (row,) = await rig.rows()
        usage = await rig.store.read(lambda tx: tx.usage.get(row.session_id))
        assert usage is not None
        assert (usage.prompt_tokens, usage.cost_usd, usage.token_source) == (None, None, "missing")


async def test_runtime_counts_from_the_request_over_all_retries(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("http-500")
        row = (await rig.rows())[-1]
        assert row.status is SessionStatus.FAILED
        assert row.runtime_ms is not None
        assert 70_000 < row.runtime_ms < 80_000, "the row says 123 ms, of the last attempt"


async def test_every_run_of_a_session_is_a_row_of_its_own(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("kills")
        rows = await rig.rows()
        first = "a36fe2052"
        assert len(rows) == 3
        assert rows[0].session_id.endswith(first)
        assert [row.session_id for row in rows[1:]] == [
            f"{rows[0].session_id}~{row.run_id}" for row in rows[1:]
        ]
        assert {row.gateway_session_id for row in rows} == {rows[0].session_id}
        assert {row.status.value for row in rows} == {"killed"}
        assert len({row.run_id for row in rows}) == 3


async def test_a_sub_agent_is_a_session_of_its_own_and_its_parent_ends_before_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("subagent")
        assert sorted(word for word, _ in (await rig.said()).values()) == ["killed", "success"]


async def test_an_older_gateways_runs_enter_the_ledger_and_what_we_killed_is_killed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("old", own_kills=True)
        found = {row.session_id[:4]: row for row in await rig.rows()}
        assert {name: row.status.value for name, row in found.items()} == {
            "a503": "success",
            "e96f": "failed",
            "fa0a": "killed",
        }
        assert found["e96f"].error_message == (
            "LLM request failed: provider rejected the request schema or tool payload."
        )
        assert all(row.run_id for row in found.values())
        usage = await rig.store.read(lambda tx: tx.usage.get(found["a503"].session_id))
        assert usage is not None
        assert usage.prompt_tokens == 903
        assert usage.cost_usd == pytest.approx(0.000997)


@pytest.mark.parametrize("name", ["ok", "killed-in-stream", "http-500", "kills", "subagent", "old"])
async def test_the_same_told_again_changes_nothing(
    name: str, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow(name, own_kills=True)
        await rig.ledger.take_rows()
        before = dump(tmp_path)
        rig.view = GatewayView()
        rig.ledger = rig.make()
        await rig.ledger.begin()
        last = recording(name)["steps"]
        rows = [step for step in last if "listed" in step][-1]
        for raw in rows["listed"]:
            rig.view.hear("sessions.changed", raw | {"sessionKey": raw["key"], "reason": "x"}, rows["ts"])
        await rig.ledger.take_rows()
        assert dump(tmp_path) == before


DUMPS = (
    "SELECT session_id, run_id, status, started_at, ended_at, runtime_ms FROM session_ledger ORDER BY 1",
    "SELECT session_id, error_code, error_message, model_id FROM session_ledger ORDER BY 1",
    "SELECT session_id, seq, payload_json FROM session_events ORDER BY 1, 2",
    "SELECT session_id, prompt_tokens, completion_tokens, cost_usd FROM session_usage ORDER BY 1",
)


def dump(folder: Path) -> list[tuple[Any, ...]]:
    """Everything that was recorded of sessions."""
    with sqlite3.connect(folder / "ambient.db") as db:
        return [row for sql in DUMPS for row in db.execute(sql)]


async def test_a_running_run_is_there_while_it_runs(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.row(status="running", hasActiveRun=True, activeRunIds=["r1"], displayName="say hello")
        await rig.ledger.take_rows()
        (row,) = await rig.rows()
        assert (row.session_id, row.status, row.run_id, row.task_title) == (
            "s1",
            SessionStatus.RUNNING,
            "r1",
            "say hello",
        )
        assert (row.started_at, row.ended_at) == (from_ms(NOW), None)


async def test_a_session_without_a_run_is_none_of_the_ledgers(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.row(hasActiveRun=False)
        await rig.ledger.take_rows()
        assert await rig.rows() == []


async def test_another_senders_session_of_that_id_is_left_alone(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        other: dict[str, Any] = {
            "session_id": "s1",
            "run_id": None,
            "agent_id": "x",
            "agent_label": "x",
            "model_id": "m",
            "task_title": None,
            "task_text": None,
            "task_category": None,
            "status": SessionStatus.RUNNING,
            "started_at": from_ms(NOW),
            "ended_at": None,
            "runtime_ms": None,
            "running_since": None,
            "artifact_count": 0,
            "error_code": None,
            "error_message": None,
            "source_version": None,
            "source": "somebody",
        }
        await rig.store.write(lambda tx: tx.ingest.add(StoredSession(**other)))
        rig.row(status="running", hasActiveRun=True, activeRunIds=["r1"])
        await rig.ledger.take_rows()
        assert await rig.said() == {"s1": ("running", None), "s1~r1": ("running", None)}


# --- the audit list


def entry(sequence: int, run_id: str, at: int, status: str = "started", **more: Any) -> dict[str, Any]:
    """One entry, shaped as recorded."""
    began = status == "started"
    return {
        "schemaVersion": 1,
        "sequence": sequence,
        "occurredAt": at,
        "agentId": "tony",
        "sessionKey": "agent:tony:dashboard:s1",
        "sessionId": "s1",
        "runId": run_id,
        "kind": "agent_run",
        "action": "agent.run.started" if began else "agent.run.finished",
        "status": status,
    } | more


async def test_the_recorded_audit_list_is_taken_in_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.set_time(1_795_195_300_000)
        rig.link.audit = recording("audit")["answer"]["events"]
        pulled = await rig.ledger.pull_audit()
        assert (pulled.supported, pulled.taken, pulled.cut) == (True, 46, False)
        rows = await rig.rows()
        told = [event for event in rig.link.audit if event["kind"] == "agent_run"]
        runs = {event["runId"]: event for event in told if event["action"] == "agent.run.finished"}
        began = {event["runId"] for event in told}
        assert {row.run_id for row in rows} == began
        words = {"succeeded": "success", "cancelled": "killed", "failed": "failed", "blocked": "failed"}
        for row in rows:
            assert row.run_id is not None
            end = runs.get(row.run_id)
            assert row.status.value == (words[end["status"]] if end else "running")
            if end and row.status is SessionStatus.FAILED:
                assert row.error_code == end["errorCode"]
        before = dump(tmp_path)
        assert (await rig.ledger.pull_audit()).taken == 0
        again = rig.make()
        assert (await again.pull_audit()).taken == 0, "the mark outlives the daemon"
        await rig.store.write(lambda tx: tx.settings.put(AUDIT_MARK, "0"))
        assert (await again.pull_audit()).taken == 46
        assert dump(tmp_path) == before, "taken in twice, it is there once"


async def test_after_an_absence_every_page_behind_the_mark_is_read(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.set_time(NOW + 10_000 * 1_000)
        rig.link.audit = [entry(1, "r0", NOW), entry(2, "r0", NOW + 10, "succeeded")]
        await rig.ledger.pull_audit()
        for number in range(1, 500):
            at = NOW + number * 1_000
            rig.link.audit.append(entry(2 * number + 1, f"r{number}", at))
            rig.link.audit.append(
                entry(2 * number + 2, f"r{number}", at + 10, "failed", errorCode="run_failed")
            )
        calls = len(rig.link.calls)
        assert (await rig.ledger.pull_audit()).taken == 998
        assert len(rig.link.calls) - calls <= 7
        said = await rig.said()
        assert len(said) == 500
        assert said["s1"] == ("success", None)
        assert said["s1~r499"] == ("failed", "run_failed")


async def test_a_list_that_began_anew_is_read_from_its_beginning(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.store.write(lambda tx: tx.settings.put(AUDIT_MARK, "900"))
        rig.link.audit = [entry(1, "r1", NOW), entry(2, "r1", NOW, "succeeded")]
        assert (await rig.ledger.pull_audit()).taken == 2
        assert await rig.said() == {"s1": ("success", None)}


async def test_the_audit_tells_a_kill_from_a_failure_and_the_view_believes_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Killed while the provider was retried: the row says failed, the audit list says cancelled."""
    async with rigged(tmp_path) as rig:
        rig.link.audit = [entry(1, "r1", NOW)]
        rig.row(status="running", hasActiveRun=True, activeRunIds=["r1"])
        await rig.ledger.pull_audit()
        await rig.ledger.take_rows()
        rig.set_time(NOW + 1_000)
        rig.row(
            status="failed", hasActiveRun=False, activeRunIds=[], lastRunId="r1", lastRunError="aborted | x"
        )
        await rig.ledger.take_rows()
        await rig.ledger.settle()
        assert await rig.said() == {"s1": ("running", None)}, "not failed before the audit could tell"
        assert rig.view.verdict("tony", rig.now_ms).status.value == "failed"
        rig.link.audit.append(entry(2, "r1", NOW + 900, "cancelled", errorCode="run_cancelled"))
        await rig.ledger.pull_audit()
        assert await rig.said() == {"s1": ("killed", None)}
        assert rig.view.verdict("tony", rig.now_ms).reason == "last run killed"


async def test_an_audited_failure_has_the_rows_words_and_one_without_audit_ends_all_the_same(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.audit = [entry(1, "r1", NOW), entry(2, "r1", NOW + 50, "blocked", errorCode="run_blocked")]
        rig.row(status="failed", hasActiveRun=False, lastRunId="r1", lastRunError="no such model")
        await rig.ledger.pull_audit()
        (row,) = await rig.rows()
        assert (row.error_code, row.error_message) == ("run_blocked", "no such model")
        rig.row("s2", status="running", hasActiveRun=True, activeRunIds=["r2"])
        await rig.ledger.take_rows()
        rig.set_time(NOW + 100)
        rig.row("s2", status="failed", hasActiveRun=False, lastRunId="r2", lastRunError="it broke")
        await rig.ledger.take_rows()
        rig.set_time(NOW + 6_000)
        assert await rig.ledger.settle() == 1
        assert (await rig.said())["s2"] == ("failed", "run_failed")


# --- ends that nobody tells


async def test_a_run_that_a_gateways_restart_ended_fails_truthfully_and_the_resumed_one_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.ledger.connected(restarted=False)
        await rig.follow("before-kill9")
        assert [word for word, _ in (await rig.said()).values()] == ["running"]
        rig.link.up(restarted=True, boot_id="boot-2")
        rig.clock.step(5)
        await rig.ledger.connected(restarted=True)
        await rig.follow("after-kill9")
        await rig.ledger.settle()
        rig.clock.step(10)
        assert await rig.ledger.settle() == 1
        rows = {row.run_id: row for row in await rig.rows() if row.session_id.startswith("57615607")}
        old, new = sorted(rows.values(), key=lambda row: row.started_at)
        assert (old.status.value, old.error_code) == ("failed", "gateway_restart")
        assert (new.status.value, new.session_id) == ("running", f"{old.session_id}~{new.run_id}")
        usage = await rig.store.read(lambda tx: tx.usage.get(old.session_id))
        assert usage is not None
        assert usage.runtime_confidence == "low", "when it ended nobody knows"
        assert new.started_at > old.started_at


async def test_an_older_gateway_calls_a_run_that_its_end_cut_off_failed_and_says_no_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.up(protocol=3, boot_id=None)
        await rig.ledger.connected(restarted=False)
        rig.row(status="running", hasActiveRun=True, startedAt=rig.now_ms)
        await rig.ledger.take_rows()
        rig.clock.step(30)
        rig.link.up(restarted=True, protocol=3, boot_id=None)
        await rig.ledger.connected(restarted=True)
        rig.clock.step(5)
        rig.row(status="failed", hasActiveRun=False, abortedLastRun=True, endedAt=rig.now_ms)
        await rig.ledger.take_rows()
        (row,) = await rig.rows()
        assert (row.status.value, row.error_code) == ("failed", "gateway_restart")


async def test_a_row_left_running_by_a_process_that_is_gone_is_not_believed_for_long(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.up(protocol=3, boot_id=None)
        await rig.ledger.connected(restarted=False)
        rig.row(status="running", hasActiveRun=True, startedAt=rig.now_ms)
        await rig.ledger.take_rows()
        rig.clock.step(30)
        rig.link.up(restarted=True, protocol=3, boot_id=None)
        await rig.ledger.connected(restarted=True)
        rig.row(status="running", hasActiveRun=False, updatedAt=rig.now_ms - 30_000)
        rig.clock.step(10)
        assert await rig.ledger.settle() == 0
        rig.clock.step(6)
        assert await rig.ledger.settle() == 1
        (row,) = await rig.rows()
        assert (row.status.value, row.error_code) == ("failed", "gateway_restart")


async def test_a_run_of_which_nothing_is_told_any_more_is_lost_after_a_while(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.ledger.connected(restarted=False)
        rig.row(status="running", hasActiveRun=True, activeRunIds=["r1"])
        await rig.ledger.take_rows()
        rig.set_time(NOW + 1_000)
        rig.row(status="", hasActiveRun=False, activeRunIds=[])
        await rig.ledger.take_rows()
        assert await rig.ledger.settle() == 0
        rig.set_time(NOW + 2 * MINUTE)
        assert await rig.ledger.settle() == 1
        assert await rig.said() == {"s1": ("failed", "run_lost")}


async def test_a_lost_run_that_we_had_killed_is_killed(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.row(status="running", hasActiveRun=True, activeRunIds=["r1"])
        await rig.ledger.take_rows()
        rig.view.add_kill("s1", "r1", rig.now_ms)
        rig.set_time(NOW + 1_000)
        rig.row(status="", hasActiveRun=False, activeRunIds=[])
        rig.set_time(NOW + 2 * MINUTE)
        await rig.ledger.settle()
        assert await rig.said() == {"s1": ("killed", None)}


async def test_a_run_that_the_view_does_not_keep_is_looked_up(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.row(status="running", hasActiveRun=True, activeRunIds=["r1"])
        await rig.ledger.take_rows()
        rig.view.forget("agent:tony:dashboard:s1")
        assert await rig.ledger.settle() == 0
        rig.link.put(
            tell=False, sessionId="s1", status="done", hasActiveRun=False, lastRunId="r1", activeRunIds=[]
        )
        assert await rig.ledger.settle() == 1
        assert await rig.said() == {"s1": ("success", None)}


async def test_recent_kills_are_known_again_after_a_restart_of_the_daemon(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.follow("old", own_kills=True)
        rig.view = GatewayView()
        rig.ledger = rig.make()
        await rig.ledger.begin()
        last = [step for step in recording("old")["steps"] if "listed" in step][-1]
        for raw in last["listed"]:
            rig.view.hear("sessions.changed", raw | {"sessionKey": raw["key"], "reason": "x"}, last["ts"])
        assert {row.session_id[:4]: rig.view.kills.covers(row) for row in rig.view.sessions_of("tony")} == {
            "fa0a": True,
            "e96f": False,
            "a503": False,
        }


async def test_rows_of_an_absence_are_taken_in_behind_the_mark(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        assert not (await rig.ledger.pull_audit()).supported
        rig.set_time(NOW + 5 * MINUTE)
        await rig.ledger.take_rows()
        rig.set_time(NOW + 200 * MINUTE)
        rig.view = GatewayView()
        rig.ledger = rig.make()
        await rig.ledger.begin()
        await rig.ledger.pull_audit()
        for name, at in (("new", NOW + 199 * MINUTE), ("missed", NOW + 30 * MINUTE), ("known", NOW - MINUTE)):
            raw = {"key": f"agent:tony:{name}", "sessionId": name, "status": "done", "hasActiveRun": False}
            row = parse_row(raw | {"updatedAt": at, "endedAt": at, "lastRunId": f"run-{name}"})
            assert row is not None
            rig.view.put_listed(row, rig.now_ms)
        await rig.ledger.take_rows()
        assert set(await rig.said()) == {"new", "missed"}


async def test_nothing_is_lost_when_the_gateway_goes_away_while_it_is_read(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.audit = [entry(1, "r1", NOW), entry(2, "r1", NOW, "succeeded")]
        rig.link.down(phase=LinkPhase.WAITING)
        with pytest.raises(GatewayUnavailableError):
            await rig.ledger.pull_audit()
        rig.link.up()
        await rig.ledger.pull_audit()
        assert await rig.said() == {"s1": ("success", None)}


async def test_a_gateways_clock_that_is_ahead_moves_nothing_into_the_future(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        ahead = 90_000
        rig.view.note_clock(NOW + ahead, NOW)
        rig.link.audit = [entry(1, "r1", NOW + ahead), entry(2, "r1", NOW + ahead, "succeeded")]
        await rig.ledger.pull_audit()
        (row,) = await rig.rows()
        assert (row.started_at, row.ended_at) == (from_ms(NOW), from_ms(NOW))
