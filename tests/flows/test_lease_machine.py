"""Any order of traffic, time, clocks, restarts and crashes: never more bytes, never longer, never again."""

from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.trustedtime import START_MS, HandTime
from tests.flows.leaserig import LEASES, LeaseRig, leased
from tests.leasekit import DAY, HOUR

EXP = START_MS + 6 * HOUR
BYTES_MAX = 40_000_000
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("meter"), st.integers(0, 3_000_000)),
        st.tuples(st.just("run"), st.integers(0, 20 * 60_000)),
        st.tuples(st.just("wall"), st.sampled_from([DAY, -DAY, 3650 * DAY, -START_MS, HOUR, -HOUR])),
        st.tuples(st.just("right"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
        st.tuples(st.just("reboot"), st.integers(0, 30 * 60_000)),
        st.tuples(st.just("sweep"), st.just(0)),
        st.tuples(st.just("activate"), st.just(0)),
    ),
    max_size=25,
)


class Truth:
    """What really happened, whatever the node thinks."""

    def __init__(self) -> None:
        self.source = HandTime()
        self.true = START_MS
        self.sent = 0
        self.began: int | None = None
        self.confirmed = True  # the clock was right when this boot first looked at it

    def allowed(self) -> int:
        if self.began is None:
            return 0
        lasted = min(self.true - self.began, HOUR)
        return min(BYTES_MAX, 8 * 125 * max(1_000, lasted))


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_a_lease_is_never_more_than_was_signed(steps: list[tuple[str, int]]) -> None:
    trio.run(_play, steps)


async def _play(steps: list[tuple[str, int]]) -> None:
    truth = Truth()
    with TemporaryDirectory() as folder:
        async with leased(Path(folder) / "a.db", truth.source) as rig:
            activated = 0
            for name, value in [("activate", 0), *steps]:
                activated += await _step(rig, truth, name, value)
                assert activated <= 1
                # At most what the rate gives for the time since the activation; a wall clock that ran ahead
                # over a start of the machine counts as time that passed, within the duration.
                assert truth.sent <= min(BYTES_MAX, 8 * 125 * HOUR)
                assert truth.sent <= truth.allowed() or not truth.confirmed


async def _step(rig: LeaseRig, truth: Truth, name: str, value: int) -> int:
    source = truth.source
    match name:
        case "activate":
            item = LEASES.lease(exp=EXP, max_bytes=BYTES_MAX)
            if await rig.activate(item) != "ok":
                return 0
            truth.began = truth.true
            return 1
        case "meter":
            await _meter(rig, truth, value)
        case "run":
            source.run(value)
            truth.true += value
        case "wall":
            source.wall_ms += value
        case "right":
            source.wall_ms = truth.true
        case "sweep":
            await rig.leases.sweep()
        case _:
            _go_down(rig, truth, name, value)
    return 0


def _go_down(rig: LeaseRig, truth: Truth, name: str, value: int) -> None:
    if name == "reboot":
        truth.source.reboot(value)
        truth.true += value
        truth.confirmed = truth.confirmed and truth.source.wall_ms == truth.true
    rig.again()  # nothing was written at the end: kill -9


async def _meter(rig: LeaseRig, truth: Truth, count: int) -> None:
    if await rig.meter(count) != "allowed":
        return
    assert truth.began is not None
    truth.sent += count
    if truth.confirmed:
        assert truth.true < EXP
        assert truth.true - truth.began < HOUR
