"""Runs of a gateway whose clock, numbers or audit list are not what they should be."""

from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from ambientd.core.timefmt import to_ms
from ambientd.flows.gateway_ledger import AUDIT_EVENTS_MAX, AUDIT_MARK
from tests.flows.test_gateway_ledger import NOW, entry, rigged

HOUR = 3_600_000


@pytest.mark.parametrize("skew", [-HOUR, 0, HOUR])
async def test_a_run_without_a_name_is_one_row_whatever_the_gateways_clock_says(
    skew: int, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.view.note_clock(NOW + skew, NOW)
        ended: dict[str, Any] = {"status": "done", "hasActiveRun": False, "updatedAt": NOW + skew}
        rig.row(**ended, endedAt=NOW + skew)
        await rig.ledger.take_rows()
        rig.row(**ended, endedAt=NOW + skew, totalTokensFresh=True, inputTokens=5, outputTokens=6)
        await rig.ledger.take_rows()
        assert await rig.said() == {"s1": ("success", None)}


@pytest.mark.parametrize("skew", [-HOUR, 0, HOUR])
async def test_a_later_run_without_a_name_is_a_row_of_its_own_whatever_the_gateways_clock_says(
    skew: int, autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.view.note_clock(NOW + skew, NOW)
        rig.row(status="done", hasActiveRun=False, updatedAt=NOW + skew, endedAt=NOW + skew)
        await rig.ledger.take_rows()
        rig.set_time(NOW + 10_000)
        at = NOW + skew + 10_000
        rig.row(status="done", hasActiveRun=False, updatedAt=at, endedAt=at)
        await rig.ledger.take_rows()
        rows = await rig.rows()
        assert [to_ms(row.ended_at) for row in rows if row.ended_at] == [NOW, NOW + 10_000]


async def test_an_end_in_the_year_280000_ends_the_run_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        for session in ("s1", "s1", "s2"):
            for ended in (NOW, 9 * 10**15):
                rig.row(session, status="done", hasActiveRun=False, updatedAt=ended, endedAt=ended)
                await rig.ledger.take_rows()
        assert {"s1", "s2"} <= set(await rig.said())


async def test_an_audit_list_that_is_read_again_adds_no_rows_to_a_session_of_many_runs(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with rigged(tmp_path) as rig:
        rig.set_time(NOW + HOUR)
        rig.link.audit = []
        for number in range(30):
            at = NOW + number * 1_000
            rig.link.audit.append(entry(2 * number + 1, f"r{number}", at))
            rig.link.audit.append(entry(2 * number + 2, f"r{number}", at + 10, "succeeded"))
        await rig.ledger.pull_audit()
        await rig.store.write(lambda tx: tx.settings.put(AUDIT_MARK, "0"))
        assert (await rig.ledger.pull_audit()).taken == 60
        said = await rig.said()
        assert len(said) == 30
        assert "s1~r0" not in said


async def test_an_audit_list_with_endless_pages_ends(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with rigged(tmp_path) as rig:
        rig.set_time(NOW + HOUR)
        page = [entry(number, "r1", NOW) for number in range(3_000, 0, -1)]
        rig.link.answers["audit.activity.list"] = lambda params: {"events": page, "nextCursor": "again"}
        pulled = await rig.ledger.pull_audit()
        assert (pulled.taken, pulled.cut) == (AUDIT_EVENTS_MAX, True)
        assert await rig.said() == {"s1": ("running", None)}
