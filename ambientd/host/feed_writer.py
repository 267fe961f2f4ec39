"""The daemon's side of the activity feed: a bounded queue, a deadline, a helper process, exact counts.

Nothing here can stop or slow the dispatcher: `offer` only queues. A helper that does not answer in time
is killed and its beat counts as lost; when the kernel cannot end it (a hung file system), no other is
started until it is gone, so at most one is ever stuck (FAULTS F2).
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import trio

from ambientd.core.feedpath import FeedPath
from ambientd.core.heartbeat import with_dropped
from ambientd.host.feed_process import HelperLink, HelperLostError, StartHelper, helper_starter
from ambientd.ports.feed import FeedSnapshot

QUEUE_BEATS = 16
"""Beats that wait while one is being written; at the default interval a quarter of an hour of them."""
DOUBT_KEPT = 64
LOG_EVERY = 31.0
"""Seconds between two log lines of one kind: never more than two in a minute (R2.36)."""
KILL_WAIT = 0.5
CLOSE_WAIT = 0.5
RESTART_FIRST, RESTART_LAST = 1.0, 30.0
HELPER_SHARE = 0.8
"""The helper's own part of the deadline, so that it can still say why before it is killed."""
REPAIR_LIMIT = 300.0
"""Longest time for one beat while the helper says that a repair goes on (a torn line of a gigabyte)."""


class Log(Protocol):
    """What of a structlog logger is used."""

    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...


class FeedWriter:
    """`ports.feed.FeedSink` over a helper process; `run` must be running for anything to be written."""

    def __init__(
        self,
        *,
        place: FeedPath,
        state_dir: str,
        host_id: str,
        timeout: float,
        max_size: int,
        keep: float,
        log: Log,
        enabled: bool = True,
        start: StartHelper | None = None,
    ) -> None:
        """`timeout` and `keep` in seconds, `max_size` in bytes (`heartbeat.*` of the configuration)."""
        self._place = place
        self._settings = {
            "path": place.path,
            "state_dir": state_dir,
            "host_id": host_id,
            "max_size": max_size,
            "keep": keep,
        }
        self._timeout = timeout
        self._log = log
        self._enabled = enabled
        self._start = start or helper_starter()
        self._queue: deque[dict[str, Any]] = deque()
        self._news = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._helper: HelperLink | None = None
        self._stuck: HelperLink | None = None
        self._start_at = 0.0
        self._start_pause = RESTART_FIRST
        self._logged_at: dict[str, float] = {}
        self._doubt: list[tuple[object, object]] = []
        self._lost = 0
        self._lost_since_written = 0
        self._last_written_at_ms: int | None = None
        self._last_error: str | None = None
        self._refused = place.refusal
        self._note: str | None = None
        self._quarantined = 0
        self._clamped_ms = 0

    # --- FeedSink

    def offer(self, event: Mapping[str, Any]) -> None:
        """See FeedSink."""
        if not self._enabled:
            return
        if self._place.path is None:
            self._count_lost(f"{self._place.refusal}")
        elif len(self._queue) >= QUEUE_BEATS:
            self._count_lost("the queue of beats is full")
        else:
            self._queue.append(dict(event))
            self._idle = trio.Event() if self._idle.is_set() else self._idle
            self._news.set()

    def lost_since_written(self) -> int:
        """See FeedSink."""
        return self._lost_since_written

    def snapshot(self) -> FeedSnapshot:
        """See FeedSink. `last_error` stays as the last one there was; `refused` ends with a good write."""
        return FeedSnapshot(
            enabled=self._enabled,
            path=self._place.path,
            lost=self._lost,
            last_written_at_ms=self._last_written_at_ms,
            last_error=self._last_error,
            refused=self._refused,
            note=self._note,
            quarantined=self._quarantined,
            clamped_ms=self._clamped_ms,
        )

    # --- the loop

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Writes what is offered, until cancelled; then ends the helper, waiting at most a second.

        Never raises but what cancellation raises. What is still queued then is not written: `flush` first.
        """
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    while self._queue:
                        await self._deliver(self._queue.popleft(), nursery)
                    self._idle.set()
                    self._news = trio.Event()
                    await self._news.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._close_helper()

    async def flush(self, within: float) -> bool:
        """Waits at most `within` seconds for everything offered to be written or lost; True when it was."""
        with trio.move_on_after(within):
            await self._idle.wait()
            return True
        return False

    async def _deliver(self, event: dict[str, Any], nursery: trio.Nursery) -> None:
        error = "the write was cut short by the stop of the node"
        try:
            helper = await self._ready_helper(nursery)
            if isinstance(helper, str):
                error = helper
                return
            answer = await self._write(helper, event, nursery)
            if isinstance(answer, str):
                self._doubt = [*self._doubt, _name_of(event)][-DOUBT_KEPT:]
                error = answer
                return
            error = self._take_answer(event, answer)
        finally:
            if error:
                self._count_lost(error)

    async def _ready_helper(self, nursery: trio.Nursery) -> HelperLink | str:
        """A helper that takes requests, or why there is none."""
        if self._stuck is not None:
            return "the feed's file system does not answer (a helper process hangs in it)"
        if self._helper is not None:
            return self._helper
        now = trio.current_time()
        if now < self._start_at:
            return "the feed's helper process ended; it is started again with a pause"
        self._start_at = now + self._start_pause
        self._start_pause = min(self._start_pause * 2, RESTART_LAST)
        try:
            with trio.move_on_after(self._timeout):
                self._helper = await self._start(self._settings)
        except (OSError, HelperLostError) as error:
            return f"the feed's helper process does not start: {error}"
        return self._helper or "the feed's helper process does not start in time"

    async def _write(
        self, helper: HelperLink, event: dict[str, Any], nursery: trio.Nursery
    ) -> dict[str, Any] | str:
        """The helper's answer; a sentence when there is none, and then the helper is gone."""
        run_id, _ = _name_of(event)
        request = {
            "event": with_dropped(event, self._lost_since_written),
            "budget": self._timeout * HELPER_SHARE,
            "floor_ms": self._last_written_at_ms or 0,
            "doubt": [seq for run, seq in self._doubt if run == run_id],
        }
        error = f"no answer within {self._timeout:g} s"
        answered = False
        try:
            with trio.move_on_after(REPAIR_LIMIT), trio.move_on_after(self._timeout) as patience:
                answer = await helper.ask(request)
                while answer.get("progress"):
                    patience.deadline = trio.current_time() + self._timeout
                    answer = await helper.hear()
                answered = True
                return answer
        except HelperLostError as lost:
            error = str(lost)
        except (TypeError, ValueError) as problem:  # an event that is not JSON: the helper is still good
            answered = True
            return {"ok": False, "error": f"the event cannot be encoded: {problem}"}
        finally:
            if not answered:
                with trio.CancelScope(shield=True):
                    await self._drop_helper(nursery)
        return error

    async def _drop_helper(self, nursery: trio.Nursery | None) -> None:
        """Kills the helper; leaves one that cannot be killed to a task that waits for it."""
        helper, self._helper = self._helper, None
        if helper is None:
            return
        helper.kill()
        with trio.move_on_after(KILL_WAIT):
            await helper.wait_ended()
            await helper.aclose()
            return
        self._stuck = helper
        if nursery is not None:
            nursery.start_soon(self._await_stuck, helper)

    async def _await_stuck(self, helper: HelperLink) -> None:
        await helper.wait_ended()
        await helper.aclose()
        self._stuck = None

    async def _close_helper(self) -> None:
        if self._helper is not None:
            with trio.move_on_after(CLOSE_WAIT):
                await self._helper.aclose()
                await self._helper.wait_ended()
                self._helper = None
        await self._drop_helper(None)

    # --- what came of it

    def _take_answer(self, event: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
        """Folds an answer into the counters; returns why the beat is lost, or nothing."""
        self._start_pause, self._start_at = RESTART_FIRST, 0.0
        for cut in answer.get("quarantined", ()):
            self._quarantined += 1
            self._tell("warning", "feed.quarantined", **cut)
        if not answer.get("ok"):
            self._refused = answer.get("refused")
            return str(answer.get("refused") or answer.get("error") or "the helper gave no reason")
        found = set(answer.get("found", ()))
        run_id, _ = _name_of(event)
        self._lost -= sum(run == run_id and seq in found for run, seq in self._doubt)
        self._doubt = []
        if self._lost_since_written:
            self._tell("info", "feed.recovered", lost=self._lost_since_written)
        self._lost_since_written = 0
        self._last_written_at_ms = answer["at_ms"]
        self._clamped_ms = answer["clamped_ms"]
        self._refused = None
        self._note = answer.get("note")
        return ""

    def _count_lost(self, reason: str) -> None:
        self._lost += 1
        self._lost_since_written += 1
        self._last_error = reason
        self._tell("warning", "feed.beat_lost", reason=reason, lost=self._lost, path=self._place.path)

    def _tell(self, level: str, what: str, **facts: Any) -> None:
        """One log line, unless one of its kind was written a moment ago."""
        kind = "quarantine" if what == "feed.quarantined" else "beats"
        now = trio.current_time()
        if now < self._logged_at.get(kind, -LOG_EVERY) + LOG_EVERY:
            return
        self._logged_at[kind] = now
        (self._log.info if level == "info" else self._log.warning)(what, **facts)


def _name_of(event: Mapping[str, Any]) -> tuple[object, object]:
    return event.get("run_id"), event.get("heartbeat_seq")
