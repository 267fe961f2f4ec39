"""Blocking database calls off the event loop, replaceable in tests that run on virtual time."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class RunSync(Protocol):
    """Runs a function elsewhere and waits for its end, also when cancelled."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


async def run_in_thread(work: Callable[[], T], /) -> T:
    """Runs `work` in a worker thread; cancellation waits for it."""
    return await trio.to_thread.run_sync(work)
