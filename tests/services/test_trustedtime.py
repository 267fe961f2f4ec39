"""When the mark is written: at the start, every ten minutes, at the end, and again after a failure."""

from pathlib import Path

import trio
from trio.testing import MockClock

from ambientd.flows.trustedtime import SETTING, KeptTime
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreBusyError
from ambientd.services.trustedtime import EVERY_SEC, TrustedTimeService
from tests.fakes.log import ListLog
from tests.fakes.store import TroubledStore
from tests.fakes.trustedtime import RELEASED_MS, HandTime
from tests.store.kit import opened


async def test_the_mark_is_written_now_and_then_and_at_the_end(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with opened(tmp_path / "a.db", run_sync=run_inline) as real, trio.open_nursery() as nursery:
        store, log, source, writes = TroubledStore(real), ListLog(), HandTime(), [0]

        def count() -> None:
            writes[0] += 1

        store.after_write = count
        noticed: list[str | None] = []
        time = KeptTime(source, released_ms=RELEASED_MS, noticed=noticed.append)

        async def kept() -> str:
            return await real.read(lambda tx: tx.settings.get(SETTING)) or ""

        nursery.start_soon(TrustedTimeService(time=time, store=store, log=log).run)
        await trio.sleep(1)
        first = await kept()
        assert writes == [1]
        source.run(3_600_000)
        await trio.sleep(EVERY_SEC)
        assert (writes, first != await kept()) == ([2], True)
        store.trouble = StoreBusyError("held")
        await trio.sleep(EVERY_SEC)
        assert log.events() == ["clock.mark_unwritten"]
        store.trouble = None
        source.wall_ms -= 600_000
        assert time.doubt is not None
        assert time.doubt is not None
        source.wall_ms += 600_000
        assert [time.doubt, *noticed] == [None, "the wall clock is 10 m behind what this node has seen", None]
        before = await kept()
        source.run(1_000)
        nursery.cancel_scope.cancel()
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store_again:
        assert before != await store_again.read(lambda tx: tx.settings.get(SETTING))


async def test_a_store_that_cannot_be_read_is_asked_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with opened(tmp_path / "a.db", run_sync=run_inline) as real, trio.open_nursery() as nursery:
        store, log = TroubledStore(real), ListLog()
        await real.write(lambda tx: tx.settings.put(SETTING, "{"))
        time = KeptTime(HandTime(), released_ms=RELEASED_MS)
        store.trouble, store.reads_too = StoreBusyError("held"), True
        nursery.start_soon(TrustedTimeService(time=time, store=store, log=log).run)
        await trio.sleep(15)
        assert set(log.events()) == {"clock.mark_unread"}
        store.trouble = None
        await trio.sleep(15)
        assert log.events()[-1] == "clock.mark_unreadable"
        nursery.cancel_scope.cancel()
