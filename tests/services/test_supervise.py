import pytest
import trio
from trio.testing import MockClock

from ambientd.services.bell import Bell
from ambientd.services.supervise import GOOD_RUN_SEC, LONGEST_PAUSE_SEC, run_to_end, supervise
from tests.fakes.log import ListLog


class Service:
    """Crashes when it has run for the next of `lives`; the last life ends well."""

    def __init__(self, *lives: float) -> None:
        self.lives = list(lives)
        self.began: list[float] = []

    async def run(self) -> None:
        self.began.append(trio.current_time())
        await trio.sleep(self.lives.pop(0))
        if self.lives:
            raise RuntimeError("crashed")


async def test_a_service_that_returns_is_not_started_again(autojump_clock: MockClock) -> None:
    service, log = Service(10), ListLog()
    await supervise("s", service.run, log)
    assert (service.began, log.lines) == ([0], [])


async def test_pauses_between_crashes_double_up_to_a_minute(autojump_clock: MockClock) -> None:
    service, log = Service(*[0.0] * 12), ListLog()
    await supervise("s", service.run, log)
    gaps = [after - before for before, after in zip(service.began, service.began[1:], strict=False)]
    assert gaps == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert max(gaps) == LONGEST_PAUSE_SEC
    assert log.events() == ["service.crashed"] * 11
    assert log.lines[0][2]["service"] == "s"
    assert isinstance(log.lines[0][2]["exc_info"], BaseExceptionGroup)


async def test_after_a_good_run_the_pauses_begin_anew(autojump_clock: MockClock) -> None:
    service, log = Service(0, 0, 0, 0, GOOD_RUN_SEC + 1, 0), ListLog()
    await supervise("s", service.run, log)
    assert [facts["retry_in_sec"] for _, _, facts in log.lines] == [0.5, 1, 2, 4, 0.5]


async def test_cancelling_ends_it_while_it_runs_and_while_it_pauses(autojump_clock: MockClock) -> None:
    for service in (Service(1000.0), Service(*[0.0] * 100)):
        with trio.move_on_after(100) as scope:
            await supervise("s", service.run, ListLog())
        assert scope.cancelled_caught
        assert trio.current_time() % 100 == 0


async def test_an_error_in_a_finally_during_shutdown_is_taken_and_the_cancellation_goes_on(
    autojump_clock: MockClock,
) -> None:
    log = ListLog()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("in a finally")

    with trio.move_on_after(5) as scope:
        await supervise("s", run, log)
    assert scope.cancelled_caught
    assert log.events() == ["service.crashed"]


async def test_a_whole_group_of_crashes_is_one_crash(autojump_clock: MockClock) -> None:
    log = ListLog()
    lives = [True, False]

    async def run() -> None:
        if not lives.pop(0):
            return
        raise ExceptionGroup("both", [ValueError("a"), OSError("b")])

    await supervise("s", run, log)
    assert log.events() == ["service.crashed"]


def test_the_program_s_crash_is_kept_and_an_interrupt_passes() -> None:
    def crash() -> str:
        raise ValueError("x")

    def interrupt() -> str:
        raise KeyboardInterrupt

    reason, group = run_to_end(crash)
    assert reason == "crashed"
    assert group is not None
    assert run_to_end(lambda: "SIGTERM") == ("SIGTERM", None)
    with pytest.raises(KeyboardInterrupt):
        run_to_end(interrupt)


async def test_a_bell_rung_while_nobody_waits_is_heard_once(autojump_clock: MockClock) -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with trio.move_on_after(50) as scope:
        await bell.wait()
    assert scope.cancelled_caught
    await bell.wait(until=trio.current_time() + 7)
    assert trio.current_time() == 57
