"""The helper process as the daemon sees it: a link that answers one request at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

import trio

from ambientd.core.feedline import decode
from ambientd.host.feed_helper import HIDDEN
from ambientd.host.feed_serve import VERSION
from ambientd.host.hide import is_hidden

ANSWER_LIMIT = 64 * 1024
KILL_WAIT = 0.5
_HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "feed_helper.py")

# No variable of the daemon's is any business of the helper's.
_ENVIRONMENT: Mapping[str, str] = {}


class HelperLostError(Exception):
    """The helper ended, or said something that is no answer."""


class HelperLink(Protocol):
    """A started helper."""

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request, returns the next line it says (which may be a sign of progress only).

        Raises HelperLostError, or TypeError/ValueError for a request that is not JSON (nothing was sent).
        Cancelling leaves the link unusable: end it.
        """

    async def hear(self) -> dict[str, Any]:
        """The next line it says, after a sign of progress."""

    def kill(self) -> None:
        """SIGKILL; harmless when it has ended."""

    async def wait_ended(self) -> None:
        """Returns when the process is gone; a process in a hung file system may take for ever."""

    async def aclose(self) -> None:
        """Closes its standard input, which ends an idle helper."""


StartHelper = Callable[[Mapping[str, Any]], Awaitable[HelperLink]]


class HelperProcess:
    """`HelperLink` to a real process. Start one with `start_helper`."""

    def __init__(
        self, process: trio.Process, requests: trio.abc.SendStream, answers: trio.abc.ReceiveStream
    ) -> None:
        self._process = process
        self._requests = requests
        self._answers = answers
        self._pending = b""

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See HelperLink."""
        data = json.dumps(request).encode("ascii") + b"\n"
        try:
            await self._requests.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise HelperLostError("the feed's helper process ended") from error
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        """See HelperLink."""
        while b"\n" not in self._pending:
            try:
                data = await self._answers.receive_some(ANSWER_LIMIT)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise HelperLostError("the feed's helper process ended") from error
            if not data:
                raise HelperLostError("the feed's helper process ended")
            self._pending += data
            if len(self._pending) > ANSWER_LIMIT:
                raise HelperLostError("the feed's helper process said too much")
        line, _, self._pending = self._pending.partition(b"\n")
        answer = decode(line)
        if answer is None:
            raise HelperLostError("the feed's helper process said no JSON object")
        return answer

    def kill(self) -> None:
        """See HelperLink."""
        self._process.kill()

    async def wait_ended(self) -> None:
        """See HelperLink."""
        await self._process.wait()

    async def aclose(self) -> None:
        """See HelperLink."""
        await self._requests.aclose()
        await self._answers.aclose()


async def start_helper(settings: Mapping[str, Any], *, python: str = sys.executable) -> HelperProcess:
    """Starts a helper for one feed: `path`, `state_dir`, `host_id`, `max_size`, `keep`.

    It inherits nothing but its three standard descriptors, is the leader of its own session (a Ctrl-C
    for the daemon must not end it before the last beat) and stands in `/`. Raises OSError when it cannot
    be started, HelperLostError when it does not answer as one. Cancelled: it is killed, not waited for.
    """
    process = await trio.lowlevel.open_process(
        [python, "-I", "-S", "-B", _HELPER, *([HIDDEN] if is_hidden() else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=_ENVIRONMENT,
        close_fds=True,
        start_new_session=True,
    )
    requests, answers = process.stdin, process.stdout
    if requests is None or answers is None:  # cannot be: both are pipes
        raise HelperLostError("the feed's helper process has no pipes")
    helper = HelperProcess(process, requests, answers)
    ready = False
    try:
        answer = await helper.ask({"version": VERSION, **settings})
        ready = answer.get("version") == VERSION
    finally:
        if not ready:
            helper.kill()
            with trio.CancelScope(shield=True), trio.move_on_after(KILL_WAIT):
                await helper.wait_ended()
                await helper.aclose()
    if not ready:
        raise HelperLostError("the feed's helper process is of another version")
    return helper


def helper_starter(python: str = sys.executable) -> StartHelper:
    """`start_helper` with this interpreter, as the writer takes it."""
    return partial(start_helper, python=python)
