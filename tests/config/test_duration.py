import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.duration import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("90d", 90 * 86400.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("2w", 14 * 86400.0),
        ("1m1ms", 60.001),
        ("0s", 0.0),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "60", "5 m", "m", "1m1h", "1m1m", "-5s", "1e3s", "٣s", "1M", "1s ", "9" * 40 + "s", "s1"]
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(60, "60s"), (90, "90s"), (300, "5m"), (5400, "1h30m"), (0.25, "250ms"), (7776000, "90d"), (0, "0s")],
)
def test_durations_are_spelled_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_there_is_no_spelling_for_what_is_no_duration(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        format_duration(seconds)


@given(st.integers(0, 10**13))
def test_a_duration_survives_spelling_and_reading(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64KiB", 65536),
        ("10MB", 10_000_000),
        ("1.5GiB", 3 * 2**29),
        ("7B", 7),
        ("12", 12),
        (4096, 4096),
        ("1 GB", 10**9),
        ("4kib", 4096),
    ],
)
def test_sizes_have_decimal_and_binary_units(value: str | int, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("text", ["", "64K", "KiB", "-1KB", "1.0001KB", "1e3", "²KB", "1KBB", "9" * 30])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_a_size_survives_spelling_and_reading(size: int) -> None:
    assert parse_size(format_size(size)) == size
