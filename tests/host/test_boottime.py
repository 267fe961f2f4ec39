import os
from datetime import UTC, datetime
from pathlib import Path

from ambientd.host.boottime import HostTime
from ambientd.host.clock import SystemClock
from tests.store.kit import StillClock


def test_both_clocks_go_forward_in_one_boot() -> None:
    source = HostTime(SystemClock())
    first, second = source.reading(), source.reading()
    assert first.boot_id == second.boot_id != ""
    assert 0 < first.boot_ms <= second.boot_ms
    assert first.wall_ms > 1_700_000_000_000
    assert isinstance(source.is_synchronised(), bool)


def test_timesyncd_counts_for_an_hour_after_it_set_the_clock(tmp_path: Path) -> None:
    touched, now = tmp_path / "synchronized", datetime(2026, 11, 20, 12, tzinfo=UTC)
    source = HostTime(StillClock(now), timesync=str(touched))
    assert not source._timesync_is_fresh()
    touched.touch()
    for age, fresh in ((0, True), (3600, True), (3601, False), (-30, False)):
        os.utime(touched, (now.timestamp() - age,) * 2)
        assert source._timesync_is_fresh() is fresh
