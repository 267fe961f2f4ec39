"""Blocking calls off the event loop, replaceable in tests that run on virtual time (HOUSE 7)."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class RunSync(Protocol):
    """The shape of `trio.to_thread.run_sync` that adapters use."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


async def run_in_thread(work: Callable[[], T], /) -> T:
    """Runs `work` in a worker thread; cancellation waits for it."""
    return await trio.to_thread.run_sync(work)


async def run_inline(work: Callable[[], T], /) -> T:
    """Runs `work` here and now: for tests, where a busy thread would let virtual time jump."""
    await trio.lowlevel.checkpoint()
    return work()
