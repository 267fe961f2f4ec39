from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.timefmt import from_ms, parse_rfc3339, rfc3339_ms, to_ms

AT = datetime(2026, 11, 20, 15, 40, 3, 120_999, tzinfo=UTC)


def test_instants_are_written_in_utc_and_cut_to_milliseconds() -> None:
    assert rfc3339_ms(AT) == "2026-11-20T15:40:03.120Z"
    assert rfc3339_ms(AT.astimezone(timezone(timedelta(hours=5, minutes=30)))) == "2026-11-20T15:40:03.120Z"
    assert rfc3339_ms(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00.000Z"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        rfc3339_ms(AT.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-20T15:40:03.120999Z", AT),
        ("2026-11-20t15:40:03.1209999999z", AT),
        ("2026-11-20 21:10:03.120999+05:30", AT),
        ("2026-11-20T15:40:03-00:00", AT.replace(microsecond=0)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_rfc_3339_is_read(text: str, at: datetime) -> None:
    assert parse_rfc3339(text) == at


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-20",
        "2026-11-20T15:40:03",
        "2026-13-20T15:40:03Z",
        "2026-11-20T25:40:03Z",
        "2026-11-20T15:40:61Z",
        "2026-11-20T15:40:03+24:00",
        "2026-11-20T15:40:03.Z",
        "٢٠٢٦-11-20T15:40:03Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:60Z",
        "2026-11-20T15:40:03Z\n",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text + "x")


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_milliseconds_and_text_keep_the_instant(ms: int) -> None:
    at = from_ms(ms)
    assert to_ms(at) == ms
    assert parse_rfc3339(rfc3339_ms(at)) == at


def test_milliseconds_past_the_calendar_are_refused() -> None:
    with pytest.raises(ValueError, match="years"):
        from_ms(10**18)
