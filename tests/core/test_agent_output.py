import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.schema import OutputFormat
from ambientd.core.agent_output import (
    COUNT_MAX,
    JOIN_LIMIT,
    PATH_DEFAULT,
    OutputState,
    UsageTally,
    expand_command,
    finish_output,
    fold_output,
    option_like,
    resume_output,
    scrub_environment,
    usage_record,
)
from ambientd.core.payloads import DEPTH_LIMIT, STRING_LIMIT, clean_text, clean_value
from ambientd.core.records import NewEvent
from ambientd.ports.runner import OutputLine
from ambientd.wire.enums import CostConfidence, CostSource, EventType, MetricSource

JSONL, TEXT = OutputFormat.JSONL, OutputFormat.TEXT
AT = datetime(2026, 11, 21, tzinfo=UTC)


def line(text: str, *, stream: str = "out", partial: bool = False, at_ms: int = 1000) -> OutputLine:
    return OutputLine(at_ms=at_ms, stream=stream, text=text, partial=partial)


def fold(*lines: OutputLine, output: OutputFormat = JSONL) -> tuple[OutputState, list[NewEvent]]:
    state, events = fold_output(OutputState(), lines, output)
    return state, list(events)


def usage(*texts: str) -> UsageTally:
    return fold(*map(line, texts))[0].usage


# --- lines become events


def test_text_lines_are_messages_of_their_stream_and_instant() -> None:
    _, events = fold(line("a", at_ms=1500), line("b", stream="err"), output=TEXT)
    assert [(event.event_type, event.payload) for event in events] == [
        (EventType.MESSAGE, {"stream": "out", "text": "a"}),
        (EventType.MESSAGE, {"stream": "err", "text": "b"}),
    ]
    assert events[0].at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1.5)


def test_in_text_mode_json_is_text_and_parts_stay_apart() -> None:
    _, events = fold(line('{"type":"usage","prompt_', partial=True), line('tokens":1}'), output=TEXT)
    assert [event.payload.get("partial") for event in events] == [True, None]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("message", EventType.MESSAGE),
        ("tool_call", EventType.TOOL_CALL),
        ("error", EventType.ERROR),
        ("metric", EventType.METRIC),
        ("artifact", EventType.ARTIFACT),
        ("state", EventType.STATE_TRANSITION),
        ("something else", EventType.MESSAGE),
        (None, EventType.MESSAGE),
        (["error"], EventType.MESSAGE),
    ],
)
def test_json_objects_become_events_of_their_type(word: Any, kind: EventType) -> None:
    document = {"type": word, "x": [1, "ü", None]}
    _, (event,) = fold(line(json.dumps(document)))
    assert (event.event_type, event.payload) == (kind, document)


@pytest.mark.parametrize(
    "text", ["", "plain", "[1]", "3", '{"a":', '{"a":1} x', "{'a':1}", "{" * 5000, '{"a":' * 9999]
)
def test_what_is_no_json_object_stays_text(text: str) -> None:
    _, (event,) = fold(line(text))
    assert event.payload == {"stream": "out", "text": text}


def test_standard_error_is_never_read_as_json() -> None:
    state, (event,) = fold(line('{"type":"usage","prompt_tokens":5}', stream="err"))
    assert event.payload["stream"] == "err"
    assert state.usage == UsageTally()


def test_parts_of_a_json_line_are_joined_over_chunks_and_other_streams() -> None:
    state, first = fold_output(OutputState(), [line('{"a":', partial=True)], JSONL)
    assert first == ()
    assert not state.settled
    state, second = fold_output(state, [line("noise", stream="err"), line('"b"}')], JSONL)
    assert [event.payload for event in second] == [{"stream": "err", "text": "noise"}, {"a": "b"}]
    assert state.settled


def test_a_line_past_the_join_bound_is_told_as_text_to_its_end() -> None:
    part = "x" * (JOIN_LIMIT // 2)
    state, events = fold(
        line('{"a":"', partial=True),
        line(part, partial=True),
        line(part, partial=True),
        line('"}'),
        line('{"b":1}'),
    )
    assert "".join(event.payload.get("text", "") for event in events) == '{"a":"' + part + part + '"}'
    assert events[-1].payload == {"b": 1}
    assert state.settled


def test_parts_without_an_end_become_text_when_the_run_ends() -> None:
    state, _ = fold(line('{"a":', partial=True))
    state, events = finish_output(state)
    assert [event.payload["text"] for event in events] == ['{"a":']
    assert state.settled


def test_a_line_longer_than_a_payload_loses_nothing() -> None:
    text = "ü€" * STRING_LIMIT
    _, events = fold(line(text), output=TEXT)
    assert "".join(event.payload["text"] for event in events) == text
    assert [event.payload.get("partial") for event in events] == [True] * (len(events) - 1) + [None]
    assert max(len(event.payload["text"].encode()) for event in events) <= STRING_LIMIT


# --- payloads are always valid


@given(st.text(st.characters(), max_size=200), st.sampled_from([TEXT, JSONL]))
def test_any_text_becomes_a_payload_that_can_be_stored(text: str, output: OutputFormat) -> None:
    for event in fold(line(text), output=output)[1]:
        assert json.loads(msgspec.json.encode(event.payload)) == event.payload


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
)


@given(st.dictionaries(st.text(st.characters()), ANY_JSON, max_size=5))
def test_any_object_becomes_a_payload_that_can_be_stored(document: dict[str, Any]) -> None:
    for event in fold(line(json.dumps(document)))[1]:
        stored = msgspec.json.encode(event.payload)
        assert msgspec.json.decode(stored) == json.loads(stored) == event.payload


def test_strings_depth_and_numbers_are_bounded() -> None:
    deep: Any = 0
    for _ in range(DEPTH_LIMIT + 5):
        deep = [deep]
    found = clean_value(
        {
            "long": "ü" * STRING_LIMIT,
            "deep": deep,
            "big": 2**70,
            "inf": math.inf,
            "many": list(range(5000)),
            "s": "\ud800",
        }
    )
    assert len(found["long"].encode()) <= STRING_LIMIT
    assert found["long"].endswith("ü…")
    assert str(found["deep"]).count("[") < DEPTH_LIMIT
    assert found["big"] == hex(2**70)
    assert found["inf"] is None
    assert found["many"][-2:] == [999, "…"]
    assert found["s"] == "\ufffd"


def test_a_wide_and_deep_value_does_not_become_a_huge_tree() -> None:
    assert len(json.dumps(clean_value([[[0] * 1000] * 1000] * 1000))) < 200_000


def test_surrogate_pairs_become_the_character_they_mean() -> None:
    assert clean_text("\ud83d\ude00\ude00") == "😀\ufffd"


# --- usage


def test_usage_lines_add_up_and_are_no_events() -> None:
    state, events = fold(
        line(
            '{"type":"usage","prompt_tokens":10,"completion_tokens":5,"cost_usd":0.25,"model":"a","provider":"p"}'
        ),
        line(
            '{"type":"usage","promptTokens":1,"completionTokens":2,"totalTokens":3,"costUsd":1,"model":"b"}'
        ),
    )
    assert events == []
    assert state.usage == UsageTally(
        prompt_tokens=11,
        completion_tokens=7,
        total_tokens=18,
        total_derived=True,
        cost_usd=1.25,
        model="b",
        provider="p",
    )


def test_a_cumulative_line_replaces_what_it_names() -> None:
    tally = usage(
        '{"type":"usage","prompt_tokens":10,"cost_usd":1}',
        '{"type":"usage","prompt_tokens":12,"cumulative":true}',
        '{"type":"usage","prompt_tokens":1}',
    )
    assert (tally.prompt_tokens, tally.cost_usd) == (13, 1.0)


def test_unknown_is_none_and_a_reported_zero_is_zero() -> None:
    tally = usage('{"type":"usage","prompt_tokens":0,"completion_tokens":null}')
    assert (tally.prompt_tokens, tally.completion_tokens, tally.total_tokens, tally.cost_usd) == (
        0,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "bad",
    ["-1", "1.5", "true", '"7"', "NaN", "Infinity", "1e400", "[]", str(COUNT_MAX + 1)],
)
def test_a_bad_number_is_ignored_and_noted_while_the_rest_counts(bad: str) -> None:
    state, (event,) = fold(line(f'{{"type":"usage","prompt_tokens":{bad},"completion_tokens":4}}'))
    assert (state.usage.prompt_tokens, state.usage.completion_tokens) == (None, 4)
    assert event.event_type is EventType.ERROR
    assert event.payload["code"] == "usage_ignored"
    assert [item["field"] for item in event.payload["fields"]] == ["prompt_tokens"]


@pytest.mark.parametrize("bad", ["-0.1", "true", '"1"', "NaN", "1e400", "{}"])
def test_a_bad_cost_is_ignored_and_noted(bad: str) -> None:
    state, events = fold(line(f'{{"type":"usage","cost_usd":{bad}}}'))
    assert state.usage.cost_usd is None
    assert len(events) == 1


def test_two_spellings_names_that_are_none_and_a_bad_flag_are_noted_in_order() -> None:
    text = (
        '{"type":"usage","promptTokens":2,"prompt_tokens":1,"provider":"a\\u0000b","model":7,"cumulative":1}'
    )
    state, (event,) = fold(line(text))
    assert state.usage == UsageTally(prompt_tokens=1)
    assert [item["field"] for item in event.payload["fields"]] == [
        "cumulative",
        "model",
        "promptTokens",
        "provider",
    ]


def test_sums_stay_within_what_the_ledger_holds() -> None:
    text = f'{{"type":"usage","prompt_tokens":{COUNT_MAX},"completion_tokens":{COUNT_MAX}}}'
    tally = usage(text, text)
    assert (tally.prompt_tokens, tally.total_tokens) == (COUNT_MAX, COUNT_MAX)


def test_usage_survives_a_restart_through_its_row() -> None:
    before = usage('{"type":"usage","prompt_tokens":10,"completion_tokens":5,"cost_usd":0.5,"provider":"p"}')
    row = usage_record(before, session_id="ses_x", at=AT)
    assert row is not None
    assert (row.total_tokens, row.token_source, row.cost_confidence) == (
        15,
        MetricSource.DERIVED,
        CostConfidence.EXACT,
    )
    assert row.pricing_version == "provider_native"
    assert resume_output(row).usage == before
    assert resume_output(None) == OutputState()


def test_cache_tokens_are_classes_of_their_own() -> None:
    text = (
        '{"type":"usage","cache_read_tokens":7,"cacheWriteTokens":2,"prompt_tokens":1,"completion_tokens":1}'
    )
    row = usage_record(usage(text, text), session_id="ses_x", at=AT)
    assert row is not None
    assert (row.cache_read_tokens, row.cache_write_tokens, row.total_tokens) == (14, 4, 4)
    assert resume_output(row).usage == usage(text, text)


def test_an_estimate_is_never_taken_for_a_report_after_a_restart() -> None:
    row = usage_record(usage('{"type":"usage","prompt_tokens":1}'), session_id="ses_x", at=AT)
    assert row is not None
    estimate = msgspec.structs.replace(
        row, cost_usd=0.5, cost_source=CostSource.ESTIMATED_FROM_PRICING, pricing_version="2026-11"
    )
    assert resume_output(estimate).usage.cost_usd is None


def test_nothing_reported_makes_no_row() -> None:
    assert usage_record(UsageTally(), session_id="ses_x", at=AT) is None


# --- commands and environments


def expand(*command: str, prompt: str = "P", model: str | None = "M") -> tuple[str, ...]:
    return expand_command(command, prompt=prompt, model=model, session_id="S")


def test_placeholders_are_replaced_and_double_braces_are_literal() -> None:
    assert expand("a", "{prompt}", "x={model}/{session_id}", "{{prompt}}", "{other}", "{", "{{{model}}}") == (
        "a",
        "P",
        "x=M/S",
        "{prompt}",
        "{other}",
        "{",
        "{M}",
    )
    assert expand("{model}", model=None) == ("",)


@given(st.text())
def test_a_prompt_is_put_in_as_it_is_and_never_looked_at_again(prompt: str) -> None:
    assert expand("x", "{prompt}", prompt=prompt) == ("x", prompt)
    assert expand("{prompt}", prompt="{model}{{" + prompt) == ("{model}{{" + prompt,)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (("a", "{prompt}"), "prompt"),
        (("a", "--model", "{model}x"), "model"),
        (("a", "--", "{prompt}"), None),
        (("a", "--prompt={prompt}"), None),
        (("a", "{session_id}"), None),
    ],
)
def test_values_that_a_program_would_take_for_options_are_found(
    command: tuple[str, ...], found: str | None
) -> None:
    assert option_like(command, prompt="-rf", model="--evil") == found
    assert option_like(command, prompt="fine", model=None) is None


def test_only_listed_variables_are_inherited_and_configured_ones_win() -> None:
    base = {
        "PATH": "/bin",
        "HOME": "/root",
        "LC_ALL": "C",
        "LC_SECRET": "x",
        "TZ": "UTC\0",
        "OPENCLAW_AUTH_TOKEN": "x",
        "LD_PRELOAD": "x",
        "PYTHONPATH": "x",
        "NOTIFY_SOCKET": "x",
        "LISTEN_FDS": "1",
        "AMBIENT_STATE_DIR": "x",
    }
    assert scrub_environment(base, {"HOME": "/srv", "MY_TOKEN": "given"}) == {
        "PATH": "/bin",
        "HOME": "/srv",
        "LC_ALL": "C",
        "MY_TOKEN": "given",
    }
    assert scrub_environment({}, {}) == {"PATH": PATH_DEFAULT}
