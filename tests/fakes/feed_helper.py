"""A feed helper that answers as it is told to, for tests of the daemon's side of the link."""

from collections.abc import Mapping
from typing import Any

import trio

from ambientd.host.feed_process import HelperLostError


class ScriptedHelper:
    """Implements `HelperLink`: answers each beat from `answers`, else with a good write.

    An answer may be "hang" or "die". An `immortal` one survives `kill` until `release`.
    """

    def __init__(self, *, immortal: bool = False) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any] | str] = []
        self.killed = False
        self.closed = False
        self._immortal = immortal
        self._ended = trio.Event()

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append(dict(request))
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self.killed:
            raise HelperLostError("ended")
        answer = self.answers.pop(0) if self.answers else self._good()
        if answer == "hang":
            await trio.sleep_forever()
        if isinstance(answer, str):
            self._ended.set()
            raise HelperLostError("the feed's helper process ended")
        return answer

    def _good(self) -> dict[str, Any]:
        event = self.requests[-1]["event"]
        return {
            "ok": True,
            "at_ms": event["ts_epoch_ms"],
            "clamped_ms": 0,
            "found": [],
            "note": None,
            "quarantined": [],
        }

    def kill(self) -> None:
        self.killed = True
        if not self._immortal:
            self._ended.set()

    def release(self) -> None:
        """The file system answers again; a killed process goes."""
        self._ended.set()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True
        self._ended.set()


class HelperFactory:
    """A `StartHelper` that hands out prepared helpers, then fresh ones, and keeps them all."""

    def __init__(self, *prepared: ScriptedHelper | OSError) -> None:
        self._prepared = list(prepared)
        self.started: list[ScriptedHelper] = []

    async def __call__(self, settings: Mapping[str, Any]) -> ScriptedHelper:
        await trio.lowlevel.checkpoint()
        helper = self._prepared.pop(0) if self._prepared else ScriptedHelper()
        if isinstance(helper, OSError):
            raise helper
        self.started.append(helper)
        return helper
