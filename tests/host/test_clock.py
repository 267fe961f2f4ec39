from datetime import UTC, datetime, timedelta

from ambientd.host.clock import SystemClock, UlidIds
from ambientd.ports.clock import Clock, Ids

AT = datetime(2026, 11, 20, 15, 40, 3, 120_000, tzinfo=UTC)
ALPHABET = set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_the_clock_is_aware_and_its_monotonic_side_never_goes_back() -> None:
    clock: Clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=30)
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_a_session_id_is_a_ulid_with_a_prefix() -> None:
    ids: Ids = UlidIds()
    made = ids.session_id(AT)
    assert made.startswith("ses_")
    assert len(made) == 30
    assert set(made[4:]) <= ALPHABET


def test_the_time_is_encoded_as_the_ulid_specification_says() -> None:
    ids = UlidIds(lambda count: b"\xff" * count)
    assert ids.ulid(datetime.fromtimestamp(1469918176.385, UTC))[:10] == "01ARYZ6S41"
    assert UlidIds(bytes).ulid(AT)[10:] == "0" * 16


def test_ids_sort_by_time_and_go_up_within_a_millisecond() -> None:
    ids = UlidIds()
    made = [ids.ulid(AT + timedelta(milliseconds=step // 1000)) for step in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_the_largest_randomness_leaves_room_to_count() -> None:
    ids = UlidIds(lambda count: b"\xff" * count)
    made = [ids.ulid(AT) for _ in range(3)]
    assert made == sorted(set(made))
    assert len({text[:10] for text in made}) == 1


def test_a_clock_that_steps_back_gives_ids_of_its_new_time() -> None:
    ids = UlidIds()
    later, earlier = ids.ulid(AT), ids.ulid(AT - timedelta(hours=1))
    assert earlier < later


def test_instants_before_1970_do_not_break_ids() -> None:
    assert UlidIds(bytes).ulid(datetime(1969, 1, 1, tzinfo=UTC)) == "0" * 26
