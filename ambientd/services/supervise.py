"""The restart policy, once: a service that crashes is started again with growing pauses."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

FIRST_PAUSE_SEC = 0.5
LONGEST_PAUSE_SEC = 60.0
# A service that ran this long before it crashed has recovered from what ailed it before.
GOOD_RUN_SEC = 300.0


class Log(Protocol):
    """The part of structlog's bound logger that services use."""

    def info(self, event: str, **facts: object) -> object: ...
    def warning(self, event: str, **facts: object) -> object: ...
    def error(self, event: str, **facts: object) -> object: ...


async def supervise(name: str, run: Callable[[], Awaitable[None]], log: Log) -> None:
    """Runs a service until it returns; restarts it when it raises. Only cancellation ends a crash loop.

    `except*` because at shutdown a nursery may raise a group with Cancelled *and* the error of a failing
    `finally`: the error is taken, Cancelled goes on.
    """
    pause = FIRST_PAUSE_SEC
    while True:
        began = trio.current_time()
        crashed = False
        try:
            await run()
        except* Exception as group:  # the one place that may
            # Told in here: behind this block a cancellation would go on first, and the error be forgotten.
            crashed = True
            if trio.current_time() - began > GOOD_RUN_SEC:
                pause = FIRST_PAUSE_SEC
            log.error("service.crashed", service=name, retry_in_sec=pause, exc_info=group)  # noqa: TRY400 - this port has no `exception`
        if not crashed:
            return
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SEC)


def run_to_end(run: Callable[[], str]) -> tuple[str, BaseExceptionGroup[Exception] | None]:
    """Runs the whole program once: its last word, and what it crashed with. For `main` only."""
    crashed: BaseExceptionGroup[Exception] | None = None
    reason = "crashed"
    try:
        reason = run()
    except* Exception as group:  # noqa: BLE001 - so that the crash is recorded before the process ends
        crashed = group
    return reason, crashed
