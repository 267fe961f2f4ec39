"""Kills that could hit the wrong session or run."""

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


async def test_a_run_that_began_just_now_is_not_killed_in_place_of_the_named_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        await rig.record("s1", "r1", "success")
        rig.runs("s1", "r2")
        await rig.ledger.take_rows()
        rig.link.put(tell=False, sessionId="s1", status="running", hasActiveRun=True, activeRunIds=["r3"])
        assert code(await rig.kill("s1~r2")) == "NOTHING_RUNS", "though no event has told of r3 yet"
        assert rig.status_of("s1") == "running"
        assert "sessions.abort" not in rig.link.count()
        assert not rig.view.kills.has_run("r2")
