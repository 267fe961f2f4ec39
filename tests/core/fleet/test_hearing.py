"""Silence counts only while somebody listens."""

from datetime import UTC, datetime, timedelta

from ambientd.core.fleet.hearing import Hearing

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Ears:
    """A process that looks every 15 seconds, unless told otherwise."""

    def __init__(self) -> None:
        self.hearing = Hearing(60.0)
        self.wall = 0.0
        self.boot = 1_000.0

    def look(self, *, answered: bool = True) -> float:
        """Since when it hears, in seconds of the wall clock."""
        now = AT + timedelta(seconds=self.wall)
        since = self.hearing.since(now, self.boot)
        if answered:
            self.hearing.looked(now, self.boot)
        return (since - AT).total_seconds()

    def later(self, seconds: float, *, answered: bool = True) -> float:
        self.wall += seconds
        self.boot += seconds
        return self.look(answered=answered)


def test_it_hears_from_its_first_look_on() -> None:
    ears = Ears()
    assert ears.look() == 0
    assert [ears.later(15) for _ in range(100)] == [0] * 100


def test_looks_that_were_missed_or_failed_begin_anew() -> None:
    ears = Ears()
    ears.look()
    assert ears.later(59) == 0
    assert ears.later(61) == 120, "the process stood still"
    for _ in range(4):
        assert ears.later(15, answered=False) == 120
    assert ears.later(15, answered=False) == 195, "the database was away"
    assert ears.later(15) == 195


def test_a_clock_that_is_set_begins_anew() -> None:
    for step in (86_400.0, -86_400.0, 10 * 366 * 86_400.0):
        ears = Ears()
        ears.look()
        ears.later(15)
        ears.wall += step
        assert ears.later(15) == 30 + step
        assert ears.later(15) == 30 + step
    ears = Ears()
    ears.look()
    for _ in range(100):
        ears.wall += 20  # slewed
        assert ears.later(15) == 0
