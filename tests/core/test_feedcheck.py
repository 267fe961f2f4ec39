import hashlib
import json
from typing import Any

import pytest

from ambientd.core.feedchain import ChainAudit, is_chained, may_be_chained
from ambientd.core.feedcheck import FeedCheck, is_file_name
from ambientd.core.feeddrift import DriftWatch
from ambientd.core.feedline import encode
from ambientd.core.heartbeat import build_event, build_run_id

START_MS = 1_795_000_000_000
HOST = "sha256:" + "0" * 64
VALID = {
    "ts_utc": "...",
    "ts_epoch_ms": 1700000000000,
    "action": "heartbeat",
    "category": "heartbeat",
    "emit_mode": "runtime_auto",
    "verifier_mode": "operational_proof",
    "run_id": "...",
    "host_id": "sha256:...",
}


def beat(seq: int, *, at_ms: int | None = None, run: int = 7, **changes: Any) -> dict[str, Any]:
    made = build_event(
        at_ms=START_MS + seq * 60_000 if at_ms is None else at_ms,
        actor="dispatcher",
        run_id=build_run_id(START_MS, run),
        host_id=HOST,
        pid=run,
        seq=seq,
        interval=60,
    )
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def reasons(*lines: bytes | dict[str, Any], strict: bool = False) -> list[str]:
    check = FeedCheck(strict=strict, now_ms=START_MS + 3_600_000)
    found = []
    for line in lines:
        raw = line if isinstance(line, bytes) else json.dumps(line, separators=(",", ":")).encode()
        found += [problem.reason for problem in check.check_line(raw)]
    return found


def test_the_specifications_vectors() -> None:
    assert reasons(VALID) == []
    missing = reasons({"action": "heartbeat", "category": "heartbeat", "emit_mode": "runtime_auto"})
    assert "ts_epoch_ms: is missing: drift cannot be detected" in missing
    wrong = reasons({"action": "heartbeat", "emit_mode": "manual_append"})
    assert "emit_mode: is 'manual_append', \"runtime_auto\" is required" in wrong
    for key in ("phase", "phase_id", "task_id"):
        danger = reasons({"action": "heartbeat", key: "PHASE_15_5_3", "emit_mode": "runtime_auto"})
        assert danger[0].startswith(f"{key}: dangerous")


def test_the_canonical_example_passes_plainly_and_not_strictly() -> None:
    example = beat(42, ts_utc="2026-02-12T12:34:56Z", ts_epoch_ms=1770861296000, host_id="sha256:ab12...")
    assert reasons(example) == []
    strict = reasons(example, strict=True)
    assert "ts_epoch_ms: is another instant than ts_utc" in strict
    assert "host_id: is not sha256: and 64 hexadecimal digits" in strict


def test_a_live_feed_is_strictly_valid_also_beside_others_lines() -> None:
    foreign = {"ts_utc": "2026-11-18T11:06:41Z", "action": "dispatch_start", "path": "/x", "phase_id": "P"}
    assert reasons(foreign, beat(1), beat(2), beat(1, at_ms=START_MS + 200_000, run=8), strict=True) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ts_utc": "2026-11-18T11:07:40.5Z"}, "ts_utc"),
        ({"ts_utc": "2026-11-18T11:07:40"}, "ts_utc"),
        ({"ts_epoch_ms": 1795000060000.0}, "ts_epoch_ms"),
        ({"ts_epoch_ms": True}, "ts_epoch_ms"),
        ({"ts_epoch_ms": START_MS}, "ts_epoch_ms"),
        ({"category": "pulse"}, "category"),
        ({"action": "completed"}, "action"),
        ({"verifier_mode": None}, "verifier_mode"),
        ({"actor": ""}, "actor"),
        ({"actor": None}, "actor"),
        ({"tool": "other"}, "tool"),
        ({"run_id": "dispatcher:x"}, "run_id"),
        ({"run_id": "a/b"}, "run_id"),
        ({"host_id": "sha256:" + "A" * 64}, "host_id"),
        ({"host_id": "node-1"}, "host_id"),
        ({"pid": 8}, "pid"),
        ({"pid": "7"}, "pid"),
        ({"interval_sec": 0.5}, "interval_sec"),
        ({"heartbeat_seq": 0}, "heartbeat_seq"),
        ({"meta": []}, "meta"),
        ({"meta": {"user": "x"}}, "meta.user"),
        ({"meta": {"dropped": -1}}, "meta.dropped"),
        ({"meta": {"state": "x" * 1100}}, "meta"),
        ({"meta": {"state": {"phase": 1}}}, "phase"),
        ({"evidence": 1}, "evidence"),
        ({"artifact": "x"}, "artifact"),
        ({"actor": "/home/u"}, "actor"),
        ({"actor": "x" * 4000}, "line"),
        ({"hash": "00"}, "hash"),
    ],
)
def test_strict_names_the_field_that_is_wrong(changes: dict[str, Any], field: str) -> None:
    assert any(reason.startswith(field + ":") for reason in reasons(beat(1, **changes), strict=True))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "line: blank"),
        (b"  ", "line: blank"),
        (b"\xef\xbb\xbf{}", "line: not JSON"),
        (b"\xff{}", "line: not UTF-8"),
        (b'{"a":NaN}', "line: not JSON"),
        (b"[1]", "line: not a JSON object"),
        (b"\0\0\0", "line: NUL bytes"),
        (b'{"ts_utc":"2026', "line: not JSON"),
    ],
)
def test_damaged_lines_are_found_in_both_modes(line: bytes, reason: str) -> None:
    for strict in (False, True):
        assert reasons(line, strict=strict)[0].startswith(reason)


def test_strict_finds_what_only_the_whole_file_shows() -> None:
    assert "heartbeat_seq: 1 after 2 in one run" in reasons(
        beat(2), beat(1, at_ms=START_MS + 120_001), strict=True
    )
    back = reasons(beat(2), beat(3, at_ms=START_MS), strict=True)
    assert "ts_epoch_ms: goes back by 120000 ms" in back
    assert "ts_utc: goes back from 2026-11-18T11:08:40Z to 2026-11-18T11:06:40Z" in back
    assert "ts_utc: 7200 s in the future" in reasons(beat(1, at_ms=START_MS + 10_800_000), strict=True)
    assert any(
        "differs within one run" in said
        for said in reasons(beat(1), beat(2, host_id="sha256:" + "1" * 64), strict=True)
    )
    assert any("no time" in said for said in reasons({"action": "x"}, strict=True))
    assert reasons({"action": "x"}) == []
    assert any(
        "twice" in said for said in reasons(b'{"ts_utc":"2026-01-01T00:00:00Z","a":1,"a":2}', strict=True)
    )
    assert any(
        "line break" in said
        for said in reasons('{"ts":"2026-01-01T00:00:00Z","a":"\u2028"}'.encode(), strict=True)
    )
    assert any("CR" in said for said in reasons(encode(beat(1))[:-1] + b"\r", strict=True))


def test_a_torn_last_line_and_a_giant_one_are_problems() -> None:
    check = FeedCheck(strict=False)
    assert "newline" in check.check_line(encode(beat(1))[:-1], ended=False)[0].reason
    assert check.too_long_line(10**9)[0].line == 2


def test_names_that_cannot_be_files() -> None:
    assert is_file_name("dispatcher:20260212T120000Z:pid7")
    assert not any(is_file_name(name) for name in ("a/b", "", "..", "x" * 201, "a\0b", "a\\b"))


# --- chains


def link(prev: str, **event: Any) -> dict[str, Any]:
    whole = {"ts_utc": "2026-01-01T00:00:00Z", **event, "prev_hash": prev}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**whole, "hash": hashlib.sha256(text.encode()).hexdigest()}


def test_a_whole_chain_passes_and_every_break_is_named() -> None:
    anchor = link("GENESIS", action="ledger_anchor")
    second = link(anchor["hash"], action="überprüft")
    third = link(second["hash"], action="x")
    audit = ChainAudit()
    assert [audit.step(event) for event in ({"action": "legacy"}, anchor, second, third)] == [[], [], [], []]
    assert audit.anchored
    assert audit.step({"action": "raw"}) == ["hash: missing after the ledger anchor"]
    assert reasons(anchor, third, strict=True) == ["prev_hash: is not the hash of the line before"]
    assert reasons(anchor, {**second, "action": "y"}, strict=True) == ["hash: is not the hash of this line"]
    assert reasons(second, strict=True) == ["hash: a hashed line before any ledger anchor"]
    assert reasons(link("0", action="ledger_anchor"), strict=True) == ["prev_hash: an anchor names GENESIS"]


def test_chained_lines_are_recognised_by_bytes_and_by_keys() -> None:
    for event in ({"hash": "x"}, {"prev_hash": "x"}, {"action": "ledger_anchor"}):
        assert is_chained(event)
        assert may_be_chained(json.dumps(event).encode())
    assert not is_chained({"meta": {"hash": "x"}})
    assert not may_be_chained(encode(beat(1)))


# --- drift


def watch(*events: dict[str, Any], now_ms: int, interval: float | None = None) -> Any:
    drift = DriftWatch(interval=interval)
    for event in events:
        drift.take(event)
    return drift.report(now_ms)


def test_regular_beats_are_no_drift() -> None:
    report = watch(*(beat(seq) for seq in range(1, 31)), now_ms=START_MS + 31 * 60_000)
    assert not report.drift
    assert (report.beats, report.missed, report.lost, report.gaps) == (30, 0, 0, ())
    assert report.hosts[0].longest_gap_ms == 60_000


def test_lost_beats_show_as_holes_in_the_sequence() -> None:
    report = watch(beat(1), beat(2), beat(6), now_ms=START_MS + 6 * 60_000)
    assert report.drift
    assert (report.lost, report.missed) == (3, 0)
    assert report.gaps[0].kind == "lost"


def test_a_frozen_loop_shows_as_silence() -> None:
    report = watch(beat(1), beat(2, at_ms=START_MS + 360_000), now_ms=START_MS + 361_000)
    assert report.drift
    assert (report.gaps[0].kind, report.gaps[0].beats) == ("silent", 4)


def test_a_short_restart_is_no_drift_and_a_long_one_is() -> None:
    after = {"now_ms": START_MS + 300_000}
    assert not watch(
        beat(1),
        beat(1, at_ms=START_MS + 62_000, run=8),
        beat(2, at_ms=START_MS + 122_000, run=8),
        now_ms=START_MS + 130_000,
    ).drift
    report = watch(beat(1), beat(1, at_ms=START_MS + 300_000, run=8), **after)
    assert (report.gaps[0].kind, report.hosts[0].runs) == ("restart", 2)


def test_an_old_last_beat_and_one_from_the_future_are_stale() -> None:
    assert watch(beat(1), now_ms=START_MS + 60_000 + 120_001).hosts[0].stale
    assert not watch(beat(1), now_ms=START_MS + 60_000 + 119_000).hosts[0].stale
    assert watch(beat(1), now_ms=START_MS - 3_600_000).hosts[0].stale


def test_a_live_host_does_not_hide_a_dead_one() -> None:
    dead = beat(1, host_id="sha256:" + "1" * 64)
    report = watch(dead, beat(1), beat(2), beat(3), now_ms=START_MS + 181_000)
    assert [host.stale for host in report.hosts] == [True, False]
    assert report.drift


def test_no_heartbeat_at_all_is_drift_and_the_interval_can_be_told() -> None:
    assert watch({"action": "x"}, now_ms=START_MS).drift
    report = watch(beat(1), beat(2), now_ms=START_MS + 121_000, interval=10)
    assert report.missed == 5
    with_none = watch(beat(1, interval_sec=None), beat(2, interval_sec=None), now_ms=START_MS + 121_000)
    assert not with_none.drift
