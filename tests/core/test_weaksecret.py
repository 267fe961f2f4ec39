import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.weaksecret import fault_of_secret

GOOD = "0f3a9c51d2e84b60a1c9d7e5f3b2a486"


@pytest.mark.parametrize(
    "value", [GOOD, "x" + GOOD, "correct horse battery staple and some more", "é" + GOOD]
)
def test_a_long_secret_is_taken(value: str) -> None:
    assert fault_of_secret(value, production=True) is None


@pytest.mark.parametrize(
    "value",
    [
        "change-me",
        "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME",
        "your-secret-here-your-secret-here-your",
        "placeholder placeholder placeholder",
        GOOD[:31],
        "a" * 64,
        "ab" * 32,
        "0" * 32,
    ],
)
def test_placeholders_short_and_monotonous_ones_are_for_development_only(value: str) -> None:
    assert fault_of_secret(value, production=True) is not None
    assert fault_of_secret(value, production=False) is None


@pytest.mark.parametrize("value", ["", " ", "\t\n", " " + GOOD, GOOD + " ", "a\nb" + GOOD, "a\x00b" + GOOD])
@pytest.mark.parametrize("production", [True, False])
def test_what_no_header_can_carry_is_never_taken(value: str, production: bool) -> None:
    assert fault_of_secret(value, production=production) is not None


@given(st.binary(min_size=32, max_size=32))
def test_random_tokens_are_taken(token: bytes) -> None:
    text = token.hex()
    if len(set(text)) >= 6:
        assert fault_of_secret(text, production=True) is None


@given(st.text(min_size=4, max_size=60))
def test_a_fault_never_repeats_the_secret(value: str) -> None:
    fault = fault_of_secret(value, production=True)
    if fault is not None and len(value) > 12:
        assert value not in fault
