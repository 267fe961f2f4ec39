"""A proxy that is not trusted makes one client of everybody: said once, at the start."""

from pathlib import Path

import pytest

from tests.api.fleet.kit import ListLog, plane_of, plane_socket
from tests.store.fleet.kit import SqlitePlace
from tests.store.kit import StillClock


@pytest.mark.parametrize(
    ("server", "warned"),
    [
        ({"behind_proxy": True}, 1),
        ({"behind_proxy": True, "trusted_proxies": ("10.0.0.1",)}, 0),
        ({}, 0),
    ],
)
def test_a_proxy_that_is_not_trusted_is_warned_of_once(
    tmp_path: Path, server: dict[str, object], warned: int
) -> None:
    log = ListLog()
    with plane_socket() as sock:
        plane_of(SqlitePlace(tmp_path), sock, StillClock(), log, **server)
    found = [facts["reason"] for event, facts in log.lines if event == "config.doubtful"]
    assert len(found) == warned
    assert all("server.trusted_proxies" in reason for reason in found)
