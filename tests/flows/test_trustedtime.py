"""The mark of trusted time over restarts, and the operator's word."""

from pathlib import Path

import pytest

from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import to_ms
from ambientd.flows.trustedtime import SETTING, KeptTime
from ambientd.host.threads import run_inline
from ambientd.ports.errors import StoreFullError
from tests.fakes.store import TroubledStore
from tests.fakes.trustedtime import RELEASED_MS, START_MS, HandTime
from tests.store.kit import opened

DAY = 86_400_000


def kept(source: HandTime) -> KeptTime:
    return KeptTime(source, released_ms=RELEASED_MS)


async def test_before_it_is_read_every_bound_is_open(tmp_path: Path) -> None:
    time = kept(HandTime())
    found = time.look()
    assert (found.earliest_ms, found.latest_ms) == (RELEASED_MS, None)
    assert to_ms(time.now()) == START_MS
    assert time.doubt == "what this node has seen of time is not read yet"


async def test_a_clock_set_back_over_a_restart_makes_nothing_earlier(tmp_path: Path) -> None:
    source = HandTime()
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store:
        time = kept(source)
        assert await time.load(store)
        source.run(5 * DAY)
        assert time.doubt is None
        await time.save(store)
    source.reboot()
    source.wall_ms -= 4 * DAY
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store:
        again = kept(source)
        assert await again.load(store)
        assert to_ms(again.now()) == START_MS + 5 * DAY
        assert again.look().latest_ms is None
        assert again.doubt == "the wall clock is 4 d behind what this node has seen"
        answer = await again.accept(store, "uid:0")
        assert not isinstance(answer, Rejected)
        assert answer.audit_id == 1
        assert to_ms(again.now()) == START_MS + DAY
        (record,) = await store.read(lambda tx: tx.audit.records(0, 9))
        assert (record.kind, record.actor) == ("clock_accepted", "uid:0")
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store:
        once_more = kept(source)
        await once_more.load(store)
        assert once_more.doubt is None


async def test_the_kernel_is_asked_only_while_the_clock_is_in_doubt(tmp_path: Path) -> None:
    source = HandTime()
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store:
        time = kept(source)
        await time.load(store)
        source.run(DAY)
        time.look()
        assert source.asked == 0
        source.wall_ms += 30 * DAY
        assert "ahead" in (time.doubt or "")
        source.synchronised = True
        assert time.doubt is None
        assert time.look().earliest_ms == source.wall_ms


async def test_a_mark_that_cannot_be_read_waits_for_a_word(tmp_path: Path) -> None:
    source = HandTime()
    source.wall_ms += 300 * DAY
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store:
        await store.write(lambda tx: tx.settings.put(SETTING, "nonsense"))
        time = kept(source)
        assert not await time.load(store)
        assert time.look().latest_ms is None


async def test_a_clock_that_was_never_set_cannot_be_accepted(tmp_path: Path) -> None:
    source = HandTime()
    source.wall_ms = 5
    async with opened(tmp_path / "a.db", run_sync=run_inline) as store:
        time = kept(source)
        await time.load(store)
        answer = await time.accept(store, "uid:0")
        assert isinstance(answer, Rejected)
        assert answer.code == "CLOCK_IMPOSSIBLE"
        assert await store.read(lambda tx: tx.audit.records(0, 9)) == []


async def test_what_cannot_be_recorded_is_not_accepted(tmp_path: Path) -> None:
    source = HandTime()
    async with opened(tmp_path / "a.db", run_sync=run_inline) as real:
        store = TroubledStore(real)
        time = kept(source)
        await time.load(store)
        source.wall_ms -= DAY
        store.trouble = StoreFullError("full")
        with pytest.raises(StoreFullError):
            await time.accept(store, "uid:0")
        assert time.doubt is not None
