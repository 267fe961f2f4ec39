"""A copy for which there is no room: the disk of the state directory is full (FAULTS D5). Root only."""

import os
from functools import partial
from pathlib import Path

import pytest

from ambientd.ports.errors import StoreFullError
from tests.store.kit import ingest, opened
from tests.store.test_disk import pytestmark, small

__all__ = ["pytestmark", "small"]


async def test_a_copy_that_does_not_fit_leaves_no_file_and_a_store_that_works(small: Path) -> None:
    async with opened(small / "ambient.db") as store:
        for number in range(20):
            await store.write(partial(ingest, session_id=f"s{number}", task_text="text " * 100))
        facts = os.statvfs(small)
        hog = small / "hog"
        hog.write_bytes(bytes(facts.f_bavail * facts.f_frsize - 80_000))
        with pytest.raises(StoreFullError):
            await store.snapshot(str(small / "copy"), lambda *_: None)
        assert not (small / "copy").exists()
        assert not list(small.glob("copy*"))
        hog.unlink()
        await store.write(partial(ingest, session_id="after"))
