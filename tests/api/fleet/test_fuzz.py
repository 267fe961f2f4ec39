"""The short form of `tests/fuzz/fleet_api.py`."""

from tests.fuzz.fleet_api import fuzz
from tests.store.fleet.kit import Place

COUNT = 2_000


async def test_two_thousand_requests_from_the_description_do_no_harm(place: Place) -> None:
    outcomes = await fuzz(place, COUNT, 11, lambda _line: None)
    for status in ("200", "201", "400", "401", "403", "404", "409"):
        assert outcomes[status] > 5, outcomes
    assert outcomes["501"] > 0, outcomes
