import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.gateway.frames import (
    MAX_FRAME,
    Event,
    Failure,
    RemoteProtocolError,
    Response,
    Unknown,
    decode_frame,
    decode_payload,
    encode_request,
)
from tests.fakes.gateway import recordings

RECORDED = [
    (name, json.dumps(row.frame))
    for name in recordings.names()
    for row in recordings.frames(name)
    if row.direction == "recv"
]


def failure(error: Any) -> Failure:
    frame = decode_frame(json.dumps({"type": "res", "id": "1", "ok": False, "error": error}))
    assert isinstance(frame, Failure)
    return frame


def test_every_recorded_frame_of_both_versions_decodes() -> None:
    kinds = {"res": 0, "event": 0}
    for name, text in RECORDED:
        frame, plain = decode_frame(text), json.loads(text)
        kinds[plain["type"]] += 1
        match frame:
            case Event(event, payload, seq):
                assert (event, seq) == (plain["event"], plain.get("seq")), name
                assert decode_payload(payload) == plain.get("payload")
            case Response(request, payload):
                assert (request, True) == (plain["id"], plain["ok"]), name
                assert decode_payload(payload) == plain["payload"]
            case Failure(request, fault):
                assert (request, fault.code) == (plain["id"], plain["error"]["code"]), name
            case Unknown():
                pytest.fail(f"{name} holds a frame of a kind that is not known")
    assert min(kinds.values()) > 200


def test_every_recorded_request_can_be_said_by_us() -> None:
    sent = [
        row.frame for name in recordings.names() for row in recordings.frames(name) if row.direction == "send"
    ]
    assert len(sent) > 200
    for frame in sent:
        if frame["type"] == "req" and isinstance(frame.get("params"), dict):
            text = encode_request(frame["id"], frame["method"], frame["params"])
            assert json.loads(text) == {**frame, "params": frame["params"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        "{}",
        '{"type":1}',
        '{"type":"res"}',
        '{"type":"res","id":"1"}',
        '{"type":"res","id":7,"ok":true}',
        '{"type":"res","id":"1","ok":"yes"}',
        '{"type":"event"}',
        '{"type":"event","event":5}',
        '{"type":"event","event":"tick","seq":"one"}',
        '{"type":"event","event":"tick","payload":' + "[" * 100_000,
        '{"type":"event","event":"tick","payload":{"a":' * 50,
        b"\xff\xfe",
        b'{"type":"event","event":"\xff"}',
    ],
)
def test_what_is_no_frame_is_the_other_sides_mistake(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_frame(text)


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(RemoteProtocolError, match="25 MiB"):
        decode_frame('"' + "x" * MAX_FRAME)


def test_deep_nesting_in_a_payload_is_an_error_and_no_crash() -> None:
    frame = decode_frame('{"type":"event","event":"health","payload":' + "[" * 900 + "]" * 900 + "}")
    assert isinstance(frame, Event)
    deep = '{"type":"event","event":"health","payload":' + "[" * 200_000 + "]" * 200_000 + "}"
    with pytest.raises(RemoteProtocolError):
        decode_frame(deep)


def test_kinds_of_a_later_version_are_skipped() -> None:
    assert decode_frame('{"type":"push","what":1}') == Unknown("push")


@pytest.mark.parametrize("error", [None, 5, "text", [], {}, {"code": 7, "message": []}, {"details": "x"}])
def test_an_error_that_lost_its_shape_is_still_an_error(error: Any) -> None:
    fault = failure(error).fault
    assert fault.code == "UNKNOWN"
    assert fault.message


def test_foreign_text_in_an_error_is_bounded_and_inert() -> None:
    fault = failure(
        {"code": "C" * 500, "message": "a\x1b[31m\n" + "b" * 900, "details": {"code": "\x07x"}}
    ).fault
    assert len(fault.code) == 64
    assert len(fault.message) == 300
    assert "\x1b" not in fault.message
    assert "\n" not in fault.message
    assert fault.detail == "?x"


@pytest.mark.parametrize("value", ["; rm -rf /", "-rf", "$(x)", "a b", "", 7, None, "x" * 65, "é"])
def test_a_request_id_that_a_shell_might_mistake_is_not_shown(value: Any) -> None:
    assert (
        failure({"code": "NOT_PAIRED", "message": "x", "details": {"requestId": value}}).fault.request_id
        is None
    )


@pytest.mark.parametrize(
    ("ms", "seconds"), [(500, 0.5), (0, 0.0), (-1, None), ("9", None), (True, None), (1e300, None)]
)
def test_a_told_pause_is_taken_only_when_it_is_one(ms: Any, seconds: float | None) -> None:
    assert failure({"code": "X", "message": "x", "retryAfterMs": ms}).fault.retry_after == seconds


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_give_a_frame_or_an_error(data: str | bytes) -> None:
    try:
        decode_frame(data)
    except RemoteProtocolError:
        return


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(["type", "id", "ok", "payload", "error", "event", "seq", "more"]),
        _JSON | st.sampled_from(["res", "event", "req"]),
    )
)
def test_any_object_gives_a_frame_or_an_error(frame: Any) -> None:
    try:
        decode_frame(json.dumps(frame))
    except RemoteProtocolError:
        return


@given(st.lists(st.sampled_from(["\\", "u", "d83d", "\ud83d", "\ude00", '"', "\n", "a"]), max_size=8))
def test_a_text_that_was_cut_inside_a_character_is_read_with_a_mark_in_its_place(parts: list[str]) -> None:
    title = "".join(parts)
    text = json.dumps({"type": "res", "id": "1", "ok": True, "payload": {"title": title, "next": 1}})
    frame = decode_frame(text)
    assert isinstance(frame, Response)
    whole = title.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert decode_payload(frame.payload) == {"title": whole, "next": 1}
