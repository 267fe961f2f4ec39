"""Kills that could hit the wrong session."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from ambientd.ports.errors import StoreError
from ambientd.store.sqlite import SqliteStore
from ambientd.wire.messages import KillAnswer
from tests.flows.test_gateway_control import code, rigged


async def test_many_runs_of_one_session_do_not_hide_that_another_one_is_meant_too(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.record("ab1", "first", "success")
        for number in range(15):
            await rig.record("ab9", f"r{number:02}", "success")
        rig.runs("ab9", "r99")
        await rig.ledger.take_rows()
        assert code(await rig.kill("ab")) == "AMBIGUOUS"
        assert rig.status_of("ab9") == "running"
        assert isinstance(await rig.kill("ab9"), KillAnswer)


async def test_a_part_of_an_id_is_still_enough_for_a_session_of_many_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        for number in range(15):
            await rig.record("abcdef", f"r{number:02}", "success")
        rig.runs("abcdef", "r99")
        await rig.ledger.take_rows()
        assert isinstance(await rig.kill("abcd"), KillAnswer)


class FullStore:
    """A store that can be read and takes no writes, like one on a full disk."""

    def __init__(self, store: SqliteStore) -> None:
        self.read = store.read

    async def write(self, work: object) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreError("the disk is full")


async def test_what_cannot_be_recorded_is_not_asked_of_the_gateway(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.runs("s1")
        await rig.ledger.take_rows()
        full: Any = FullStore(rig.store)
        gateway = msgspec.structs.replace(rig.gateway, store=full)
        rig.controls = msgspec.structs.replace(rig.controls, store=full, gateway=gateway)
        with pytest.raises(StoreError):
            await rig.kill("s1")
        with pytest.raises(StoreError):
            await rig.spawn("tony", "say hello")
        with pytest.raises(StoreError):
            await rig.model("tony", "mock/mock-fast")
        assert set(rig.link.count()) == {"models.list"}, "which changes nothing"
        assert not rig.view.kills.has_run("r1")
        assert rig.status_of("s1") == "running"
