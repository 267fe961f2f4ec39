import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.gateway_ledger import parse_audit
from ambientd.core.gateway_view.kills import KILLS_MAX, KillLog
from ambientd.core.gateway_view.rows import (
    AGENTS_MAX,
    SessionRow,
    parse_agents,
    parse_health,
    parse_page,
    parse_row,
)
from ambientd.core.gateway_view.status import SETTLING_MS, WINDOW_MS, judge, judge_agent
from ambientd.core.gateway_view.sweep import OVERLAP_MS, PAGE_ROWS, Sweep
from ambientd.core.gateway_view.view import ENDED_PER_AGENT, SESSIONS_MAX, GatewayView
from ambientd.wire.enums import AgentStatus
from tests.gatewaykit import play, words

NOW = 1_795_194_794_000
MINUTE = 60_000


def row(session_id: str = "s1", **facts: Any) -> SessionRow:
    """A row as the gateway would send it, parsed."""
    raw = {"key": f"agent:tony:dashboard:{session_id}", "sessionId": session_id, "updatedAt": NOW} | facts
    found = parse_row(raw)
    assert found is not None
    return found


def status(now: int = NOW, kills: KillLog | None = None, **facts: Any) -> str:
    return judge(row(**facts), now, kills or KillLog()).status.value


def of_agent(*rows: SessionRow, now: int = NOW, kills: KillLog | None = None) -> tuple[str, str]:
    verdict = judge_agent(rows, now, kills or KillLog())
    return verdict.status.value, verdict.reason


# --- what real gateways said

PROVIDER = "LLM request failed: provider rejected the request schema or tool payload."


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        ("ok", [("running", "active session"), ("done", "last session succeeded")]),
        (
            "tool",
            [
                ("running", "active session"),
                ("done", "last session succeeded"),
                ("idle", "last run killed"),
            ],
        ),
        ("killed-in-stream", [("running", "active session"), ("idle", "last run killed")]),
        ("hang-killed", [("running", "active session"), ("idle", "last run killed")]),
        ("tool-killed", [("running", "active session"), ("idle", "last run killed")]),
        ("http-400", [("running", "active session"), ("failed", PROVIDER)]),
        (
            "kills",
            [
                ("idle", "no recent session"),
                ("idle", "last run killed"),
                ("running", "active session"),
                ("idle", "last run killed"),
                ("running", "active session"),
                ("idle", "last run killed"),
            ],
        ),
        (
            "subagent",
            [
                ("running", "active session"),
                ("running", "2 active sessions"),
                ("running", "active session"),
                ("idle", "last run killed"),
            ],
        ),
    ],
)
def test_a_recorded_run_is_told_as_it_went(recording: str, expected: list[tuple[str, str]]) -> None:
    assert words(recording) == expected


@pytest.mark.parametrize("recording", ["http-500", "stream-cut", "http-401", "timeout"])
def test_a_recorded_failure_says_why(recording: str) -> None:
    said = words(recording)
    assert [word for word, _ in said] == ["running", "failed"]
    assert said[-1][1] not in ("", "failed", "timeout")


def test_an_older_gateway_is_told_apart_without_the_newer_fields() -> None:
    assert words("old", own_kills=True) == [
        ("running", "active session"),
        ("done", "last session succeeded"),
        ("running", "active session"),
        ("running", "settling"),
        ("failed", PROVIDER),
    ]


def test_a_run_that_we_killed_is_never_called_failed_on_an_older_gateway() -> None:
    view, session = GatewayView(), "fa0afcb6-8ed0-455d-aae0-f0486fc792a3"
    said = set()
    for now in play(view, "old", own_kills=True):
        for found in view.find(session):
            said.add(judge(found, now, view.kills).status.value)
    assert said == {"running", "idle"}
    plain = GatewayView()
    now = list(play(plain, "old"))[-1]
    assert judge(plain.find(session)[0], now, plain.kills).status is AgentStatus.FAILED


def test_the_agent_of_an_older_gateways_row_is_in_its_key() -> None:
    view = GatewayView()
    for _ in play(view, "old"):
        pass
    assert view.agent_ids == ["tony"]


def test_a_resumed_session_has_its_new_run() -> None:
    view = GatewayView()
    before = view.verdict("tony", list(play(view, "before-kill9"))[-1]).active[0]
    after = view.verdict("tony", list(play(view, "after-kill9"))[-1]).active[0]
    assert before.session_id == after.session_id
    assert (before.run_id or "", after.run_id or "") != ("", "")
    assert before.run_id != after.run_id


def test_the_model_of_a_running_session_is_the_one_in_use() -> None:
    assert row(
        model="mock-slow", modelProvider="mock", activeModel="mock-fast", activeModelProvider="mock"
    ).model == ("mock/mock-fast")
    assert row(model="mock/mock-slow", modelProvider="mock").model == "mock/mock-slow"
    assert row().model is None


# --- the words


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"status": "failed", "hasActiveRun": False}, "failed"),
        ({"status": "timeout", "hasActiveRun": False}, "failed"),
        ({"status": "error"}, "failed"),
        ({"status": "crashed"}, "failed"),
        ({"lastRunError": "it broke", "hasActiveRun": False}, "failed"),
        ({"lastRunError": {"message": "it broke"}, "status": "done", "hasActiveRun": False}, "failed"),
        ({"error": {"code": "E1"}}, "failed"),
        ({"lastRunError": "", "status": "done"}, "done"),
        ({"lastRunError": {}, "status": "done"}, "done"),
        ({"lastRunError": "an earlier one", "hasActiveRun": True}, "running"),
        ({"hasActiveRun": True}, "running"),
        ({"hasActiveRun": True, "status": "running"}, "running"),
        ({"hasActiveRun": True, "status": "killed"}, "running"),
        ({"hasActiveRun": False, "hasActiveSubagentRun": True, "status": "done"}, "running"),
        ({"status": "running"}, "running"),
        ({"status": "queued"}, "running"),
        ({"status": "in_progress"}, "running"),
        ({"status": "executing"}, "running"),
        ({"status": "Running"}, "running"),
        ({"status": "done", "hasActiveRun": False}, "done"),
        ({"status": "done"}, "done"),
        ({"status": "killed", "hasActiveRun": False, "abortedLastRun": True}, "idle"),
        ({"status": "killed", "lastRunError": "aborted | x", "hasActiveRun": False}, "idle"),
        ({"hasActiveRun": False}, "idle"),
        ({}, "idle"),
        # exact words, not parts of words
        ({"status": "inactive"}, "idle"),
        ({"status": "unfinished"}, "idle"),
        ({"status": "not_running"}, "idle"),
        ({"status": "undone"}, "idle"),
        ({"status": "failed_over"}, "idle"),
        ({"status": 7, "hasActiveRun": "yes"}, "idle"),
    ],
)
def test_what_a_row_means(facts: dict[str, Any], expected: str) -> None:
    assert status(**facts) == expected


def test_a_running_row_without_a_run_settles_for_a_minute_and_is_stale_then() -> None:
    facts: dict[str, Any] = {"status": "running", "hasActiveRun": False}
    assert status(NOW + SETTLING_MS, **facts) == "running"
    found = judge(row(**facts), NOW + SETTLING_MS + 1, KillLog())
    assert (found.status.value, found.reason) == ("idle", "stale running row")
    assert of_agent(row(**facts), now=NOW + SETTLING_MS + 1) == ("idle", "stale running row")


SESSIONS = {
    "failed": row(
        "f", status="failed", hasActiveRun=False, lastRunError="it broke", updatedAt=NOW - 5 * MINUTE
    ),
    "running": row("r", status="running", hasActiveRun=True, updatedAt=NOW - 2 * MINUTE),
    "done": row("d", status="done", hasActiveRun=False, updatedAt=NOW - MINUTE),
    "idle": row("i", hasActiveRun=False),
}


@pytest.mark.parametrize("pair", list(itertools.permutations(SESSIONS, 2)))
def test_failed_goes_before_running_before_done_before_idle(pair: tuple[str, str]) -> None:
    first = min(pair, key=list(SESSIONS).index)
    assert of_agent(*(SESSIONS[name] for name in pair))[0] == first


def test_an_old_failure_does_not_stick_and_a_newer_run_of_the_session_ends_it() -> None:
    failed = row(status="failed", hasActiveRun=False, lastRunError="it broke")
    assert of_agent(failed, now=NOW + WINDOW_MS) == ("failed", "it broke")
    assert of_agent(failed, now=NOW + WINDOW_MS + 1) == ("idle", "no recent session")
    again = row(status="running", hasActiveRun=True, updatedAt=NOW + 1)
    assert of_agent(again)[0] == "running"


def test_done_is_only_said_of_the_newest_end() -> None:
    done = row("a", status="done", hasActiveRun=False, updatedAt=NOW - MINUTE)
    killed = row("b", status="killed", hasActiveRun=False)
    assert of_agent(done, killed) == ("idle", "last run killed")
    assert of_agent(killed, row("c", status="done", updatedAt=NOW + 1)) == ("done", "last session succeeded")


@given(st.permutations([(NOW - 7, None), (NOW - 9, NOW - 3), (NOW - 8, None)]))
def test_the_last_activity_is_the_newest_over_all_sessions(order: list[tuple[int, int | None]]) -> None:
    rows = [
        row(f"s{at}", updatedAt=at, lastInteractionAt=touched, hasActiveRun=False) for at, touched in order
    ]
    assert judge_agent(rows, NOW, KillLog()).activity_ms == NOW - 3
    assert judge_agent([], NOW, KillLog()).activity_ms is None


ODD: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    -2.5,
    "",
    "x",
    "\ud800",
]
ODD += [
    "running",
    "failed",
    [],
    [None],
    ["r"],
    {},
    {"a": 1},
    {"message": ""},
    {"phase": "error", "error": {}},
]
ODD += [[{"id": "a", "key": "k", "sessionId": "s"}], [{"id": 3}], {"degraded": True}, NOW, "message", "start"]
NAMES = (
    "key",
    "sessionKey",
    "sessionId",
    "agentId",
    "status",
    "hasActiveRun",
    "activeRunIds",
    "lastRunId",
    "lastRunError",
    "updatedAt",
    "startedAt",
    "endedAt",
    "lastInteractionAt",
    "inputTokens",
    "totalTokensFresh",
    "estimatedCostUsd",
    "model",
    "modelProvider",
    "label",
    "phase",
    "runId",
    "reason",
    "ts",
    "agents",
    "sessions",
    "hasMore",
    "nextOffset",
    "id",
    "name",
    "ok",
    "eventLoop",
    "state",
    "stream",
    "data",
    "phase",
    "reason",
)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ODD), max_size=12),
    st.sampled_from(["sessions.changed", "agent", "chat", "health", "heartbeat", "tick"]),
)
def test_nothing_that_a_gateway_says_breaks_the_view(raw: dict[str, Any], name: str) -> None:
    view = GatewayView()
    for put in (parse_page, parse_agents, parse_health, parse_row):
        put(raw)
    named = raw | {"key": "agent:a:x", "sessionKey": "agent:a:x", "sessionId": "s"}
    for payload in (named, named | {"status": "running", "updatedAt": NOW}, named, raw):
        view.hear(name, payload, NOW)
    assert view.verdict("a", NOW).status in AgentStatus


# --- kills


def test_a_kill_says_nothing_about_another_run_of_the_session() -> None:
    kills = KillLog()
    kills.add("s1", "run-1", NOW)
    failed: dict[str, Any] = {"status": "failed", "hasActiveRun": False, "endedAt": NOW + 100}
    assert status(kills=kills, lastRunId="run-1", **failed) == "idle"
    assert status(kills=kills, lastRunId="run-2", **failed) == "failed"
    assert status(kills=kills, **failed) == "idle"
    assert status(kills=kills, startedAt=NOW + 50, **failed) == "failed"
    assert judge(row("s2", **failed), NOW, kills).status is AgentStatus.FAILED


def test_the_log_of_kills_is_bounded() -> None:
    kills = KillLog()
    for number in range(KILLS_MAX + 10):
        kills.add(f"s{number}", f"r{number}", NOW)
    assert not kills.has_run("r9")
    assert kills.has_run("r10")


# --- the view


def test_what_is_older_than_what_is_known_says_nothing_until_it_cannot_be_a_lag() -> None:
    view = GatewayView()
    view.put(row(status="done", hasActiveRun=False), NOW, listed=False)
    late = row(status="running", hasActiveRun=True, updatedAt=NOW - 10)
    assert not view.put(late, NOW + 1_000, listed=True)
    assert view.put(late, NOW + 40_000, listed=True)


def test_a_change_may_carry_its_row_inside_alone() -> None:
    view = GatewayView()
    inner = {"key": "agent:tony:x", "sessionId": "s1", "status": "running", "hasActiveRun": True}
    told = {"sessionKey": "agent:tony:x", "reason": "send", "ts": NOW, "session": inner | {"updatedAt": NOW}}
    heard = view.hear("sessions.changed", told, NOW)
    assert (heard.changed, heard.again) == (True, False)
    assert view.verdict("tony", NOW).status is AgentStatus.RUNNING


def test_a_change_without_a_key_asks_for_a_list() -> None:
    view = GatewayView()
    assert view.hear("sessions.changed", {"reason": "cron-bindings-loaded", "ts": NOW}, NOW).again
    assert not view.hear("tick", {"ts": NOW}, NOW).again


def test_only_what_speaks_for_an_agent_is_kept() -> None:
    view = GatewayView()
    for number in range(3_000):
        old = row(f"old{number}", status="done", hasActiveRun=False, updatedAt=NOW - WINDOW_MS - 1 - number)
        view.put_listed(old, NOW)
    assert len(view) == 1
    for number in range(300):
        view.put_listed(row(f"new{number}", status="done", hasActiveRun=False, updatedAt=NOW - number), NOW)
    view.put_listed(row("bad", status="failed", hasActiveRun=False, updatedAt=NOW - 9 * MINUTE), NOW)
    view.put_listed(row("busy", hasActiveRun=True, updatedAt=NOW - WINDOW_MS * 4), NOW)
    view.take_dirty(5_000)
    view.prune("tony", NOW)
    assert len(view) == ENDED_PER_AGENT + 2
    assert view.verdict("tony", NOW).status is AgentStatus.FAILED


def test_ended_sessions_are_kept_for_the_ledger_when_it_asks_for_them() -> None:
    view = GatewayView()
    view.backlog_since_ms = NOW - 2 * WINDOW_MS
    view.put_listed(row("newest", status="done", hasActiveRun=False), NOW)
    for name, at in (("missed", NOW - WINDOW_MS - 10), ("known", NOW - 3 * WINDOW_MS)):
        view.put_listed(row(name, status="done", hasActiveRun=False, updatedAt=at), NOW)
    assert [found.session_id for found in view.take_dirty(10)] == ["missed", "newest"]


def test_agents_are_those_of_the_gateway_whatever_they_are_called() -> None:
    names = ["main", "ümlaut", "a b", "<img onerror=x>", "🙂"] + [f"agent{n}" for n in range(35)]
    found = parse_agents({"agents": [{"id": name} for name in names] + [{"name": "no id"}, 7]})
    assert found is not None
    view = GatewayView()
    view.set_agents(found)
    assert [entry.id for entry in view.agents] == names
    view.set_agents([])
    assert view.agents == []


# --- passes over the list


def pages(sweep: Sweep, rows: list[SessionRow], *, offset: bool = True) -> list[dict[str, Any]]:
    """Runs a pass against a gateway with these rows; the requests it made."""
    asked: list[dict[str, Any]] = []
    while (request := sweep.request()) is not None:
        asked.append(request)
        if "offset" in request and not offset:
            sweep.refuse_offset()
            continue
        mine = [found for found in rows if request.get("agentId") in (None, found.agent_id)]
        first = request.get("offset", 0)
        raw = [{"key": item.key, "sessionId": item.session_id, "updatedAt": item.updated_ms} for item in mine]
        more = first + PAGE_ROWS < len(raw)
        answer: dict[str, Any] = {"sessions": raw[first : first + PAGE_ROWS], "hasMore": more, "ts": NOW}
        if offset:
            answer["nextOffset"] = first + PAGE_ROWS if more else None
        page = parse_page(answer)
        assert page is not None
        sweep.take(page)
    return asked


ROWS = [row(f"s{n}", updatedAt=NOW - n * 1_000) for n in range(950)]


def test_a_whole_pass_reads_every_page_and_knows_that_it_did() -> None:
    sweep = Sweep(since_ms=None, agents=["tony"])
    assert len(pages(sweep, ROWS)) == 10
    assert len(sweep.seen) == 950
    assert sweep.is_complete


def test_a_pass_for_news_ends_behind_the_pass_before() -> None:
    sweep = Sweep(since_ms=NOW, agents=["tony"])
    assert len(pages(sweep, ROWS)) == 1 + OVERLAP_MS // 1_000 // PAGE_ROWS
    assert not sweep.is_complete


def test_without_offsets_every_agent_is_asked_for_its_newest() -> None:
    sweep = Sweep(since_ms=None, agents=["main", "tony"])
    asked = pages(sweep, ROWS, offset=False)
    assert asked == [
        {"limit": 100},
        {"limit": 100, "agentId": "main"},
        {"limit": 100, "agentId": "tony"},
    ]
    assert not sweep.is_complete


def test_figures_that_no_ledger_could_add_up_are_not_known() -> None:
    found = row(
        totalTokensFresh=True, inputTokens=10**12 + 1, outputTokens=10**12, estimatedCostUsd=10**6 + 1
    )
    assert (found.input_tokens, found.output_tokens, found.cost_usd) == (None, 10**12, None)


def test_no_time_is_the_year_1970() -> None:
    found = row(startedAt=0, endedAt=0, lastInteractionAt=0, createdAt=0)
    assert (found.started_ms, found.ended_ms, found.interaction_ms, found.created_ms) == (None,) * 4


def test_a_gateway_that_invents_sessions_does_not_fill_the_memory() -> None:
    view = GatewayView()
    for number in range(SESSIONS_MAX + 500):
        view.put(row(f"s{number}", agentId=f"a{number}", hasActiveRun=True), NOW, listed=False)
    assert (len(view), len(view.agents)) == (SESSIONS_MAX, SESSIONS_MAX)
    assert view.by_id("s499") is None
    assert view.by_id("s500") is not None


def test_only_so_many_agents_are_shown() -> None:
    agents = parse_agents({"agents": [{"id": f"a{number}"} for number in range(AGENTS_MAX + 1)]})
    assert agents is not None
    assert len(agents) == AGENTS_MAX


def test_a_session_is_found_by_its_whole_id_wherever_it_moved() -> None:
    view = GatewayView()
    view.put(row("s1", key="agent:tony:a", updatedAt=NOW - 10), NOW, listed=False)
    view.put(row("s1", key="agent:tony:b"), NOW, listed=False)
    found = view.by_id("s1")
    assert found is not None
    assert found.key == "agent:tony:b"
    view.put(row("s2", key="agent:tony:b", updatedAt=NOW + 1), NOW, listed=False)
    found = view.by_id("s1")
    assert found is not None
    assert found.key == "agent:tony:a"
    view.forget("agent:tony:a")
    assert view.by_id("s1") is None
    assert view.by_id("s") is None


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"message": found}
    return found


def test_an_error_as_deep_as_a_decoder_allows_is_an_error_all_the_same() -> None:
    assert row(status="failed", lastRunError=nested(980)).error == "unknown error"
    assert row(lastRunError={"error": {"message": "no such model"}}).error == "no such model"


def test_an_audit_entry_with_a_deep_status_is_no_report() -> None:
    status: list[Any] = []
    for _ in range(2_000):
        status = [status]
    said = {"action": "agent.run.finished", "sessionId": "s", "agentId": "a", "runId": "r", "occurredAt": NOW}
    page = parse_audit({"events": [said | {"sequence": 1, "kind": "agent_run", "status": status}]})
    assert page is not None
    assert [event.report for event in page.events] == [None]


def test_a_gateway_that_was_killed_may_know_less_than_it_told() -> None:
    view = GatewayView()
    view.put(row(status="running", hasActiveRun=True, updatedAt=NOW), NOW, listed=False)
    before = row(status=None, hasActiveRun=False, updatedAt=NOW - 500)
    assert not view.put_listed(before, NOW + 1_000), "a list that was overtaken by an event"
    view.forget_runs()
    assert view.put_listed(before, NOW + 1_000)
    assert view.verdict("tony", NOW + 1_000).status is AgentStatus.IDLE
