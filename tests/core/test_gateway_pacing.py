import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.gateway_address import Address, BadAddress, parse_address
from ambientd.core.gateway import pacing

JITTER = st.floats(0, 1, exclude_max=True)


def test_pauses_double_from_one_second_to_thirty() -> None:
    state, pauses = pacing.Pace(), []
    for _ in range(8):
        state = pacing.began(state)
        pauses.append(pacing.pause(state, 0.999999))
    assert [round(one) for one in pauses] == [1, 2, 4, 8, 16, 30, 30, 30]


@given(st.integers(1, 10_000), JITTER)
def test_a_pause_is_at_least_half_of_the_plan_and_never_over_thirty_seconds(
    attempt: int, jitter: float
) -> None:
    assert 0.5 <= pacing.pause(pacing.Pace(attempt), jitter) <= 30.0


def test_jitter_spreads_the_pauses() -> None:
    spread = {pacing.pause(pacing.Pace(6), jitter / 10) for jitter in range(10)}
    assert len(spread) == 10


def test_only_a_link_that_stood_forgives() -> None:
    tired = pacing.Pace(5, 3)
    assert pacing.lasted(tired, 0.5).attempt == 5
    assert pacing.lasted(tired, 29.9).attempt == 5
    assert pacing.lasted(tired, 30.0) == pacing.Pace()


@given(st.one_of(st.none(), st.floats(0, 1e6)), JITTER)
def test_a_starting_gateway_is_asked_at_its_pace_for_a_while(told: float | None, jitter: float) -> None:
    state, pauses = pacing.Pace(10), []
    for _ in range(pacing.PATIENT_ATTEMPTS + 2):
        state, pause = pacing.starting_pause(state, told, jitter)
        pauses.append(pause)
    assert all(0.5 <= pause <= 2.5 for pause in pauses[:-2])
    assert min(pauses[-2:]) >= 15.0


@pytest.mark.parametrize(
    ("url", "dial", "port", "spelled"),
    [
        ("ws://127.0.0.1:18789", "127.0.0.1", 18789, "ws://127.0.0.1:18789"),
        ("ws://localhost:18789/", "127.0.0.1", 18789, "ws://localhost:18789"),
        ("ws://[::1]:9", "::1", 9, "ws://[::1]:9"),
        ("WS://127.0.0.1", "127.0.0.1", 80, "ws://127.0.0.1:80"),
        ("wss://Gate.example.net/x", "gate.example.net", 443, "wss://gate.example.net:443/x"),
    ],
)
def test_an_address_has_one_spelling(url: str, dial: str, port: int, spelled: str) -> None:
    found = parse_address(url)
    assert isinstance(found, Address)
    assert (found.dial, found.port, found.url) == (dial, port, spelled)


@pytest.mark.parametrize(
    "url",
    [
        "ws://gate.example.net:18789",
        "ws://192.0.2.7:18789",
        "ws://127.0.0.1.example.net",
        "ws://localhost.example.net",
        "ws://0.0.0.0:18789",
        "http://127.0.0.1:18789",
        "ws://user:pass@127.0.0.1",
        "ws://127.0.0.1:0",
        "ws://127.0.0.1:99999",
        "ws://127.0.0.1/?token=x",
        "ws://127.0.0.1/#x",
        "ws://",
        "127.0.0.1:18789",
        "",
        "ws://127.0.0.1 ",
        "ws://127.0.0.1/\r\nX: y",
        "ws://[::1",
    ],
)
def test_an_address_to_which_no_token_may_go_is_refused(url: str) -> None:
    assert isinstance(parse_address(url), BadAddress)


def test_the_operator_may_allow_an_open_line() -> None:
    found = parse_address("ws://gate.example.net:18789", allow_plain=True)
    assert isinstance(found, Address)
    assert not found.tls
