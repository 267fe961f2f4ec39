import gc

import trio
from trio.testing import MockClock

from ambientd.services.news import NewsBoard


async def test_all_watchers_of_a_session_wake_at_its_news_and_no_others(autojump_clock: MockClock) -> None:
    board = NewsBoard()
    heard: list[tuple[str, bool, float]] = []

    async def listen(name: str, watch: str) -> None:
        news = await board.watch(watch).wait(100)
        heard.append((name, news, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for name, watch in (("one", "a"), ("two", "a"), ("other", "b")):
            nursery.start_soon(listen, name, watch)
        await trio.sleep(5)
        board.tell("a")
    assert sorted(heard) == [("one", True, 5), ("other", False, 100), ("two", True, 5)]


async def test_news_between_taking_the_watch_and_waiting_are_not_missed(autojump_clock: MockClock) -> None:
    board = NewsBoard()
    watch = board.watch("a")
    board.tell("a")
    assert await watch.wait(100)
    assert trio.current_time() == 0


async def test_a_watch_hears_only_what_comes_after_it(autojump_clock: MockClock) -> None:
    board = NewsBoard()
    board.tell("a")
    early = board.watch("a")
    board.tell("a")
    late = board.watch("a")
    assert await early.wait(1)
    assert not await late.wait(1)


async def test_nothing_is_kept_of_watches_that_are_over_or_never_waited(autojump_clock: MockClock) -> None:
    board = NewsBoard()
    for number in range(1000):
        board.watch(f"ses_{number}")
    gc.collect()
    assert len(board) == 0
    watch = board.watch("a")
    assert len(board) == 1
    await watch.wait(1)
    with trio.move_on_after(1):
        await watch.wait(10)
    del watch
    await trio.lowlevel.checkpoint()
    gc.collect()
    assert len(board) == 0


async def test_one_watcher_giving_up_does_not_make_the_others_deaf(autojump_clock: MockClock) -> None:
    board = NewsBoard()
    patient, hasty = board.watch("a"), board.watch("a")
    assert not await hasty.wait(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 5)

        async def tell() -> None:
            await trio.sleep(2)
            board.tell("a")

        nursery.start_soon(tell)
        assert await patient.wait(100)
    assert trio.current_time() == 6
