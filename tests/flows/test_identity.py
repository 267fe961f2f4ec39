"""Binding and renewing the identity: the intent is recorded before, and a crash on the way loses nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ambientd.core.identity import parse_rollover
from ambientd.core.rejection import Rejected
from ambientd.flows.audit import prune
from ambientd.flows.identity import Identifying, keep, note_rollover, renew, show
from ambientd.host.identity import FileIdentity
from ambientd.host.threads import run_inline
from ambientd.ports.errors import IdentityError, StoreFullError
from ambientd.wire.identity_messages import IdentityView
from tests.core.auditkit import SEED
from tests.fakes.clock import TrioWallClock
from tests.fakes.identity import SeedIdentity
from tests.fakes.store import CrashError, TroubledStore
from tests.store.kit import new_session, opened, sql_of

HERE, THERE = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


class Rig:
    def __init__(self, folder: Path, store: TroubledStore) -> None:
        self.folder = folder
        self.store = store
        self.file = self.loaded(HERE)

    def loaded(self, host: str) -> FileIdentity:
        self.file = FileIdentity(self.folder, host_id=host, environ={}, run_sync=run_inline)
        self.file.load()
        return self.file

    @property
    def identifying(self) -> Identifying:
        return Identifying(store=self.store, clock=TrioWallClock(), identity=self.file)

    def kinds(self) -> list[str]:
        rows = sql_of(self.folder / "ambient.db", "SELECT kind FROM audit_records ORDER BY seq")
        return [kind for (kind,) in rows]


@asynccontextmanager
async def rigged(folder: Path) -> AsyncIterator[Rig]:
    async with opened(folder / "ambient.db", run_sync=run_inline) as store:
        yield Rig(folder, TroubledStore(store))


async def test_a_copy_is_kept_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with rigged(tmp_path) as rig:
        rig.loaded(THERE)
        first = await keep(rig.identifying, actor="uid:0")
        again = await keep(rig.identifying, actor="uid:0")
        assert isinstance(first, IdentityView)
        assert isinstance(again, IdentityView)
        assert (first.changed, first.audit_id, first.usable) == (True, 2, True)
        assert (again.changed, again.audit_id) == (False, None)
        assert rig.kinds() == ["identity.keep", "identity.kept"]


async def test_every_key_is_shown_with_the_statement_that_it_was_followed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        keys = [rig.file.public_key]
        for _ in range(3):
            answer = await renew(rig.identifying, actor="uid:0")
            assert isinstance(answer, IdentityView)
            assert answer.previous is not None
            keys.append(rig.file.public_key)
            await trio.sleep(1)
        seen = await show(rig.identifying)
        assert len(set(keys)) == 4
        assert [one.genuine for one in seen.rollovers] == [True] * 3
        found = [parse_rollover(one.statement) for one in seen.rollovers]
        assert [one.old_key for one in found if one] == keys[:3]
        assert [one.new_key for one in found if one] == keys[1:]
        assert rig.kinds() == ["identity.renew", "identity.renewed"] * 3


async def test_without_a_record_of_the_intent_nothing_is_changed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        rig.loaded(THERE)
        before = (tmp_path / "identity.key").read_bytes()
        rig.store.trouble = StoreFullError("full")
        for act in (keep, renew):
            with pytest.raises(StoreFullError):
                await act(rig.identifying, actor="uid:0")
        assert (tmp_path / "identity.key").read_bytes() == before


async def test_a_crash_between_the_key_and_its_record_is_made_up_for_at_the_next_start(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        old = rig.file.public_key

        real = rig.file.renew

        async def renewed_then_gone(at: datetime) -> Path | None:
            await real(at)
            raise CrashError

        rig.file.renew = renewed_then_gone  # type: ignore[method-assign]
        with pytest.raises(CrashError):
            await renew(rig.identifying, actor="uid:0")
        rig.loaded(HERE)
        assert rig.file.public_key != old
        assert rig.kinds() == ["identity.renew"]
        await note_rollover(rig.identifying)
        await note_rollover(rig.identifying)
        assert rig.kinds() == ["identity.renew", "identity.renewed"]
        (rollover,) = (await show(rig.identifying)).rollovers
        assert rollover.genuine


async def test_a_key_that_cannot_be_changed_is_refused_and_recorded(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    class Fixed(SeedIdentity):
        async def renew(self, at: datetime) -> Path | None:
            raise IdentityError("the node's key is a credential")

        async def keep(self) -> bool:
            raise OSError(30, "Read-only file system")

    async with rigged(tmp_path) as rig:
        fixed = Fixed(SEED)
        fixed.problem = "made on another host"
        identifying = Identifying(store=rig.store, clock=TrioWallClock(), identity=fixed)
        refused = await renew(identifying, actor="uid:0")
        assert refused == Rejected("IDENTITY_REFUSED", "the node's key is a credential")
        other = await keep(identifying, actor="uid:0")
        assert isinstance(other, Rejected)
        assert "Read-only" in other.message
        assert rig.kinds() == [
            "identity.renew",
            "identity.renew.refused",
            "identity.keep",
            "identity.keep.refused",
        ]


async def test_pruning_goes_in_small_writes_and_lets_others_write(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with rigged(tmp_path) as rig:
        for _ in range(4):
            await renew(rig.identifying, actor="uid:0")
            await trio.sleep(1)
        with pytest.raises(ValueError, match="acknowledged"):
            await prune(rig.store, 5, rest=trio.lowlevel.checkpoint)
        await rig.store.write(lambda tx: tx.audit.acknowledge(6))
        rests = 0

        async def rest() -> None:
            nonlocal rests
            rests += 1
            await rig.store.write(lambda tx: tx.ledger.add(new_session(f"s{rests}")))

        assert await prune(rig.store, 5, rest=rest) == 5
        assert rests == 1
        assert len((await show(rig.identifying)).rollovers) == 4, "statements stay"
        assert len(rig.kinds()) == 3
