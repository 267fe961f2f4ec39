"""Tests on real network namespaces; left out, with the reason, where there can be none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lan.fleet import LanFleet, fleet_of
from tests.lan.kit import why_not

_WHY: list[str | None] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder as slow ones from outside, and skips them where they cannot run."""
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    if not mine:
        return
    if not _WHY:
        _WHY.append(why_not())
    for item in mine:
        item.add_marker(pytest.mark.e2e)
        if _WHY[0] is not None:
            item.add_marker(pytest.mark.skip(reason=_WHY[0]))


@pytest.fixture(scope="module")
def trio_of_nodes() -> Iterator[LanFleet]:
    """Three daemons, linked, with short intervals."""
    with fleet_of(3, peers={"interval": "3s"}, also_trusted=("traitor",)) as fleet:
        yield fleet
