from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ambientd.config.schema import AgentConfig
from ambientd.core.gateway_ledger import RunReport
from ambientd.core.gateway_view.rows import parse_agents
from ambientd.core.gateway_view.view import GatewayView
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import to_ms
from ambientd.flows import control as flow
from ambientd.flows.control import Controls
from ambientd.flows.gateway_control import GatewayControl
from ambientd.flows.gateway_ledger import GatewayLedger
from ambientd.flows.preferred_models import PreferredModels
from ambientd.host.threads import run_inline
from ambientd.ports.gateway import GatewayRefusedError, GatewayUnavailableError
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.enums import SessionStatus
from ambientd.wire.messages import KillAnswer, ModelAnswer, ModelRequest, SpawnAnswer, SpawnRequest
from tests.fakes.clock import CountingIds, TrioWallClock
from tests.fakes.gateway_link import FakeGatewayLink

ADMIN = ("operator.read", "operator.write", "operator.admin")


class NoSessions:
    """A `SessionControl` of a node that runs nothing itself."""

    def wake(self) -> None:
        pass

    def holds(self, session_id: str) -> bool:
        return False

    async def end(self, session_id: str) -> None:
        await trio.lowlevel.checkpoint()


class Rig:
    def __init__(self, store: SqliteStore, clock: TrioWallClock) -> None:
        self.store, self.clock = store, clock
        self.link = FakeGatewayLink()
        self.link.now_ms = lambda: to_ms(clock.now())
        self.link.agents = [{"id": "main"}, {"id": "tony", "name": "Tony"}]
        self.link.models = [
            {"id": "mock-fast", "provider": "mock"},
            {"id": "mock-slow", "provider": "mock"},
            {"id": "big", "provider": "other"},
        ]
        self.link.up()
        self.view = GatewayView()
        self.view.set_agents(parse_agents({"agents": self.link.agents}) or [])
        self.agents = {
            "local": AgentConfig(id="local", command=("agent",), model="m/1", models=("m/1", "m/2"))
        }
        self.models = PreferredModels()
        self.allowed: tuple[str, ...] = ()
        self.may_set_agents = False
        self._keys = 0
        ledger = GatewayLedger(
            link=self.link,
            view=self.view,
            store=store,
            clock=clock,
            prices=lambda: None,
            changed=lambda _: None,
            ended=lambda _: None,
        )
        self.ledger = ledger
        self.gateway = GatewayControl(
            link=self.link,
            view=self.view,
            ledger=ledger,
            store=store,
            clock=clock,
            models=self.models,
            allowed_models=lambda: self.allowed,
            may_set_agents=lambda: self.may_set_agents,
            new_key=self._new_key,
            pause=trio.sleep,
        )
        self.controls = self.make()

    def make(self, *, gateway: bool = True) -> Controls:
        return Controls(
            store=self.store,
            sessions=NoSessions(),
            agents=lambda: self.models.apply(self.agents),
            clock=self.clock,
            ids=CountingIds(),
            models=self.models,
            gateway=self.gateway if gateway else None,
        )

    def _new_key(self) -> str:
        self._keys += 1
        return f"key-{self._keys}"

    def runs(self, session_id: str, run_id: str = "r1", **facts: Any) -> None:
        """A session runs at the gateway, and the view has heard of it."""
        self.put(session_id, status="running", hasActiveRun=True, activeRunIds=[run_id], **facts)

    def put(self, session_id: str, **facts: Any) -> None:
        raw = self.link.put(tell=False, sessionId=session_id, **facts)
        self.view.hear(
            "sessions.changed", raw | {"sessionKey": raw["key"], "reason": "x"}, self.link.now_ms()
        )

    async def record(self, session_id: str, run_id: str, status: str = "running") -> None:
        """The ledger knows a run of the gateway."""
        report = RunReport(
            gateway_session_id=session_id,
            agent_id="tony",
            status=SessionStatus(status),
            run_id=run_id,
            started_ms=self.link.now_ms(),
            ended_ms=None if status == "running" else self.link.now_ms(),
        )
        await self.ledger.note_run(report)

    async def kill(self, fragment: str) -> KillAnswer | Rejected:
        return await flow.kill(fragment, self.controls, actor="uid:7")

    async def spawn(
        self, agent: str = "tony", prompt: str = "say hello", **more: Any
    ) -> SpawnAnswer | Rejected:
        request = SpawnRequest(agent_id=agent, prompt=prompt, **more)
        return await flow.spawn(request, self.controls, actor="uid:7")

    async def model(self, agent: str, model: str) -> ModelAnswer | Rejected:
        return await flow.set_model(ModelRequest(agent, model), self.controls, actor="uid:7")

    async def audit(self) -> list[tuple[str, str, dict[str, Any]]]:
        return await self.store.read(_audit)

    def status_of(self, session_id: str) -> str:
        rows = [row for row in self.link.rows.values() if row["sessionId"] == session_id]
        return str(rows[0].get("status"))


def _audit(tx: Any) -> list[tuple[str, str, dict[str, Any]]]:
    import json

    rows = tx.audit._connection.execute("SELECT kind, subject, detail_json FROM audit_records ORDER BY seq")
    return [(kind, subject, json.loads(detail)) for kind, subject, detail in rows]


@asynccontextmanager
async def rigged(folder: Path) -> AsyncIterator[Rig]:
    clock = TrioWallClock()
    store = SqliteStore(folder / "ambient.db", clock=clock, ballast=0, run_sync=run_inline)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: store.run(task_status=task_status))
        await store.wait_settled()
        yield Rig(store, clock)
        await store.close()


def code(answer: object) -> str:
    assert isinstance(answer, Rejected), answer
    return answer.code


def refuse(error: str, message: str, **more: Any) -> Any:
    """An answer that refuses."""

    def answer(_: object) -> Any:
        raise GatewayRefusedError(error, message, **more)

    return answer


# --- kill


async def test_kill_ends_exactly_the_session_that_is_named(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("aaaa-1111", "r1")
        rig.runs("aaaa-2222", "r2")
        answer = await rig.kill("aaaa-1111")
        assert isinstance(answer, KillAnswer)
        assert (answer.ok, answer.session_id, answer.signal, answer.ended) == (
            True,
            "aaaa-1111",
            "sent",
            False,
        )
        assert (rig.status_of("aaaa-1111"), rig.status_of("aaaa-2222")) == ("killed", "running")
        assert [name for name, _ in rig.link.calls] == [
            "sessions.resolve",
            "sessions.describe",
            "sessions.abort",
        ]
        assert rig.link.calls[-1][1] == {"key": "agent:tony:dashboard:aaaa-1111"}
        assert [(kind, subject) for kind, subject, _ in await rig.audit()] == [
            ("control.kill", "aaaa-1111"),
            ("control.kill.result", "aaaa-1111"),
        ]
        assert rig.view.kills.has_run("r1")
        assert not rig.view.kills.has_run("r2")


async def test_a_part_of_an_id_is_enough_when_it_fits_one_session(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("aaaa-1111")
        rig.runs("aaaa-2222", "r2")
        assert code(await rig.kill("aaaa")) == "AMBIGUOUS"
        assert rig.link.calls == []
        answer = await rig.kill("2222")
        assert isinstance(answer, KillAnswer)
        assert answer.session_id == "aaaa-2222"


async def test_unknown_and_nothing_to_kill_are_told_apart(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        assert code(await rig.kill("nobody")) == "NOT_FOUND"
        assert code(await rig.kill(" ")) == "VALIDATION_ERROR"
        rig.put("s1", hasActiveRun=False)
        assert code(await rig.kill("s1")) == "NOTHING_RUNS"
        await rig.record("s2", "r2", "success")
        before = len(rig.link.calls)
        assert code(await rig.kill("s2")) == "NOTHING_RUNS"
        assert len(rig.link.calls) == before, "what has ended is not asked about"


async def test_a_second_kill_is_harmless(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("s1")
        assert isinstance(await rig.kill("s1"), KillAnswer)
        assert code(await rig.kill("s1")) == "NOTHING_RUNS"
        await rig.ledger.take_rows()
        assert code(await rig.kill("s1")) == "NOTHING_RUNS"


async def test_the_session_that_took_the_place_of_the_named_one_is_not_hit(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.record("old", "r1")
        rig.runs("new", "r2", key="agent:tony:main")
        rig.link.answers["sessions.resolve"] = lambda _: {"ok": True, "key": "agent:tony:main"}
        assert code(await rig.kill("old")) == "NOTHING_RUNS"
        assert rig.status_of("new") == "running"
        assert "sessions.abort" not in rig.link.count()


async def test_kill_takes_the_ledgers_id_of_a_later_run_and_the_gateways_of_whatever_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.record("s1", "r1", "success")
        await trio.sleep(1)
        rig.runs("s1", "r2")
        await rig.ledger.take_rows()
        assert code(await rig.kill("s1~r1")) == "NOT_FOUND"
        answer = await rig.kill("s1")
        assert isinstance(answer, KillAnswer)
        assert answer.session_id == "s1~r2", "its row is where the end will be seen"
        await trio.sleep(1)
        rig.runs("s1", "r3")
        assert code(await rig.kill("s1~r2")) == "NOTHING_RUNS", "also while the ledger does not know it"
        await rig.ledger.take_rows()
        assert rig.status_of("s1") == "running"
        assert isinstance(await rig.kill("s1~r3"), KillAnswer)


async def test_a_run_that_the_ledger_has_not_heard_of_gets_its_row_first(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("s1")
        await rig.kill("s1")
        row = await rig.store.read(lambda tx: tx.ledger.get("s1"))
        assert row is not None
        assert row.status is SessionStatus.RUNNING


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refuse("FORBIDDEN", "missing scope: operator.write", detail="MISSING_SCOPE"), "GATEWAY_REFUSED"),
        (refuse("UNAVAILABLE", "gateway-restarting", retryable=True), "GATEWAY_UNAVAILABLE"),
        (lambda _: {"ok": True, "abortedRunId": None, "status": "no-active-run"}, "NOTHING_RUNS"),
    ],
)
async def test_a_kill_that_was_not_carried_out_says_why_and_calls_nothing_killed(
    answer: Any, expected: str, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("s1")
        rig.link.answers["sessions.abort"] = answer
        assert code(await rig.kill("s1")) == expected
        kinds = [(kind, detail.get("code")) for kind, _, detail in await rig.audit()]
        assert kinds == [("control.kill", None), ("control.kill.result", expected)]
        assert rig.view.kills.has_run("r1") == (expected == "GATEWAY_UNAVAILABLE")


async def test_while_the_gateway_is_away_nothing_is_said_to_be_killed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("s1")
        rig.link.down("connection refused")
        refused = await rig.kill("s1")
        assert code(refused) == "GATEWAY_UNAVAILABLE"
        assert isinstance(refused, Rejected)
        assert "connection refused" in refused.message
        assert code(await rig.kill("unheard-of")) == "GATEWAY_UNAVAILABLE"
        assert await rig.audit() == []


# --- spawn


async def test_spawn_gives_the_gateways_own_id_and_the_ledger_has_it_at_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        answer = await rig.spawn(title="Greeting", category="smalltalk")
        assert isinstance(answer, SpawnAnswer)
        assert answer.session_id == next(iter(rig.link.rows.values()))["sessionId"]
        assert answer.status is SessionStatus.RUNNING
        row = await rig.store.read(lambda tx: tx.ledger.get(answer.session_id))
        assert row is not None
        assert (row.status.value, row.task_text, row.task_title, row.task_category, row.run_id) == (
            "running",
            "say hello",
            "Greeting",
            "smalltalk",
            "run-1",
        )
        assert rig.link.calls[-1] == (
            "sessions.create",
            {"agentId": "tony", "message": "say hello", "idempotencyKey": "key-1"},
        )
        audit = await rig.audit()
        assert [kind for kind, _, _ in audit] == ["control.spawn", "control.spawn.result"]
        assert "say hello" not in str(audit)


@pytest.mark.parametrize(
    "message",
    [
        "invalid sessions.create params: at root: unexpected property 'idempotencyKey'",
        "idempotent session creation requires an authenticated principal or device identity",
    ],
)
async def test_an_older_gateway_is_asked_in_two_steps(
    message: str, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        create = rig.link._sessions_create

        def older(params: Any) -> Any:
            if "idempotencyKey" in params:
                raise GatewayRefusedError("INVALID_REQUEST", message)
            return create(dict(params))

        rig.link.answers["sessions.create"] = older
        answer = await rig.spawn(model="mock-slow")
        assert isinstance(answer, SpawnAnswer)
        key = "agent:tony:dashboard:" + answer.session_id
        assert rig.link.calls[-2:] == [
            ("sessions.create", {"agentId": "tony", "model": "mock/mock-slow"}),
            ("chat.send", {"sessionKey": key, "message": "say hello", "idempotencyKey": "key-1"}),
        ]
        row = await rig.store.read(lambda tx: tx.ledger.get(answer.session_id))
        assert row is not None
        assert row.run_id == "key-1"


async def test_a_start_without_an_answer_is_tried_again_under_the_same_key(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        create, tries = rig.link._sessions_create, []

        def slow(params: Any) -> Any:
            tries.append(params["idempotencyKey"])
            if len(tries) == 1:
                raise GatewayUnavailableError("no answer in 10 s", sent=True)
            return create(dict(params))

        rig.link.answers["sessions.create"] = slow
        assert isinstance(await rig.spawn(), SpawnAnswer)
        assert tries == ["key-1", "key-1"]


@pytest.mark.parametrize(
    ("agent", "prompt", "model", "expected", "field"),
    [
        ("nobody", "hi", None, "NOT_FOUND", "agentId"),
        ("", "hi", None, "VALIDATION_ERROR", "agentId"),
        ("tony", " ", None, "VALIDATION_ERROR", "prompt"),
        ("tony", "hi", "mock/none", "VALIDATION_ERROR", "model"),
        ("tony", "hi", "nope/x", "VALIDATION_ERROR", "model"),
        ("tony", "hi", "two\nlines", "VALIDATION_ERROR", "model"),
    ],
)
async def test_a_spawn_that_cannot_be_is_refused_before_the_gateway_is_asked_to_start(
    agent: str,
    prompt: str,
    model: str | None,
    expected: str,
    field: str,
    autojump_clock: MockClock,
    tmp_path: Path,
) -> None:
    async with rigged(tmp_path) as rig:
        answer = await rig.spawn(agent, prompt, model=model)
        assert code(answer) == expected
        assert isinstance(answer, Rejected)
        assert [detail.field for detail in answer.details] == [field]
        assert "sessions.create" not in rig.link.count()


async def test_while_the_gateways_agents_are_not_listed_yet_none_is_called_unknown(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.view.set_agents([])
        assert code(await rig.spawn("tony", "hi")) == "GATEWAY_UNAVAILABLE"


async def test_a_gateway_that_does_not_start_what_it_made_is_an_error(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.link.answers["sessions.create"] = lambda _: {
            "ok": True,
            "sessionId": "s9",
            "key": "k",
            "runStarted": False,
            "runError": "no such model",
        }
        answer = await rig.spawn()
        assert code(answer) == "GATEWAY_REFUSED"
        assert isinstance(answer, Rejected)
        assert "no such model" in answer.message
        rig.link.down()
        assert code(await rig.spawn()) == "GATEWAY_UNAVAILABLE"


async def test_agents_of_one_id_on_both_sides_have_to_be_told_apart(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.agents["tony"] = AgentConfig(id="tony", command=("agent",))
        answer = await rig.spawn("tony")
        assert code(answer) == "AMBIGUOUS"
        assert isinstance(answer, Rejected)
        assert [detail.field for detail in answer.details] == ["local:tony", "gateway:tony"]
        local, theirs = await rig.spawn("local:tony"), await rig.spawn("gateway:tony")
        assert isinstance(local, SpawnAnswer)
        assert isinstance(theirs, SpawnAnswer)
        assert local.session_id.startswith("ses_")
        assert theirs.session_id == next(iter(rig.link.rows.values()))["sessionId"]


# --- model


async def test_a_model_is_kept_used_by_spawns_and_brought_to_active_and_main_sessions(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.put("m1", key="agent:tony:main", status="done", hasActiveRun=False)
        rig.runs("s1")
        rig.put("s2", status="done", hasActiveRun=False)
        answer = await rig.model("tony", "mock-slow")
        assert isinstance(answer, ModelAnswer)
        assert (answer.model, answer.applied, answer.sessions) == (
            "mock/mock-slow",
            ["spawns", "sessions"],
            2,
        )
        models = {row["sessionId"]: row.get("model") for row in rig.link.rows.values()}
        assert models == {"m1": "mock-slow", "s1": "mock-slow", "s2": None}
        assert all(params["expectedSessionId"] for name, params in rig.link.calls if name == "sessions.patch")
        await rig.spawn()
        assert rig.link.calls[-1][1]["model"] == "mock/mock-slow"
        again = PreferredModels()
        await again.load(rig.store)
        assert again.get("gateway", "tony") == "mock/mock-slow", "over a restart"


async def test_with_the_admin_scope_and_the_operators_leave_the_agent_itself_is_changed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        updated: list[Any] = []

        def update(params: Any) -> Any:
            updated.append(params)
            return {"ok": True}

        rig.link.answers["agents.update"] = update
        rig.may_set_agents = True
        await rig.model("tony", "mock/mock-slow")
        assert updated == [], "without the scope it is not tried"
        rig.link.up(scopes=ADMIN)
        answer = await rig.model("tony", "mock/mock-slow")
        assert isinstance(answer, ModelAnswer)
        assert answer.applied == ["spawns", "agent"]
        assert updated == [{"agentId": "tony", "model": "mock/mock-slow"}]
        assert [entry.model for entry in rig.view.agents if entry.id == "tony"] == ["mock/mock-slow"]


async def test_an_older_gateway_that_lets_only_admins_patch_keeps_the_preference_with_us(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("s1")
        rig.link.answers["sessions.patch"] = refuse("INVALID_REQUEST", "missing scope: operator.admin")
        answer = await rig.model("tony", "mock/mock-slow")
        assert isinstance(answer, ModelAnswer)
        assert (answer.applied, answer.sessions) == (["spawns"], 0)


@pytest.mark.parametrize(
    ("agent", "model", "expected"),
    [
        ("tony", "mock/none", "VALIDATION_ERROR"),
        ("tony", "big", "VALIDATION_ERROR"),
        ("tony", "", "VALIDATION_ERROR"),
        ("nobody", "mock/mock-fast", "NOT_FOUND"),
        ("local", "m/3", "VALIDATION_ERROR"),
    ],
)
async def test_models_are_those_of_the_gateways_list_that_the_operator_allows(
    agent: str, model: str, expected: str, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.allowed = ("mock/mock-fast", "mock-slow")
        assert code(await rig.model(agent, model)) == expected
        assert rig.models.get("gateway", "tony") is None
        assert isinstance(await rig.model("tony", "mock/mock-slow"), ModelAnswer)


async def test_a_list_of_models_that_is_not_ready_is_waited_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        asked: list[float] = []

        def later(_: object) -> Any:
            asked.append(trio.current_time())
            if len(asked) < 3:
                raise GatewayRefusedError("UNAVAILABLE", "Model catalog is not ready", retryable=True)
            return {"models": rig.link.models}

        rig.link.answers["models.list"] = later
        assert isinstance(await rig.model("tony", "mock/mock-fast"), ModelAnswer)
        assert len(asked) == 3


async def test_a_local_agents_model_is_used_by_its_later_sessions(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        answer = await rig.model("local", "m/2")
        assert isinstance(answer, ModelAnswer)
        assert (answer.agent_id, answer.applied) == ("local", ["spawns"])
        started = await rig.spawn("local")
        assert isinstance(started, SpawnAnswer)
        row = await rig.store.read(lambda tx: tx.ledger.get(started.session_id))
        assert row is not None
        assert row.model_id == "m/2"
        rig.agents = {"local": AgentConfig(id="local", command=("agent",), model="m/1", models=("m/1",))}
        assert rig.controls.agents()["local"].model == "m/1", "what left the allow-list counts no more"


async def test_without_a_gateway_local_agents_are_as_before(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.record("s1", "r1")
        rig.controls = rig.make(gateway=False)
        assert code(await rig.kill("s1")) == "GATEWAY_UNAVAILABLE"
        assert code(await rig.kill("nobody")) == "NOT_FOUND"
        assert code(await rig.spawn("tony")) == "NOT_FOUND"
        assert isinstance(await rig.spawn("local"), SpawnAnswer)
