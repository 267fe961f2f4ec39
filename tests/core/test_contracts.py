"""Contracts: what an envelope must be, every problem at once, the same answer every time."""

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambientd.core.contracts.canonical import CanonicalIngest, fingerprint
from ambientd.core.contracts.problems import MAX_PROBLEMS
from ambientd.core.contracts.registry import REGISTRY, Refusal, parse, read
from ambientd.core.contracts.words import EVENT_WORDS, STATUS_WORDS, event_type_of, status_of
from ambientd.core.envelope import encode_error
from ambientd.wire.enums import EventType, SessionStatus

DATA = Path(__file__).resolve().parents[1] / "data" / "ingest"
MALFORMED = [json.loads(line) for line in (DATA / "malformed.jsonl").read_text().splitlines()]
VALID = sorted((DATA / "valid").glob("*.json"))


def raw_of(case: dict[str, Any]) -> bytes:
    return case["raw"].encode() if "raw" in case else json.dumps(case["body"]).encode()


def outcome(raw: bytes) -> CanonicalIngest | Refusal:
    document = parse(raw)
    return document if isinstance(document, Refusal) else read(document)


def told(refusal: Refusal) -> bytes:
    rejected = refusal.rejected
    return encode_error(rejected.code, rejected.message, rejected.details, "req-1")


def taken(path: Path) -> CanonicalIngest:
    found = read(json.loads(path.read_text())["envelope"])
    assert isinstance(found, CanonicalIngest), found
    return found


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same JSON value with the keys of its objects in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffled(item, chance) for key, item in items}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case["name"])
def test_a_malformed_payload_is_refused_with_every_problem_named(case: dict[str, Any]) -> None:
    found = outcome(raw_of(case))
    assert isinstance(found, Refusal)
    assert found.rejected.code == case["code"]
    assert sorted([detail.field, detail.issue] for detail in found.rejected.details) == sorted(case["found"])
    assert all(detail.message for detail in found.rejected.details)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case["name"])
def test_ten_times_the_same_payload_gets_the_same_bytes_whatever_the_order_of_its_keys(
    case: dict[str, Any],
) -> None:
    first = outcome(raw_of(case))
    assert isinstance(first, Refusal)
    chance = random.Random(7)
    for _ in range(10):
        raw = raw_of(case) if "raw" in case else json.dumps(shuffled(case["body"], chance)).encode()
        again = outcome(raw)
        assert isinstance(again, Refusal)
        assert told(again) == told(first)
        assert again.version == first.version


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_payload_is_taken(path: Path) -> None:
    assert taken(path).session.status == json.loads(path.read_text())["status"]


def test_both_versions_and_both_spellings_map_to_the_same_session() -> None:
    paths = [
        DATA / "valid" / f"{name}.json" for name in ("v1_full", "v2_full", "public_v1_full", "public_v2_full")
    ]
    prints = {fingerprint(taken(path)) for path in paths}
    assert len(prints) == 1
    assert {taken(path).session for path in paths} == {taken(paths[0]).session}


def test_the_order_of_keys_is_no_difference_and_every_value_is() -> None:
    document = json.loads((DATA / "valid" / "v1_full.json").read_text())["envelope"]
    plain = read(document)
    mixed = read(shuffled(document, random.Random(3)))
    assert isinstance(plain, CanonicalIngest)
    assert isinstance(mixed, CanonicalIngest)
    assert fingerprint(plain) == fingerprint(mixed)
    for part, field, value in (
        ("session", "task_title", "x"),
        ("session", "model_id", "x"),
        ("usage", "cost_usd", 0.13),
        ("usage", "prompt_tokens", 101),
    ):
        other = json.loads(json.dumps(document))
        other["payload"][part][field] = value
        changed = read(other)
        assert isinstance(changed, CanonicalIngest)
        assert fingerprint(changed) != fingerprint(plain), field


def test_the_seeds_own_example_of_a_refusal() -> None:
    found = read(
        {
            "envelope_version": "v1",
            "source": "gateway",
            "payload": {"session": {"id": "s", "agent_id": "a", "started_at": "2026-02-18T10:00:00Z"}},
        }
    )
    assert isinstance(found, Refusal)
    assert json.loads(told(found))["error"] == {
        "code": "VALIDATION_ERROR",
        "message": "Invalid ingest payload",
        "details": [
            {
                "field": "session.state",
                "issue": "required",
                "message": "is required",
                "expected": "string",
            }
        ],
        "requestId": "req-1",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_numbers_that_json_cannot_hold_are_refused_from_callers_inside_too(value: float) -> None:
    document = json.loads((DATA / "valid" / "v1_full.json").read_text())["envelope"]
    document["payload"]["usage"]["cost_usd"] = value
    document["payload"]["events"][0]["payload"] = {"a": value}
    found = read(document)
    assert isinstance(found, Refusal)
    assert [(detail.field, detail.issue) for detail in found.rejected.details] == [
        ("usage.cost_usd", "range"),
        ("events[0].payload", "range"),
    ]


@pytest.mark.parametrize("value", ["\ud800", "a\0"])
@pytest.mark.parametrize("field", ["id", "agent_id", "task_title", "task_text", "error_message"])
def test_text_that_cannot_be_kept_is_refused_from_callers_inside_too(field: str, value: str) -> None:
    document = json.loads((DATA / "valid" / "v1_minimal.json").read_text())["envelope"]
    document["payload"]["session"][field] = value
    found = read(document)
    assert isinstance(found, Refusal)
    assert [(detail.field, detail.issue) for detail in found.rejected.details] == [
        (f"session.{field}", "character")
    ]
    assert told(found)


@pytest.mark.parametrize("value", [b"x", (1, 2), {1, 2}, object(), {5: 1}], ids=repr)
def test_what_is_no_json_is_refused_from_callers_inside(value: object) -> None:
    document = json.loads((DATA / "valid" / "v1_minimal.json").read_text())["envelope"]
    event = {"event_type": "metric", "event_ts": "2026-02-18T10:00:00Z", "payload": {"a": value}}
    document["payload"]["events"] = [event]
    found = read(document)
    assert isinstance(found, Refusal)
    assert [detail.issue for detail in found.rejected.details] == ["type"]


def test_a_flood_of_problems_is_told_in_bounded_space() -> None:
    document = json.loads((DATA / "valid" / "v1_minimal.json").read_text())["envelope"]
    document["payload"]["events"] = [{"x" * 1000: 1}] * 5000
    found = read(document)
    assert isinstance(found, Refusal)
    details = found.rejected.details
    assert len(details) == MAX_PROBLEMS + 1
    assert details[-1].message == f"has {5000 * 3 - MAX_PROBLEMS} more problems than are listed"
    assert len(told(found)) < 30_000


def test_a_refusal_repeats_no_value_of_the_sender() -> None:
    secret = "hunter2-hunter2"
    for session in ({"state": secret}, {"started_at": secret}, {"id": secret + "\n"}, {"task": {secret: 1}}):
        found = read({"envelope_version": "v1", "source": "g", "payload": {"session": session}})
        assert isinstance(found, Refusal)
        assert secret.encode() not in told(found)


def test_an_error_about_a_missing_field_speaks_as_the_sender_does() -> None:
    for session, field in (({"id": "s"}, "session.agent_id"), ({"sessionId": "s"}, "session.agentId")):
        found = read({"envelope_version": "v1", "source": "g", "payload": {"session": session}})
        assert isinstance(found, Refusal)
        assert field in [detail.field for detail in found.rejected.details]


def test_every_canonical_word_is_a_word_and_stands_for_itself() -> None:
    assert {status_of(word) for word in SessionStatus} == set(SessionStatus)
    assert {event_type_of(word) for word in EventType} == set(EventType)
    assert all(status_of(word.value) is word for word in SessionStatus)
    assert all(event_type_of(word.value) is word for word in EventType)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("completed", "success"),
        ("done", "success"),
        ("finished", "success"),
        ("error", "failed"),
        ("crashed", "failed"),
        ("terminated", "killed"),
        ("canceled", "cancelled"),
        ("active", "running"),
        ("in_progress", "running"),
        ("pending", "queued"),
        ("COMPLETED", "success"),
    ],
)
def test_provider_words_have_one_meaning(word: str, status: str) -> None:
    assert status_of(word) == status


@pytest.mark.parametrize("word", ["exploded", "", " ", "run", "successful", "Ｄone", "STATUS_RUNNING"])
def test_a_word_nobody_mapped_means_nothing(word: str) -> None:
    assert status_of(word) is None
    assert event_type_of(word) is None


def test_the_tables_of_words_hold_lower_case_only() -> None:
    assert all(word == word.lower() for word in (*STATUS_WORDS, *EVENT_WORDS))


def test_only_the_exact_version_words_are_supported() -> None:
    assert REGISTRY.versions == ("v1", "v2")
    for version in ("v0", "v3", "V1", " v1", "", 1, None, ["v1"]):
        assert REGISTRY.find(version) is None
    assert [REGISTRY.label(item) for item in ("v1", "v9", 5, None)] == [
        "v1",
        "unsupported",
        "unsupported",
        "missing",
    ]


def test_instants_are_cut_to_milliseconds_in_utc() -> None:
    document = json.loads((DATA / "valid" / "v1_minimal.json").read_text())["envelope"]
    document["payload"]["session"]["started_at"] = "2026-02-18T02:00:00.123987+02:00"
    found = read(document)
    assert isinstance(found, CanonicalIngest)
    assert msgspec.json.encode(found.session.started_at) == b'"2026-02-18T00:00:00.123000Z"'
