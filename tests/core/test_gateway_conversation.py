import json
from typing import Any

import pytest

from ambientd.core.gateway.conversation import (
    LARGEST_EVENT,
    MOST_PENDING,
    Answered,
    Challenged,
    ConnectRefused,
    Conversation,
    DrainingBegan,
    DrainingEnded,
    EventCame,
    EventsSkipped,
    Greeted,
    Happened,
    State,
    TooLargeError,
    TooManyPendingError,
)
from ambientd.core.gateway.frames import RemoteProtocolError
from tests.fakes.gateway import recordings

HELLO = {"type": "hello-ok", "protocol": 4, "auth": {"scopes": ["operator.read", "operator.write"]}}
CHALLENGE: dict[str, Any] = {
    "type": "event",
    "event": "connect.challenge",
    "payload": {"nonce": "n", "ts": 1},
}


def receive(talk: Conversation, now: float = 1.0, **frame: Any) -> tuple[Happened, ...]:
    return talk.receive(json.dumps(frame), now)


def event(talk: Conversation, name: str, seq: int | None = None, payload: Any = None) -> tuple[Happened, ...]:
    more = {} if seq is None else {"seq": seq}
    return receive(talk, type="event", event=name, payload=payload, **more)


def answer(talk: Conversation, request: str, payload: Any = None, now: float = 1.0) -> tuple[Happened, ...]:
    return receive(talk, now, type="res", id=request, ok=True, payload=payload)


def refusal(talk: Conversation, request: str, error: Any) -> tuple[Happened, ...]:
    return receive(talk, type="res", id=request, ok=False, error=error)


def opened(tick_ms: int = 30_000) -> Conversation:
    talk = Conversation(0.0)
    receive(talk, 0.0, **CHALLENGE)
    asked = talk.ask("connect", {}, 0.0, 10)
    answer(talk, asked.id, HELLO | {"policy": {"tickIntervalMs": tick_ms, "maxPayload": 1000}}, 0.0)
    assert talk.state is State.OPEN
    return talk


def ask(talk: Conversation, method: str = "health", now: float = 1.0) -> str:
    return talk.ask(method, {}, now, 10.0).id


def replay(name: str, rows: list[recordings.Recorded]) -> tuple[Conversation, list[Happened]]:
    """A recording as if we had said its requests: ids are replaced by ours."""
    talk, ids = Conversation(0.0), dict[str, str]()
    happened: list[Happened] = []
    hello = recordings.answers("00-handshake", "connect")[0]
    for row in rows:
        frame = row.frame
        if row.direction == "send" and frame.get("type") == "req":
            if (frame["method"] == "connect") == (talk.hello is None):
                ids[frame["id"]] = talk.ask(frame["method"], {}, row.at, 1000).id
        elif row.direction == "recv":
            if frame.get("id") in ids:
                frame = {**frame, "id": ids[frame["id"]]}
            if isinstance(frame.get("payload"), dict) and "_elided" in frame["payload"]:
                version = 3 if name == recordings.OLD else 4
                frame = {**frame, "payload": {**hello, "protocol": version}}
            happened += talk.receive(json.dumps(frame), row.at)
    return talk, happened


WHOLE = [
    n for n in recordings.names() if not recordings.cases(n) and n not in ("50-stop-busy", "50-stop-restart")
]


@pytest.mark.parametrize("name", WHOLE)
def test_a_recorded_connection_is_followed_to_its_end_without_a_gap(name: str) -> None:
    rows = recordings.frames(name)
    _talk, happened = replay(name, rows)
    assert isinstance(happened[0], Challenged)
    assert isinstance(happened[1], Greeted)
    assert not [one for one in happened if isinstance(one, EventsSkipped)]
    asked = {row.frame["id"] for row in rows if row.direction == "send" and row.frame.get("type") == "req"}
    answered = {row.frame["id"] for row in rows if row.direction == "recv" and row.frame.get("type") == "res"}
    assert len([one for one in happened if isinstance(one, Answered)]) >= len(asked & answered) - 2
    changed = [row for row in rows if row.frame.get("event") == "sessions.changed"]
    assert len(
        [one for one in happened if isinstance(one, EventCame) and one.name == "sessions.changed"]
    ) == len(changed)


@pytest.mark.parametrize(
    "case",
    [
        c
        for n in ("40-connect-failures", "41-lan-pairing", "42-lan-ratelimit")
        for c in recordings.cases(n)
        if not c.ok
    ],
    ids=lambda case: case.name,
)
def test_a_recorded_refusal_is_taken_as_it_was_recorded(case: recordings.Case) -> None:
    talk, happened = replay(case.name, case.frames)
    assert talk.state is State.REFUSED
    (refused,) = [one for one in happened if isinstance(one, ConnectRefused)]
    assert case.error is not None
    assert (refused.fault.code, refused.fault.message) == (case.error["code"], case.error["message"])


@pytest.mark.parametrize("name", ["50-stop-busy", "50-stop-idle", "50-stop-restart"])
def test_a_recorded_stop_is_seen_as_draining(name: str) -> None:
    talk = opened()
    happened: list[Happened] = []
    for row in recordings.frames(name):
        if row.direction == "recv" and row.frame["type"] == "event" and "seq" in row.frame:
            happened += talk.receive(json.dumps(row.frame), row.at)
    assert talk.state is State.DRAINING
    assert any(isinstance(one, DrainingBegan) for one in happened)
    assert any(isinstance(one, EventCame) and one.name == "shutdown" for one in happened)


def test_no_text_of_a_conversation_reaches_listeners() -> None:
    told = [
        one
        for name in WHOLE
        for one in replay(name, recordings.frames(name))[1]
        if isinstance(one, EventCame)
    ]
    assert {one.name for one in told} >= {"sessions.changed", "health", "shutdown", "agent"}
    assert not [one for one in told if one.name in ("session.message", "session.tool")]
    assert not [one for one in told if one.name == "chat" and one.payload["state"] in ("delta", "final")]
    assert {one.payload["stream"] for one in told if one.name == "agent"} == {"lifecycle"}


def test_answers_come_to_their_requests_in_any_order() -> None:
    talk = opened()
    first, second = ask(talk, "agents.list"), ask(talk, "models.list")
    (late,) = answer(talk, second, {"n": 2}, now=3.5)
    (early,) = answer(talk, first, {"n": 1})
    assert isinstance(late, Answered)
    assert isinstance(early, Answered)
    assert (late.method, late.payload, late.took) == ("models.list", {"n": 2}, 2.5)
    assert (early.method, early.payload) == ("agents.list", {"n": 1})
    assert talk.pending == 0


def test_a_second_answer_and_one_to_nobody_are_dropped() -> None:
    talk = opened()
    request = ask(talk, "agent")
    assert len(answer(talk, request, {"status": "accepted"})) == 1
    assert answer(talk, request, {"status": "ok"}) == ()
    assert answer(talk, "never-asked") == ()
    assert refusal(talk, "invalid", {"code": "INVALID_REQUEST"}) == ()


def test_an_answer_that_nobody_waits_for_any_more_is_dropped() -> None:
    talk = opened()
    request = ask(talk)
    talk.forget(request)
    assert answer(talk, request) == ()


def test_the_table_of_requests_is_bounded_and_late_ones_make_room() -> None:
    talk = opened()
    for _ in range(MOST_PENDING):
        ask(talk, now=1.0)
    with pytest.raises(TooManyPendingError):
        ask(talk, now=2.0)
    ask(talk, now=11.5)
    assert talk.pending == 1


def test_a_request_over_the_gateways_limit_is_not_sent() -> None:
    talk = opened()
    with pytest.raises(TooLargeError):
        talk.ask("chat.send", {"message": "x" * 2000}, 1.0, 10)
    assert talk.pending == 0


def test_ids_are_not_empty_and_never_the_same() -> None:
    talk = opened()
    ids = [ask(talk) for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(ids)


def test_a_gap_in_the_numbers_is_told_once_and_before_the_event() -> None:
    talk = opened()
    assert event(talk, "health", 1, {}) == (EventCame("health", {}),)
    assert event(talk, "health", 4, {"n": 4}) == (EventsSkipped(), EventCame("health", {"n": 4}))
    assert event(talk, "health", 5, {}) == (EventCame("health", {}),)


def test_the_first_event_counts_from_one() -> None:
    assert event(opened(), "tick", 2) == (EventsSkipped(),)


def test_an_event_again_or_out_of_order_is_dropped() -> None:
    talk = opened()
    event(talk, "health", 1, {})
    event(talk, "health", 3, {})
    assert event(talk, "health", 2, {}) == ()
    assert event(talk, "health", 3, {}) == ()


def test_events_without_numbers_pass() -> None:
    talk = opened()
    assert event(talk, "sessions.changed", None, {"a": 1}) == (EventCame("sessions.changed", {"a": 1}),)
    assert event(talk, "sessions.changed", None, {"a": 1}) == (EventCame("sessions.changed", {"a": 1}),)


def test_an_event_too_large_to_keep_becomes_a_gap() -> None:
    assert event(opened(), "sessions.changed", 1, {"x": "y" * LARGEST_EVENT}) == (EventsSkipped(),)


def test_draining_begins_with_the_first_refusal_and_ends_with_the_first_answer() -> None:
    talk = opened()
    recorded = next(
        row.frame["error"]
        for row in recordings.frames("50-stop-busy")
        if row.frame.get("ok") is False and row.frame["error"]["code"] == "UNAVAILABLE"
    )
    first, second, third = ask(talk), ask(talk), ask(talk)
    told = refusal(talk, first, recorded)
    assert [type(one) for one in told] == [Answered, DrainingBegan]
    assert [type(one) for one in refusal(talk, second, recorded)] == [Answered]
    assert [type(one) for one in answer(talk, third)] == [Answered, DrainingEnded]


def test_other_refusals_are_no_draining() -> None:
    talk = opened()
    refusal(
        talk, ask(talk), {"code": "UNAVAILABLE", "message": "Model catalog is not ready", "retryable": True}
    )
    assert talk.state is State.OPEN


def test_silence_is_measured_in_the_gateways_own_ticks() -> None:
    talk = opened(tick_ms=10_000)
    assert talk.silent_at == 20.0
    event(talk, "tick", 1)
    assert talk.silent_at == 21.0


def test_events_before_hello_are_not_for_us() -> None:
    talk = Conversation(0.0)
    assert event(talk, "health", 1, {}) == ()
    assert talk.state is State.OPENING


def test_a_second_challenge_is_the_other_sides_mistake() -> None:
    talk = Conversation(0.0)
    receive(talk, **CHALLENGE)
    with pytest.raises(RemoteProtocolError):
        receive(talk, **CHALLENGE)


def test_nothing_may_be_asked_before_hello() -> None:
    talk = Conversation(0.0)
    with pytest.raises(RuntimeError):
        ask(talk)
    with pytest.raises(RuntimeError):
        talk.ask("connect", {}, 0.0, 1)


def test_a_hello_of_a_protocol_that_was_not_offered_ends_it() -> None:
    talk = Conversation(0.0)
    receive(talk, **CHALLENGE)
    asked = talk.ask("connect", {}, 0.0, 10)
    with pytest.raises(RemoteProtocolError, match="protocol 9"):
        answer(talk, asked.id, HELLO | {"protocol": 9})
