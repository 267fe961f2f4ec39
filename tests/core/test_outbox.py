"""What an answer means, when to try again, what goes when there is no room."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.controlreply import number_in, parse_retry_after, read_reply, words_of
from ambientd.core.outbox import (
    CHANGE,
    HEAD_SHARE,
    LONGEST_PAUSE_SEC,
    NEWEST_KEPT,
    ORDER,
    ORDINARY,
    RETRY_AFTER_MAX_SEC,
    Meaning,
    Reply,
    away_ms,
    beat_due,
    confirmed,
    meaning_of,
    next_stream,
    pause_after,
    too_many,
)
from ambientd.core.outboxrecords import Contact, ReportMark
from ambientd.core.trustedtime import Trusted
from ambientd.wire.outbox_enums import OutboxStream

MINUTE = 60_000


def marks(count: int, *, size: int = 100, changes: frozenset[int] = frozenset()) -> list[ReportMark]:
    return [
        ReportMark(n, n * MINUTE, CHANGE if n in changes else ORDINARY, size) for n in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        (200, "", Meaning.DONE),
        (201, "", Meaning.DONE),
        (302, "", Meaning.AGAIN),
        (307, "", Meaning.AGAIN),
        (400, "VALIDATION_ERROR", Meaning.REFUSED),
        (401, "NOT_AUTHENTICATED", Meaning.GONE),
        (403, "", Meaning.AGAIN),
        (404, "NOT_FOUND", Meaning.UNKNOWN),
        (409, "CONFLICT", Meaning.BEHIND),
        (409, "REPLAYED", Meaning.REPLAYED),
        (413, "PAYLOAD_TOO_LARGE", Meaning.TOO_LARGE),
        (429, "TOO_MANY_REQUESTS", Meaning.AGAIN),
        (500, "INTERNAL_ERROR", Meaning.AGAIN),
        (503, "NOT_READY", Meaning.AGAIN),
    ],
)
def test_what_an_answer_comes_to(status: int, code: str, meaning: Meaning) -> None:
    assert meaning_of(Reply(status, code)) is meaning


@given(st.integers(0, 60), st.floats(0, 0.999999), st.none() | st.floats(0.1, 1e6))
def test_a_pause_is_bounded_and_never_shorter_than_was_asked_for(
    failures: int, share: float, asked: float | None
) -> None:
    pause = pause_after(failures, share, asked)
    assert 0 <= pause <= RETRY_AFTER_MAX_SEC + LONGEST_PAUSE_SEC
    if asked is None:
        assert pause <= LONGEST_PAUSE_SEC
    else:
        assert pause >= min(asked, RETRY_AFTER_MAX_SEC)


def test_pauses_double_up_to_their_bound_and_use_all_of_it() -> None:
    highest = [pause_after(n, 0.999999) for n in range(1, 12)]
    assert highest == sorted(highest)
    assert round(highest[0]) == 2
    assert round(highest[1]) == 4
    assert round(highest[-1]) == LONGEST_PAUSE_SEC
    assert pause_after(11, 0.0) == 0.0


def test_results_go_first_and_old_reports_last() -> None:
    waiting = dict.fromkeys(OutboxStream, 1)
    found: list[OutboxStream] = []
    while (stream := next_stream(waiting, frozenset(found))) is not None:
        found.append(stream)
    assert tuple(found) == ORDER
    assert next_stream({OutboxStream.AUDIT: 0}, frozenset()) is None


@given(st.lists(st.integers(1, 50), min_size=1, unique=True), st.integers(0, 80), st.integers(0, 60))
def test_nothing_beyond_what_was_sent_is_ever_confirmed(sent: list[int], acked: int, given_: int) -> None:
    sent.sort()
    found = confirmed(sent, acked, given_)
    if acked > max(given_, sent[-1]):
        assert found is None
    else:
        assert found == min(acked, sent[-1])


def test_reports_are_spread_over_a_tenth_around_their_interval() -> None:
    assert beat_due(100.0, 60.0, 0.0) == 154.0
    assert beat_due(100.0, 60.0, 0.999999) == pytest.approx(166.0, abs=0.001)


# --- no room


def test_all_that_fits_stays() -> None:
    assert too_many(marks(10), bytes_max=1000) == []


def kept_after(count: int, room: int, changes: frozenset[int] = frozenset()) -> list[ReportMark]:
    """An outage: one report after another, each making room as it comes."""
    kept: list[ReportMark] = []
    dropped = 0
    for mark in marks(count, changes=changes):
        kept.append(mark)
        gone = set(too_many(kept, bytes_max=room))
        dropped += len(gone)
        kept = [one for one in kept if one.seq not in gone]
        assert sum(one.bytes for one in kept) <= room
    assert dropped + len(kept) == count
    return kept


def test_an_outage_of_three_days_and_sixteen_hours_at_ten_times_the_bound() -> None:
    """N7: exact and counted, and the first hours are all there."""
    count, room = 88 * 60, 528 * 100
    kept = kept_after(count, room)
    numbers = [one.seq for one in kept]
    head = int(528 * HEAD_SHARE)
    assert numbers[:head] == list(range(1, head + 1))  # the first four and a half hours, every minute
    assert numbers[-NEWEST_KEPT:] == list(range(count - NEWEST_KEPT + 1, count + 1))
    # What is left of the rest is spread over all of it: no hole is longer than an eighth of the outage.
    rest = numbers[head - 1 :]
    assert max(b - a for a, b in itertools.pairwise(rest)) <= count / 8
    assert len(kept) >= 528 * 14 // 16


def test_what_says_something_new_is_kept_longer() -> None:
    changes = frozenset({700, 1234, 2000, 3000})
    kept = {one.seq for one in kept_after(88 * 60, 528 * 100, changes)}
    assert changes <= kept


@given(
    st.lists(st.tuples(st.integers(1, 400), st.sampled_from([ORDINARY, CHANGE])), min_size=1, max_size=60),
    st.integers(100, 3000),
)
def test_room_is_always_made_and_never_at_the_cost_of_the_newest(
    shapes: list[tuple[int, int]], room: int
) -> None:
    found = [ReportMark(n, n * MINUTE, priority, size) for n, (size, priority) in enumerate(shapes, 1)]
    gone = too_many(found, bytes_max=room)
    assert len(gone) == len(set(gone))
    assert found[-1].seq not in gone
    left = [mark for mark in found if mark.seq not in set(gone)]
    if sum(mark.bytes for mark in found) <= room:
        assert not gone
    elif found[-1].bytes <= room * (1 - HEAD_SHARE):
        assert sum(mark.bytes for mark in left) <= room


# --- answers


def test_a_refusal_is_read_with_its_numbers() -> None:
    body = (
        b'{"error":{"code":"REPLAYED","message":"used","details":[{"field":"sequence","issue":"replayed",'
        b'"message":"x","expected":"41"}],"requestId":"r"}}'
    )
    reply = read_reply(409, {}, body)
    assert (reply.code, number_in(reply, "sequence"), number_in(reply, "head_seq")) == ("REPLAYED", 41, None)
    assert words_of(reply) == "answered 409 REPLAYED: used"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":1}', b"\xff", b"[" * 100_000])
def test_whatever_stands_in_for_a_refusal_is_read(body: bytes) -> None:
    reply = read_reply(502, {"retry-after": "7"}, body)
    assert (reply.status, reply.code, reply.retry_after) == (502, "", 7.0)


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("120", None, 120.0),
        (" 0 ", None, 0.0),
        ("Fri, 20 Nov 2026 12:02:00 GMT", "Fri, 20 Nov 2026 12:00:00 GMT", 120.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", "Fri, 20 Nov 2026 12:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 12:02:00 GMT", None, None),
        ("-5", None, None),
        ("1e9", None, None),
        ("99999999999999", None, None),
        ("soon", "Fri, 20 Nov 2026 12:00:00 GMT", None),
        (None, None, None),
    ],
)
def test_retry_after(text: str | None, date: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, date) == seconds


def test_a_redirect_says_that_it_is_not_followed() -> None:
    assert "redirects are not followed" in words_of(Reply(302))


# --- time without the control plane


def trusted(**fields: Any) -> Trusted:
    facts: dict[str, Any] = {
        "earliest_ms": 1_000_000,
        "latest_ms": None,
        "now_ms": 1_000_000,
        "boot_ms": 50_000,
        "boot_id": "a",
    }
    return Trusted(**(facts | fields))


def test_within_one_boot_the_boot_clock_counts_whatever_the_wall_clock_does() -> None:
    contact = Contact(at_ms=900_000, boot_id="a", boot_ms=20_000)
    assert away_ms(contact, trusted(now_ms=5)) == 30_000
    assert away_ms(contact, trusted(now_ms=10**12)) == 30_000


def test_over_a_start_of_the_machine_the_later_of_the_clocks_counts() -> None:
    contact = Contact(at_ms=900_000, boot_id="b", boot_ms=20_000)
    assert away_ms(contact, trusted()) == 100_000
    assert away_ms(contact, trusted(now_ms=800_000)) == 0
    assert away_ms(None, trusted()) == 0
