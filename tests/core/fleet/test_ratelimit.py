from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.fleet.ratelimit import DEFAULT_RATES, Rate, RateLimiter, Tier, client_of, tier_of

RATES = {**DEFAULT_RATES, Tier.AUTH: Rate(60, 3)}


def test_a_burst_passes_and_then_one_a_second() -> None:
    limiter = RateLimiter(RATES)
    assert [limiter.take(Tier.AUTH, "a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take(Tier.AUTH, "a", 0.25) == 0.75
    assert limiter.take(Tier.AUTH, "a", 1.0) == 0.0


def test_clients_and_tiers_do_not_share() -> None:
    limiter = RateLimiter(RATES)
    for _ in range(4):
        limiter.take(Tier.AUTH, "a", 0.0)
    assert limiter.take(Tier.AUTH, "b", 0.0) == limiter.take(Tier.NODE, "a", 0.0) == 0.0


@given(st.lists(st.floats(0, 600), max_size=200))
def test_never_more_than_the_rate_whatever_the_times(times: list[float]) -> None:
    limiter = RateLimiter(RATES)
    passed = sum(limiter.take(Tier.AUTH, "a", at) == 0.0 for at in sorted(times))
    assert passed <= 3 + (max(times, default=0.0) - min(times, default=0.0))


def test_a_clock_that_goes_back_gives_nothing() -> None:
    limiter = RateLimiter(RATES)
    for _ in range(3):
        limiter.take(Tier.AUTH, "a", 100.0)
    assert limiter.take(Tier.AUTH, "a", 50.0) > 0


def test_the_table_is_bounded() -> None:
    limiter = RateLimiter(RATES, clients_max=10)
    for number in range(1000):
        limiter.take(Tier.AUTH, str(number), 0.0)
    assert len(limiter) == 10


def test_what_counts_as_what() -> None:
    assert tier_of("POST", "/api/v1/auth/login", device=False) is Tier.AUTH
    assert tier_of("POST", "/api/v1/auth/login", device=True) is Tier.AUTH  # a token in a header buys nothing
    assert tier_of("POST", "/api/v1/auth/refresh", device=False) is Tier.GENERAL
    assert tier_of("POST", "/api/v1/nodes", device=False) is Tier.NODE
    assert tier_of("PUT", "/api/v1/nodes/n/heartbeat", device=False) is Tier.GENERAL
    assert tier_of("PUT", "/api/v1/nodes/n/heartbeat", device=True) is Tier.DEVICE
    assert tier_of("POST", "/api/v1/tasks", device=False) is Tier.TASK


def test_looking_takes_nothing() -> None:
    limiter = RateLimiter(RATES)
    assert limiter.wait(Tier.AUTH, "a", 0.0) == 0.0
    for _ in range(3):
        assert limiter.wait(Tier.AUTH, "a", 0.0) == 0.0
        limiter.take(Tier.AUTH, "a", 0.0)
    assert limiter.wait(Tier.AUTH, "a", 0.5) == 0.5


def test_a_whole_network_of_ipv6_is_one_client() -> None:
    home = {client_of(f"2001:db8:1:2::{n:x}") for n in range(1, 100)}
    home |= {client_of("2001:0DB8:1:2:ffff:0:0:1"), client_of("2001:db8:1:2::1%eth0")}
    assert len(home) == 1
    assert client_of("2001:db8:1:3::1") not in home
    assert client_of("::ffff:192.0.2.7") == client_of("192.0.2.7") == "192.0.2.7"
    assert client_of("::1") != client_of("127.0.0.1")
    assert client_of("no address: at all") == "no address: at all"
    assert client_of(None) == client_of(None)
