import re
from datetime import UTC, datetime

import pytest

from ambientd.core.gatewaytext import gateway_problems
from ambientd.core.health import health_of, problems_of
from ambientd.core.statustext import Look, render, render_short
from ambientd.core.text import age, cut, printable, width_of
from ambientd.wire.autonomy_messages import AuditStatus, DeltaVStatus
from ambientd.wire.enums import AgentStatus, Health
from ambientd.wire.messages import (
    AgentView,
    AlertsStatus,
    GatewayStatus,
    HeartbeatStatus,
    IntakeStatus,
    LedgerStatus,
    NodeStatus,
    Problem,
    SessionsStatus,
    StatusDocument,
)

NOW = datetime(2026, 11, 20, 15, 40, 3, tzinfo=UTC)


def document(**changes: object) -> StatusDocument:
    parts: dict[str, object] = {
        "schema": "ambient.status/1",
        "generated_at": "2026-11-20T15:40:03.120Z",
        "health": Health.OK,
        "node": NodeStatus(
            name="edge-07",
            host_id="sha256:" + "ab12" * 16,
            host_id_source="name+machine-id",
            version="0.3.0",
            pid=1183,
            mode="production",
            started_at="2026-11-17T11:40:03.000Z",
            uptime_sec=273600,
        ),
        "heartbeat": HeartbeatStatus(
            enabled=True,
            seq=1842,
            interval_sec=60.0,
            lost=0,
            cycles=1842,
            last_at="2026-11-20T15:39:59.120Z",
            last_cycle_at="2026-11-20T15:39:59.120Z",
        ),
        "ledger": LedgerStatus(ready=True, sessions=12480, bytes=88_000_000, schema_version=1),
        "sessions": SessionsStatus(running=1, queued=0),
        "intake": IntakeStatus(),
        "agents": [
            AgentView(
                id="tony",
                name="tony",
                status=AgentStatus.RUNNING,
                last_activity_at="2026-11-20T15:28:03.000Z",
                reason="active session",
                session_id="ses_01J0000000000000a1b2c3d4",
                model="opus-5",
                task="Refactor the ingest gate and everything that hangs on it, carefully",
                since="2026-11-20T15:28:03.000Z",
            )
        ],
        "problems": [],
    }
    return StatusDocument(**(parts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    problem = Problem("x", "critical", "a long story " * 20, "ambientctl do this and that")
    text = render(document(problems=[problem], health=Health.FAILING), Look(width=width))
    assert max(width_of(line) for line in text.splitlines()) <= width


def test_the_screen_says_what_an_operator_looks_for() -> None:
    text = render(document(), Look(width=80))
    assert text.startswith("● edge-07  ok")
    assert "ambientd 0.3.0 · up 3d 4h · pid 1183" in text
    assert "pulse    ✓ #1842 4s ago, every 60s, 0 lost" in text
    assert "ledger   ✓ 12 480 sessions, 84 MiB, schema 1" in text
    assert re.search(r"tony +▶ running +12m00s  a1b2c3d4  opus-5  Refactor", text)
    assert "problem" not in text


def test_colour_stays_with_state_words_and_marks() -> None:
    plain = render(document(), Look(width=80))
    coloured = render(document(), Look(width=80, colour=True))
    assert "\x1b[" not in plain
    assert re.sub(r"\x1b\[[0-9]+m", "", coloured) == plain
    assert "\x1b[36mrunning\x1b[0m" in coloured


def test_a_terminal_without_unicode_gets_ascii_only() -> None:
    text = render(document(), Look(width=80, ascii_only=True))
    assert text.isascii()
    assert "* edge-07  ok" in text


def test_what_agents_are_called_cannot_steer_the_terminal() -> None:
    hostile = AgentView(
        id="x",
        name="a\x1b[2Jb\u202e",
        status=AgentStatus.IDLE,
        last_activity_at=None,
        reason="",
        task="\x9b31m\r\n",
    )
    text = render(document(agents=[hostile]), Look(width=80))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x9b" not in text


def test_the_short_form_is_one_line() -> None:
    assert render_short(document(), Look(width=80)).count("\n") == 1


def test_a_node_with_problems_says_so_first_and_lists_the_command_that_helps() -> None:
    heartbeat = HeartbeatStatus(
        enabled=True,
        seq=9,
        interval_sec=60,
        lost=3,
        cycles=9,
        last_error="EACCES",
        failing=True,
        last_cycle_at="2026-11-20T15:39:59Z",
    )
    intake = IntakeStatus(unknown_files=2, breakers_open=["steve"], breaker_reasons={"steve": "no space"})
    ledger = LedgerStatus(ready=False, reason="migration 2 failed")
    found = problems_of(heartbeat=heartbeat, ledger=ledger, intake=intake, intake_failing="EIO", now=NOW)
    assert [problem.id for problem in found] == [
        "ledger.not_ready",
        "feed.failing",
        "intake.failing",
        "intake.unknown_files",
        "breaker.steve",
    ]
    assert health_of(found) is Health.FAILING
    assert health_of(found[1:]) is Health.DEGRADED
    assert health_of([]) is Health.OK
    text = render(document(problems=found, health=Health.FAILING), Look(width=80))
    assert text.startswith("✕ edge-07  failing")
    assert "5 problems:" in text
    assert "ambientctl migrate status" in text


def test_a_loop_that_stands_still_is_a_critical_problem() -> None:
    heartbeat = HeartbeatStatus(
        enabled=True, seq=9, interval_sec=1, lost=0, cycles=9, last_cycle_at="2026-11-20T15:39:00Z"
    )
    (found,) = problems_of(
        heartbeat=heartbeat,
        ledger=LedgerStatus(ready=True),
        intake=IntakeStatus(),
        intake_failing=None,
        now=NOW,
    )
    assert (found.id, found.severity) == ("dispatcher.late", "critical")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (372, "6m12s"), (11100, "3h05m"), (273600, "3d 4h"), (-5, "0s")],
)
def test_ages_have_two_units_at_most(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_wide_characters_are_measured_as_a_terminal_shows_them() -> None:
    assert width_of("日本") == 4
    assert cut("日本語です", 5) == "日本…"
    assert printable("a\tb\x00c") == "a b?c"


def test_the_alerts_line_is_there_exactly_when_there_are_rules() -> None:
    assert "alerts" not in render(document(), Look(width=80))
    for counts, line in (
        (AlertsStatus(), "  alerts   ✓ none"),
        (AlertsStatus(critical=1, warning=1), "  alerts   ✕ 1 critical, 1 warning"),
        (AlertsStatus(warning=2, muted=1), "  alerts   ! 2 warning, 1 muted"),
        (AlertsStatus(muted=3), "  alerts   ✓ 3 muted"),
    ):
        assert line in render(document(alerts=counts), Look(width=80)).splitlines()


def gateway(**facts: object) -> GatewayStatus:
    base: dict[str, object] = {"connected": True, "healthy": True, "phase": "ready", "latency_ms": 11}
    base |= {"url": "ws://127.0.0.1:18789", "agents": 4, "since": "2026-11-20T15:33:51.000Z"}
    return GatewayStatus(**(base | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "✓ ws://127.0.0.1:18789, 11ms, 4 agents"),
        ({"agents": 1, "live": "polling"}, "✓ ws://127.0.0.1:18789, 11ms, 1 agent, polled"),
        (
            {"healthy": False, "phase": "draining"},
            "! ws://127.0.0.1:18789, 11ms, 4 agents, it is about to stop",
        ),
        ({"phase": "off", "connected": False, "healthy": False}, "○ off"),
        (
            {"phase": "connecting", "connected": False, "healthy": False},
            "! connecting to ws://127.0.0.1:18789",
        ),
        (
            {
                "phase": "waiting",
                "connected": False,
                "healthy": False,
                "reason": "no connection",
                "attempt": 3,
                "next_try_at": "2026-11-20T15:40:21.120Z",
            },
            "✕ unreachable for 6m12s (no connection), next try in 18s",
        ),
        (
            {"phase": "refused", "connected": False, "healthy": False, "reason": "wrong token", "attempt": 2},
            "✕ refused: wrong token",
        ),
        (
            {"phase": "waiting", "healthy": False, "reason": "lost", "as_of": "2026-11-20T15:39:58.120Z"},
            "! lost 5s ago, last data shown: lost",
        ),
    ],
)
def test_the_gateways_line_says_how_it_is(facts: dict[str, object], expected: str) -> None:
    screen = render(document(gateway=gateway(**facts)), Look(width=100))
    line = next(line for line in screen.splitlines() if line.startswith("  gateway"))
    assert line.removeprefix("  gateway  ").startswith(expected)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, []),
        ({"phase": "off", "connected": False, "healthy": False}, []),
        ({"phase": "connecting", "connected": False, "healthy": False}, []),
        ({"phase": "waiting", "connected": False, "healthy": False, "attempt": 2}, ["gateway.away"]),
        ({"phase": "refused", "connected": False, "healthy": False}, ["gateway.refused"]),
        ({"healthy": False, "reason": "its own health check failed"}, ["gateway.unhealthy"]),
    ],
)
def test_a_gateway_that_is_away_is_a_problem_with_a_remedy(
    facts: dict[str, object], found: list[str]
) -> None:
    remedy = "openclaw devices approve 12"
    problems = list(gateway_problems(gateway(remedy=remedy, **facts)))
    assert [problem.id for problem in problems] == found
    assert all(problem.help == remedy for problem in problems)


def test_agents_of_one_name_are_told_apart() -> None:
    both = [AgentView("tony", "Tony", AgentStatus.IDLE, None, "", kind=kind) for kind in ("local", "gateway")]
    screen = render(document(agents=both), Look(width=100))
    assert "Tony (local)" in screen
    assert "Tony (gateway)" in screen


def test_the_efficiency_metric_has_a_row() -> None:
    spark = [1.0, 3.0, 4.0, 5.0, 7.0, 5.0, 4.0, 3.0]
    found = DeltaVStatus(
        value=9.0, since="2026-11-20T12:00:00.000Z", samples=60, window_value=3.42, spark=spark
    )
    lines = render(document(delta_v=found), Look(width=80)).splitlines()
    assert "  Δv       3.42 over 1h (▂▄▅▆█▆▅▄)" in lines
    assert render(document(delta_v=found), Look(ascii_only=True)).isascii()
    assert "  dv       3.42 over 1h (:=+*@*+=)" in render(document(delta_v=found), Look(ascii_only=True))
    assert "Δv" not in render(document(), Look(width=80))


@pytest.mark.parametrize(
    ("audit", "line"),
    [
        (None, None),
        (AuditStatus(records=7, head_seq=7, checkpoint_seq=7), None),
        (AuditStatus(7, 7, reason="no checkpoints are signed"), "  audit    ! no checkpoints are signed"),
        (AuditStatus(7, 7, broken_at=3, reason="gone"), "  audit    \u2715 broken at record 3: gone"),
    ],
)
def test_the_audit_has_a_row_only_when_something_is_wrong(
    audit: AuditStatus | None, line: str | None
) -> None:
    lines = render(document(audit=audit), Look()).splitlines()
    assert [found for found in lines if found.startswith("  audit")] == ([] if line is None else [line])
