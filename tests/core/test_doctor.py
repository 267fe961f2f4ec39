from datetime import UTC, datetime, timedelta

import pytest

from ambientd.core.doctor import (
    CHECKS,
    DISK_LOW,
    DISK_OUT,
    EXIT_OF,
    Finding,
    Made,
    chosen,
    fail,
    good,
    health_of,
    judge_audit,
    judge_beats,
    judge_clock,
    judge_daemon_power,
    judge_disk,
    judge_gateway,
    judge_identity,
    judge_ledger,
    judge_power,
    render,
    skip,
    warn,
)
from ambientd.core.power import Input
from ambientd.core.statustext import Look
from ambientd.main.doctor_checks import ALL
from ambientd.wire.autonomy_messages import AuditStatus, DeltaVStatus
from ambientd.wire.doctor_messages import CheckResult
from ambientd.wire.enums import MetricConfidence
from ambientd.wire.messages import GatewayStatus, HeartbeatStatus, LedgerStatus, Problem

NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)
AT = "2026-11-20T15:39:22.000Z"
URL = "ws://127.0.0.1:18789"


def test_every_check_that_has_a_name_is_made_in_its_order() -> None:
    assert list(ALL) == list(CHECKS)


@pytest.mark.parametrize(
    ("wanted", "ids", "unknown"),
    [
        ([], list(CHECKS), []),
        (["gateway"], ["gateway.link"], []),
        (["pulse.feed", "config"], ["config.valid", "pulse.feed"], []),
        (["gate"], [], ["gate"]),
        (["disk", "nonsense"], ["disk.free"], ["nonsense"]),
    ],
)
def test_checks_are_named_by_their_id_or_the_part_before_the_dot(
    wanted: list[str], ids: list[str], unknown: list[str]
) -> None:
    assert chosen(wanted) == (ids, unknown)


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([good("x"), skip("y")], 0),
        ([good("x"), warn("y")], 10),
        ([warn("y"), fail("z"), good("x")], 11),
        ([skip("y")], 0),
    ],
)
def test_the_worst_result_decides_the_exit_code(findings: list[Finding], code: int) -> None:
    assert EXIT_OF[health_of(Made("disk.free", one, 1) for one in findings)] == code


def test_the_report_lines_up_and_counts() -> None:
    made = [
        Made("config.valid", good("/etc/x\x1b[2J"), 1),
        Made("gateway.link", fail("refused", "do this"), 2),
        Made("pulse.feed", warn("late"), 2),
        Made("power.meter", skip("no meter"), 2),
    ]
    text = render(made, 4.21, Look())
    assert text == (
        "config      ✓ /etc/x?[2J\n"
        "gateway     ✕ refused\n"
        "                → do this\n"
        "pulse feed  ! late\n"
        "power       - skipped: no meter\n"
        "1 ok, 1 warning, 1 failed, 1 skipped in 4.2s.\n"
    )
    plain = render(made, 4.21, Look(ascii_only=True))
    assert plain.isascii()
    assert "x refused\n                -> do this" in plain
    assert "\x1b[31m✕" in render(made, 4.21, Look(colour=True))


@pytest.mark.parametrize(
    ("gateway", "result", "words"),
    [
        (GatewayStatus(False, False, "off"), CheckResult.SKIP, "no gateway is configured"),
        (
            GatewayStatus(
                True, True, "ready", url=URL, latency_ms=11, agents=4, protocol=4, version="2026.9.6"
            ),
            CheckResult.OK,
            "11ms, 4 agents, 2026.9.6, protocol 4, token accepted",
        ),
        (
            GatewayStatus(False, False, "refused", url=URL, reason="the gateway refused the token", since=AT),
            CheckResult.FAIL,
            "refused: the gateway refused the token",
        ),
        (
            GatewayStatus(False, False, "waiting", url=URL, reason="no connection", since=AT, attempt=3),
            CheckResult.FAIL,
            "unreachable for 38s (no connection)",
        ),
        (GatewayStatus(True, False, "draining", url=URL), CheckResult.WARN, "about to stop"),
        (GatewayStatus(True, True, "waiting", url=URL, as_of=AT), CheckResult.WARN, "lost 38s ago"),
        (GatewayStatus(False, False, "connecting", url=URL), CheckResult.WARN, "connecting to"),
    ],
)
def test_the_gateway_is_told_as_status_tells_it(
    gateway: GatewayStatus, result: CheckResult, words: str
) -> None:
    found = judge_gateway(gateway, NOW)
    assert found.result is result
    assert words in found.text


def test_the_gateways_own_remedy_is_the_one_that_is_shown() -> None:
    refused = GatewayStatus(False, False, "refused", url=URL, reason="x", remedy="openclaw devices approve 7")
    assert judge_gateway(refused, NOW).remedy == "openclaw devices approve 7"
    away = GatewayStatus(False, False, "waiting", url=URL, reason="x")
    assert URL in (judge_gateway(away, NOW).remedy or "")


@pytest.mark.parametrize(
    ("free", "inodes", "result"),
    [
        (DISK_LOW, None, CheckResult.OK),
        (DISK_LOW - 1, None, CheckResult.WARN),
        (DISK_OUT - 1, 5, CheckResult.FAIL),
        (DISK_LOW, 5, CheckResult.WARN),
        (DISK_LOW, 1_000_000, CheckResult.OK),
    ],
)
def test_little_room_is_a_warning_and_almost_none_a_failure(
    free: int, inodes: int | None, result: CheckResult
) -> None:
    assert judge_disk(free, inodes, "/x").result is result


def test_a_clock_that_was_set_back_is_told_by_what_was_written_before() -> None:
    ahead = NOW + timedelta(hours=2)
    found = judge_clock(NOW, [("the last heartbeat", ahead)], synchronised=True)
    assert (found.result, found.text.startswith("the last heartbeat is 2h")) == (CheckResult.WARN, True)
    assert judge_clock(NOW, [("the last heartbeat", NOW)], synchronised=False).result is CheckResult.OK
    assert judge_clock(datetime(1970, 1, 2, tzinfo=UTC), [], synchronised=False).result is CheckResult.FAIL


def test_the_ledger_is_as_the_daemon_says() -> None:
    assert judge_ledger(LedgerStatus(ready=False, reason="a migration failed")).result is CheckResult.FAIL
    assert judge_ledger(LedgerStatus(ready=True, degraded="set aside")).result is CheckResult.WARN
    assert "schema 6" in judge_ledger(LedgerStatus(ready=True, schema_version=6)).text


def test_beats_that_are_lost_or_late_are_told() -> None:
    def beats(**facts: object) -> HeartbeatStatus:
        return HeartbeatStatus(enabled=True, seq=9, interval_sec=60, lost=0, cycles=9, **facts)  # type: ignore[arg-type]

    assert judge_beats(beats(last_at=AT), NOW) is None
    assert judge_beats(beats(), NOW) is None
    late, lost, refused = (
        judge_beats(beats(last_at="2026-11-20T15:30:00.000Z"), NOW),
        judge_beats(beats(failing=True, last_error="the disk hangs"), NOW),
        judge_beats(beats(refused="a symbolic link"), NOW),
    )
    assert late is not None
    assert lost is not None
    assert refused is not None
    assert (late.result, lost.result, refused.result) == (
        CheckResult.WARN,
        CheckResult.FAIL,
        CheckResult.FAIL,
    )
    assert "the disk hangs" in lost.text


@pytest.mark.parametrize(
    ("audit", "result", "words"),
    [
        (None, CheckResult.SKIP, "has not looked"),
        (AuditStatus(7, 9, checkpoint_seq=5), CheckResult.OK, "7 records, signed up to #5 of #9"),
        (AuditStatus(7, 9, broken_at=3, reason="gone"), CheckResult.FAIL, "broken at record 3: gone"),
        (AuditStatus(7, 9, reason="no key"), CheckResult.WARN, "no key"),
    ],
)
def test_the_audit_chain_is_judged_by_what_the_daemon_says(
    audit: AuditStatus | None, result: CheckResult, words: str
) -> None:
    found = judge_audit(audit)
    assert found.result is result
    assert words in found.text


def test_a_key_that_may_not_be_used_fails() -> None:
    assert judge_identity([]).result is CheckResult.OK
    refused = Problem("identity.refused", "warning", "made on another host", "ambientctl identity")
    assert judge_identity([refused]) == fail("made on another host", "ambientctl identity")


# --- power


def power(source: str, confidence: str) -> Input:
    return Input(value=42.0, source=source, confidence=MetricConfidence(confidence))


def test_a_meter_is_named_with_what_it_says() -> None:
    found = judge_power(power("rapl:package", "medium"), [])
    assert found == good("rapl:package says 42.0 W, medium confidence")
    partly = judge_power(power("rapl:package", "medium"), ["nvml: the extra `gpu` is not installed"])
    assert partly.result is CheckResult.OK
    assert "extra `gpu`" in partly.text


def test_without_a_meter_it_is_said_why_and_what_helps() -> None:
    nothing = judge_power(power("model:cpu-time", "low"), [])
    assert nothing.result is CheckResult.SKIP
    assert nothing.text.startswith("skipped: no power meter was found")
    refused = judge_power(power("model:cpu-time", "low"), ["RAPL needs read access to energy_uj"] * 2)
    assert refused.text == "skipped: RAPL needs read access to energy_uj; power is estimated"
    assert refused.remedy is not None
    assert "energy_uj" in refused.remedy


def test_the_meter_of_the_daemon_goes_before_what_this_user_finds() -> None:
    def judged(**changes: str | None) -> Finding | None:
        return judge_daemon_power(DeltaVStatus(value=1.0, since="2026-11-20T12:00:00.000Z", **changes))  # type: ignore[arg-type]

    used = judged(source="rapl:psys", confidence="high")
    assert used == good("rapl:psys, used by the daemon for Δv, high confidence")
    refused = judged(source="model:cpu-time", reason="RAPL needs read access to energy_uj")
    assert refused is not None
    assert refused.result is CheckResult.SKIP
    assert judged(source="model:cpu-time", reason="no power meter was found") is None
    assert judged() is None
