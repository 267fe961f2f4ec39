"""Sweeps at their intervals: apart from each other, whatever one of them does."""

import trio

from ambientd.ports.errors import UnavailableError
from ambientd.services.fleet_sweeps import LONGEST, Sweep, SweepsService
from tests.fakes.log import ListLog


async def test_each_sweep_keeps_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    times: dict[str, list[float]] = {"often": [], "seldom": []}

    def sweep(name: str, interval: float) -> Sweep:
        async def run() -> None:
            times[name].append(trio.current_time())

        return Sweep(name=name, interval=interval, run=run)

    service = SweepsService([sweep("often", 10), sweep("seldom", 100)], jitter=lambda: 0.5, log=ListLog())
    with trio.move_on_after(101):
        await service.run()
    assert times == {"often": [10.0 * n for n in range(1, 11)], "seldom": [100.0]}


async def test_times_are_spread_so_that_processes_do_not_keep_step(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times: list[float] = []

    async def run() -> None:
        times.append(trio.current_time())

    shares = iter([0.0, 0.999, 0.5] * 2)
    service = SweepsService(
        [Sweep(name="s", interval=10, run=run)], jitter=lambda: next(shares), log=ListLog()
    )
    with trio.move_on_after(30.1):
        await service.run()
    assert [round(time, 1) for time in times] == [9.0, 20.0, 30.0]


async def test_a_database_that_is_away_costs_one_line_and_a_hung_sweep_its_own_time_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log, good = ListLog(), []

    async def away() -> None:
        raise UnavailableError("away")

    async def hung() -> None:
        await trio.sleep_forever()

    async def fine() -> dict[str, object]:
        good.append(1)
        return {"changed": 1}

    sweeps = [Sweep(name=run.__name__, interval=10, run=run) for run in (away, hung, fine)]
    with trio.move_on_after(LONGEST + 25):
        await SweepsService(sweeps, jitter=lambda: 0.5, log=log).run()
    assert len(good) == (LONGEST + 20) // 10
    assert log.events().count("sweep.failed") == 1
    assert log.events().count("sweep.cut") == 1
    assert log.events().count("sweep.done") == len(good)
