"""The control plane's routes run on both databases where a test asks for `place`, on SQLite for `sqlite`."""

from pathlib import Path

import pytest

from tests.store.fleet.conftest import pg_place, place
from tests.store.fleet.kit import SqlitePlace

__all__ = ["pg_place", "place"]


@pytest.fixture
def sqlite(tmp_path: Path) -> SqlitePlace:
    """A database file of its own."""
    return SqlitePlace(tmp_path)
