"""Kills that could hit the wrong session."""

from pathlib import Path

from trio.testing import MockClock

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
