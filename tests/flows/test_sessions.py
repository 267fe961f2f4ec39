from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ambientd.config.schema import AgentConfig
from ambientd.core.records import NewSession, RunRecord
from ambientd.core.rejection import Rejected
from ambientd.flows.sessions import Agents, check_order, kill, resolve, spawn
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreError
from ambientd.ports.store import Transaction
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import KillAnswer, SpawnAnswer, SpawnRequest
from ambientd.wire.routes import PROMPT_MAX_BYTES
from tests.fakes.clock import EPOCH, CountingIds, TrioWallClock

AGENTS: Agents = {
    "reviewer": AgentConfig(
        id="reviewer", name="Code reviewer", command=("agent",), model="m/1", category="review"
    ),
    "picky": AgentConfig(id="picky", command=("agent",), models=("m/1", "m/2")),
    "argument": AgentConfig(id="argument", command=("agent", "{prompt}")),
    "safe": AgentConfig(id="safe", command=("agent", "--", "{prompt}")),
    "modelled": AgentConfig(id="modelled", command=("agent", "{model}")),
}


def problems(request: SpawnRequest) -> list[tuple[str, str]]:
    answer = check_order(request, AGENTS)
    assert isinstance(answer, Rejected), answer
    return [(detail.field, detail.issue) for detail in answer.details]


def test_an_order_takes_what_is_not_named_from_the_agent() -> None:
    order = check_order(SpawnRequest(agent_id="reviewer", prompt="look"), AGENTS)
    assert not isinstance(order, Rejected)
    assert (order.model, order.category, order.title) == ("m/1", "review", None)
    named = check_order(
        SpawnRequest(agent_id="reviewer", prompt="look", model="m/9", category="c", title="t"), AGENTS
    )
    assert not isinstance(named, Rejected)
    assert (named.model, named.category, named.title) == ("m/9", "c", "t")
    unknown = check_order(SpawnRequest(agent_id="safe", prompt="look"), AGENTS)
    assert not isinstance(unknown, Rejected)
    assert unknown.model == "unknown"


def test_every_problem_is_named_at_once_in_the_order_of_the_fields() -> None:
    request = SpawnRequest(agent_id="nobody", prompt=" ", model="two\nlines", title="", category="x" * 201)
    assert problems(request) == [
        ("agentId", "unknown"),
        ("prompt", "empty"),
        ("model", "bad_text"),
        ("title", "bad_text"),
        ("category", "bad_text"),
    ]


def test_an_unknown_agent_alone_is_not_found_and_the_known_ones_are_named() -> None:
    answer = check_order(SpawnRequest(agent_id="nobody", prompt="look"), AGENTS)
    assert isinstance(answer, Rejected)
    assert answer.code == "NOT_FOUND"
    assert "argument, modelled, picky, reviewer, safe" in answer.details[0].message
    nothing = check_order(SpawnRequest(agent_id="nobody", prompt="look"), {})
    assert isinstance(nothing, Rejected)
    assert "none is configured" in nothing.details[0].message


@pytest.mark.parametrize(
    ("agent_id", "prompt", "model", "found"),
    [
        ("reviewer", "é" * (PROMPT_MAX_BYTES // 2 + 1), None, [("prompt", "too_large")]),
        ("picky", "look", "m/3", [("model", "not_allowed")]),
        ("picky", "look", None, None),
        ("argument", "--help", None, [("prompt", "option_like")]),
        ("argument", "-", None, [("prompt", "option_like")]),
        ("argument", "a --help", None, None),
        ("safe", "--help", None, None),
        ("reviewer", "--help", None, None),
        ("modelled", "look", "--rm", [("model", "option_like")]),
    ],
)
def test_what_may_be_asked(
    agent_id: str, prompt: str, model: str | None, found: list[tuple[str, str]] | None
) -> None:
    request = SpawnRequest(agent_id=agent_id, prompt=prompt, model=model)
    if found is None:
        assert not isinstance(check_order(request, AGENTS), Rejected)
    else:
        assert problems(request) == found


def test_equal_requests_get_equal_refusals() -> None:
    request = SpawnRequest(agent_id="nobody", prompt="", model="\x00")
    assert check_order(request, AGENTS) == check_order(request, dict(sorted(AGENTS.items(), reverse=True)))


class Control:
    """A `SessionControl` that holds nothing and keeps what it was told."""

    def __init__(self, held: tuple[str, ...] = ()) -> None:
        self.told: list[str] = []
        self.held = held

    def wake(self) -> None:
        self.told.append("wake")

    def holds(self, session_id: str) -> bool:
        return session_id in self.held

    async def end(self, session_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(f"end {session_id}")


class Flow:
    """A store and the flows over it."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.clock = TrioWallClock()
        self.ids = CountingIds()
        self.control = Control()

    async def spawn(self, agent_id: str = "reviewer") -> str:
        answer = await spawn(
            SpawnRequest(agent_id=agent_id, prompt="look"),
            agents=AGENTS,
            store=self.store,
            control=self.control,
            clock=self.clock,
            ids=self.ids,
            actor="uid:7",
        )
        assert isinstance(answer, SpawnAnswer)
        return answer.session_id

    async def kill(self, fragment: str) -> KillAnswer | Rejected:
        return await kill(fragment, store=self.store, control=self.control, clock=self.clock, actor="uid:7")

    async def resolve(self, fragment: str) -> str:
        """The id meant, or the refusal's code."""
        found = await self.store.read(lambda tx: resolve(tx, fragment))
        return found.code if isinstance(found, Rejected) else found.session_id

    async def add(self, *names: str) -> None:
        def work(tx: Transaction) -> None:
            for name in names:
                row = NewSession(session_id=name, agent_id="a", agent_label="a", started_at=EPOCH)
                tx.ledger.add(row)

        await self.store.write(work)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Flow]:
    store = SqliteStore(folder / "ambient.db", clock=TrioWallClock(), ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        yield Flow(store)
        await store.close()


async def test_a_session_is_meant_by_its_id_or_by_a_unique_part_at_either_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as flow:
        await flow.add("ses_01AAAA0001", "ses_01AAAA0002", "ses_01BBBB0001", "ses_01")
        assert await flow.resolve("ses_01AAAA0001") == "ses_01AAAA0001"
        assert await flow.resolve("ses_01") == "ses_01"  # the whole id of one goes before parts of others
        assert await flow.resolve("ses_01B") == "ses_01BBBB0001"
        assert await flow.resolve("0002") == "ses_01AAAA0002"
        assert await flow.resolve("0001") == "AMBIGUOUS"
        assert await flow.resolve("ses_01A") == "AMBIGUOUS"
        for fragment in ("", "nope", "\x00", "%", "ses_01%", "_", "\ud800", "x" * 10_000):
            assert await flow.resolve(fragment) == "NOT_FOUND"


async def test_an_ambiguous_part_lists_at_most_ten_of_those_it_fits(tmp_path: Path) -> None:
    async with opened(tmp_path) as flow:
        await flow.add(*(f"ses_{number:03}" for number in range(12)))
        found = await flow.store.read(lambda tx: resolve(tx, "ses_"))
        assert isinstance(found, Rejected)
        assert len(found.details) == 10
        assert "more than 10" in found.message
        few = await flow.store.read(lambda tx: resolve(tx, "ses_00"))
        assert isinstance(few, Rejected)
        assert "fits 10 sessions" in few.message


async def test_a_spawned_session_is_written_before_anybody_is_woken(tmp_path: Path) -> None:
    async with opened(tmp_path) as flow:
        name = await flow.spawn()
        row = await flow.store.read(lambda tx: tx.ledger.get(name))
        assert row is not None
        assert (row.status, row.agent_label, row.source_version) == (
            SessionStatus.QUEUED,
            "Code reviewer",
            "local/1",
        )
        assert flow.control.told == ["wake"]


async def test_killing_tells_the_runner_of_one_that_may_run_and_cancels_one_that_cannot(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as flow:
        first, second = await flow.spawn(), await flow.spawn()
        flow.control.held = (first,)
        await flow.store.write(lambda tx: tx.runs.put(RunRecord(session_id=first, attempt=1)))
        running, queued = await flow.kill(first), await flow.kill(second)
        assert isinstance(running, KillAnswer)
        assert isinstance(queued, KillAnswer)
        assert (running.signal, running.ended) == ("sent", False)
        assert (queued.signal, queued.ended) == ("cancelled", True)
        assert f"end {first}" in flow.control.told
        again = await flow.kill(second)
        assert isinstance(again, Rejected)
        assert again.code == "NOTHING_RUNS"


async def test_the_runner_is_woken_also_when_it_does_not_answer(tmp_path: Path) -> None:
    class Dumb(Control):
        async def end(self, session_id: str) -> None:
            await trio.lowlevel.checkpoint()
            raise StoreError("no answer")

    async with opened(tmp_path) as flow:
        name = await flow.spawn()
        flow.control = Dumb((name,))
        with pytest.raises(StoreError):
            await flow.kill(name)
        assert flow.control.told == ["wake"]


async def test_a_kill_that_names_nobody_or_several_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as flow:
        await flow.spawn()
        await flow.spawn()
        commits = await flow.store.read(lambda tx: [row.status for row in tx.ledger.active()])
        for fragment, code in (("nope", "NOT_FOUND"), ("ses_", "AMBIGUOUS"), ("", "NOT_FOUND")):
            answer = await flow.kill(fragment)
            assert isinstance(answer, Rejected)
            assert answer.code == code
        assert await flow.store.read(lambda tx: [row.status for row in tx.ledger.active()]) == commits
        assert not [told for told in flow.control.told if told.startswith("end")]
