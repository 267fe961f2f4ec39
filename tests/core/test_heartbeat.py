import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.feedevent import check_heartbeat, check_heartbeat_strictly, keys_at_any_depth
from ambientd.core.feedline import (
    LAST_INSTANT_MS,
    LINE_LIMIT,
    decode,
    encode,
    instant_ms,
    is_own_fragment,
    is_own_line,
    parse_utc_ms,
    restamp,
    utc_text,
)
from ambientd.core.heartbeat import (
    META_KEYS,
    build_event,
    build_heartbeat_document,
    build_run_id,
    clean_meta,
    whole_seconds,
    with_dropped,
)

HOST = "sha256:" + "ab12" * 16
STARTED_MS = 1_770_897_600_000  # 2026-02-12T12:00:00Z
AT_MS = STARTED_MS + 2_096_000  # 2026-02-12T12:34:56Z
EXAMPLE = (
    '{"ts_utc":"2026-02-12T12:34:56Z","ts_epoch_ms":1770861296000,"category":"heartbeat","action":"heartbeat",'
    '"emit_mode":"runtime_auto","verifier_mode":"operational_proof","actor":"dispatcher",'
    '"tool":"task_dispatcher","run_id":"dispatcher:20260212T120000Z:pid73553","host_id":"sha256:ab12...",'
    '"pid":73553,"heartbeat_seq":42,"interval_sec":60}'
)


def beat(**changes: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "at_ms": AT_MS,
        "actor": "dispatcher",
        "run_id": build_run_id(STARTED_MS, 73553),
        "host_id": HOST,
        "pid": 73553,
        "seq": 42,
        "interval": 60.0,
    }
    return build_event(**{**inputs, **changes})


def test_the_specifications_example_is_reproduced_in_its_key_order() -> None:
    made = beat(host_id="sha256:ab12...")
    wanted = json.loads(EXAMPLE)
    # the example's own two stamps name different instants; ours cannot
    assert made.pop("ts_epoch_ms") == 1_770_899_696_000
    assert wanted.pop("ts_epoch_ms") == 1_770_861_296_000
    assert list(made) == list(wanted)
    assert made == wanted


def test_a_beat_satisfies_the_strict_rules() -> None:
    event = beat(meta={"state": "watching", "dropped": 3, "cycle_ms": 4, "active_sessions": 0})
    assert check_heartbeat(event) + check_heartbeat_strictly(event, encode(event)[:-1]) == []
    assert list(event)[-1] == "meta"


def test_run_ids_are_safe_file_names() -> None:
    assert build_run_id(STARTED_MS, 7) == "dispatcher:20260212T120000Z:pid7"
    assert re.fullmatch(r"[A-Za-z0-9:]{1,200}", build_run_id(LAST_INSTANT_MS, 4_194_304))


@pytest.mark.parametrize(
    ("interval", "said"),
    [(60.0, 60), (1.0, 1), (0.5, None), (2.5, None), (0.0, None), (math.inf, None), (math.nan, None)],
)
def test_interval_sec_is_said_only_when_it_is_whole(interval: float, said: int | None) -> None:
    assert whole_seconds(interval) == said
    assert beat(interval=interval).get("interval_sec") == said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
meta_keys = st.sampled_from(
    [*META_KEYS, "phase", "phase_id", "task_id", "evidence", "action", "path", "user"]
)


@given(st.dictionaries(meta_keys | st.text(max_size=8), json_values, max_size=8))
def test_no_meta_makes_a_beat_that_a_reader_would_refuse(meta: dict[str, Any]) -> None:
    event = beat(meta=meta)
    line = encode(event)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert len(line) < LINE_LIMIT
    assert json.loads(line) == event
    assert not keys_at_any_depth(event) & {"phase", "phase_id", "task_id", "evidence", "hashes"}
    assert b"/" not in line
    assert check_heartbeat(event) + check_heartbeat_strictly(event, line[:-1]) == []


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -1, True, "3", None, [1], {"phase": 1}, 2**53, "a" * 65, "a/b", "a\u2028"]
)
def test_meta_values_that_are_not_plain_are_left_out(value: object) -> None:
    assert clean_meta({"dropped": value}) == {}
    assert clean_meta({"state": value if isinstance(value, str) and len(value) > 1 else 0}) == {}


def test_the_dropped_count_is_the_one_at_the_time_of_writing() -> None:
    early = beat(meta={"state": "watching", "dropped": 1})
    assert with_dropped(early, 5)["meta"] == {"state": "watching", "dropped": 5}
    assert with_dropped(early, 0)["meta"] == {"state": "watching"}
    assert "meta" not in with_dropped(beat(meta={"dropped": 1}), 0)
    assert early["meta"]["dropped"] == 1


def test_a_clock_that_stepped_back_is_held_until_it_caught_up() -> None:
    floor_ms = AT_MS
    stamps = []
    for behind_ms in (90_000, 60_000, 1, 0, -5_000):
        event, clamped_ms = restamp(beat(at_ms=floor_ms - behind_ms), floor_ms)
        assert clamped_ms == max(0, behind_ms)
        assert event["ts_utc"] == utc_text(event["ts_epoch_ms"])
        assert (event.get("meta") or {}).get("clamped_ms", 0) == (behind_ms if behind_ms >= 1000 else 0)
        stamps.append(event["ts_epoch_ms"])
    assert stamps == [AT_MS, AT_MS, AT_MS, AT_MS, AT_MS + 5_000]


def test_a_restamp_keeps_the_rest_of_meta() -> None:
    event, _ = restamp(beat(at_ms=AT_MS - 2000, meta={"dropped": 1}), AT_MS)
    assert event["meta"] == {"dropped": 1, "clamped_ms": 2000}


def test_a_line_that_is_too_long_is_not_made() -> None:
    with pytest.raises(ValueError, match="4095 are allowed"):
        encode({"a": "x" * 5000})
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"a": math.nan})


@given(st.integers(0, LAST_INSTANT_MS))
def test_stamps_agree_with_the_standard_library(at_ms: int) -> None:
    wanted = datetime.fromtimestamp(at_ms // 1000, UTC)
    assert utc_text(at_ms) == f"{wanted.year:04d}" + wanted.strftime("-%m-%dT%H:%M:%SZ")
    assert parse_utc_ms(utc_text(at_ms)) == at_ms // 1000 * 1000


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_every_iso_text_with_a_zone_is_understood(at: datetime) -> None:
    wanted = (at - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution * 1000)
    assert parse_utc_ms(at.isoformat()) == wanted
    assert parse_utc_ms(at.isoformat().replace("+00:00", "Z")) == wanted
    assert parse_utc_ms(at.replace(tzinfo=None).isoformat()) is None


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00-0100", 0),
        ("1970-01-01 00:00:00.0019Z", 1),
        ("1970-01-01T00:00:60Z", None),
        ("2026-02-29T00:00:00Z", None),
        ("2028-02-29T00:00:00Z", 1_835_395_200_000),
        ("2026-13-01T00:00:00Z", None),
        ("2026-01-01T00:00:00.Z", None),
        ("2026-01-01T00:00:00+1:00", None),
        ("٢٠٢٦-01-01T00:00:00Z", None),
        ("2026-01-01", None),
        ("...", None),
        ("", None),
    ],
)
def test_odd_stamps(text: str, at_ms: int | None) -> None:
    assert parse_utc_ms(text) == at_ms


def test_the_instant_of_a_foreign_line_is_its_latest_stamp() -> None:
    assert instant_ms({"ts": "1970-01-01T00:00:02Z", "ts_epoch_ms": 1000}) == 2000
    assert instant_ms({"timestamp": "naive", "ts_epoch_ms": 1000}) == 1000
    assert instant_ms({"ts_epoch_ms": True, "ts_utc": 5}) is None
    assert instant_ms({"ts_epoch_ms": 10**30}) is None


def test_own_lines_and_their_fragments_are_told_from_others() -> None:
    line = encode(beat(meta={"dropped": 1}))[:-1]
    assert is_own_line(line, HOST)
    assert not is_own_line(line, "sha256:" + "0" * 64)
    assert not is_own_line(line[:-2], HOST)
    assert not is_own_line(line.replace(b'"meta"', b'"hash":"x","meta"'), HOST)
    assert not is_own_line(json.dumps(beat()).encode(), HOST)  # another writer's spacing
    assert all(is_own_fragment(line[:cut]) for cut in range(83, len(line)))
    assert not any(is_own_fragment(line[:cut]) for cut in range(83))
    assert not is_own_fragment(line.replace(b"heartbeat", b"dispatch_", 1))


@pytest.mark.parametrize("line", [b'{"a":NaN}', b"[1]", b"\xff", b"", b"{", b"{}x", b"[" * 100_000])
def test_what_is_not_a_json_object_decodes_to_nothing(line: bytes) -> None:
    assert decode(line) is None


def test_the_heartbeat_file_has_the_documented_keys() -> None:
    document = build_heartbeat_document(
        at_ms=AT_MS,
        started_ms=STARTED_MS,
        pid=7,
        status="watching",
        interval=60.0,
        cycles=3,
        last_cycle_tasks=1,
    )
    assert document == {
        "schema_version": "ambient_heartbeat_v1",
        "ts": "2026-02-12T12:34:56Z",
        "pid": 7,
        "status": "watching",
        "interval_sec": 60,
        "cycles": 3,
        "last_cycle_tasks": 1,
        "uptime_sec": 2096,
    }
    with pytest.raises(ValueError, match="status"):
        build_heartbeat_document(
            at_ms=0, started_ms=0, pid=7, status="odd", interval=0.5, cycles=0, last_cycle_tasks=0
        )
