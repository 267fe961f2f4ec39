"""A process that pushes numbered reports into a SQLite database and tells of each that was acknowledged.

python -m tests.store.fleet.pusher DATABASE FIRST_NUMBER
"""

import sys
from pathlib import Path

import trio

from ambientd.services.fleet_reports import ReportsService
from ambientd.store.fleet.sqlite import SqliteFleetStore
from tests.store.fleet.kit import report
from tests.store.kit import StillClock

NODES = 8


async def push(path: Path, first: int) -> None:
    """Until it is killed."""
    store = SqliteFleetStore(path, clock=StillClock(), ballast=0)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await store.wait_settled()
        service = ReportsService(store)
        nursery.start_soon(service.run)

        async def node(number: int) -> None:
            for seq in range(first, first + 100_000):
                (outcome,) = await service.take([report(f"n{number}", seq, seq=seq)])
                assert outcome.refused is None
                sys.stdout.write(f"n{number} {seq} {int(outcome.duplicate)}\n")
                sys.stdout.flush()

        for number in range(NODES):
            nursery.start_soon(node, number)


if __name__ == "__main__":
    trio.run(push, Path(sys.argv[1]), int(sys.argv[2]))
