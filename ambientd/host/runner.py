"""Runs agents on this machine, each under a shim that outlives the daemon (CONTRACT 3).

`LocalRunner` implements `ports.runner.SessionRunner`. A shim is found again by its folder and the lock it
holds there; no process id is ever stored. File work runs in worker threads.
"""

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from ambientd.host import run_folder
from ambientd.host.leftovers import MARK, end_leftovers
from ambientd.host.shim_link import LineStream, ask, connect
from ambientd.host.threads import RunSync, run_in_thread
from ambientd.ports.clock import Clock
from ambientd.ports.errors import UnavailableError
from ambientd.ports.runner import (
    ArtifactFile,
    LaunchError,
    NeverStarted,
    OutputChunk,
    RunLink,
    RunResult,
    RunSpec,
)

SHIM = Path(__file__).with_name("shim.py")
SHIM_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}  # nothing of ours: the agent's own comes with the spec
CLAIM_TIMEOUT = 10.0
END_PAUSE = 0.05  # between the news of the end and the result being there
DISCARD_LOOKS = 20
SLOW_LOOK = 1.0  # between looks at the lock while a shim lives and its socket does not answer
ARTIFACTS_VARIABLE = "AMBIENT_ARTIFACTS"


class Log(Protocol):
    """The one thing this adapter says by itself."""

    def warning(self, event: str, **facts: Any) -> Any:
        """Something that an operator should know."""


class LocalRunner:
    """Implements `ports.runner.SessionRunner`. `run` must be running while runs are launched.

    `python` starts the shim (isolated, without site). With `executor_socket` shims are started by the
    socket-activated unit that listens there; without, they are detached children of this process.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        python: str,
        clock: Clock,
        log: Log,
        executor_socket: str | None = None,
        run_sync: RunSync = run_in_thread,
    ) -> None:
        self._state = state_dir
        self._python = python
        self._clock = clock
        self._log = log
        self._executor = executor_socket
        self._run_sync = run_sync
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Takes in shims that have ended. Runs until cancelled; cancelling ends no shim."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def launch(self, spec: RunSpec) -> RunLink:
        """Starts a shim; returns when it has claimed the run's folder, at most `CLAIM_TIMEOUT` later.

        Raises LaunchError when no shim will ever run there. When cancelled the shim may or may not have
        claimed the folder: `attach` tells.
        """
        folder = run_folder.run_folder(self._state, spec.session_id, spec.attempt)
        reason, claimed = "", False
        try:
            await self._run_sync(partial(run_folder.make_run_folder, folder))
            with trio.move_on_after(CLAIM_TIMEOUT) as patience:
                reason = await self._start(encode_spec(spec, folder), folder)
            if patience.cancelled_caught:
                reason = "the shim did not answer in time"
            # Without an answer the folder decides: once we have claimed it no shim can start any more.
            if reason:
                claimed = await self._run_sync(partial(run_folder.claim_for_good, folder))
        except OSError as error:
            raise LaunchError(f"{error.strerror or error}") from error
        if claimed:
            raise LaunchError(reason)
        return self._link(folder, spec.session_id)

    async def attach(self, session_id: str, attempt: int) -> RunLink | NeverStarted:
        """Finds a run after a restart, or makes sure that it can never start.

        Raises UnavailableError when the folder can be neither read nor claimed.
        """
        folder = run_folder.run_folder(self._state, session_id, attempt)
        try:
            await self._run_sync(partial(run_folder.make_run_folder, folder))
            if await self._run_sync(partial(run_folder.claim_for_good, folder)):
                return NeverStarted()
        except OSError as error:
            raise UnavailableError(f"the folder of the run cannot be used: {error.strerror}") from error
        return self._link(folder, session_id)

    async def alive(self, limit: int) -> list[tuple[str, int]]:
        """Sessions whose shim lives now, with the attempt; at most `limit`."""
        return await self._run_sync(partial(run_folder.list_alive, self._state, limit))

    async def artifacts(self, session_id: str, limit: int) -> list[ArtifactFile]:
        """Regular files that the session left in its artifacts folder, by name; links are not followed."""
        session = run_folder.session_folder(self._state, session_id)
        return await self._run_sync(partial(run_folder.list_artifacts, session, limit))

    async def discard(self, session_id: str) -> None:
        """Removes the session's folder. Raises UnavailableError while one of its runs is alive, or when
        it cannot be removed."""
        session = run_folder.session_folder(self._state, session_id)
        try:
            for _ in range(DISCARD_LOOKS):  # a shim that has just told its result is still going
                if await self._run_sync(partial(_discard, session)):
                    return
                await trio.sleep(END_PAUSE)
        except OSError as error:
            raise UnavailableError(f"the session's folder cannot be removed: {error.strerror}") from error
        raise UnavailableError("a run of the session is alive")

    def _link(self, folder: Path, session_id: str) -> "LocalRun":
        return LocalRun(
            folder=folder, session_id=session_id, clock=self._clock, log=self._log, run_sync=self._run_sync
        )

    # --- starting a shim

    async def _start(self, spec: bytes, folder: Path) -> str:
        """Hands the spec to a new shim; the empty string when it has claimed the folder, else why not."""
        if self._executor is not None:
            try:
                stream = await trio.open_unix_socket(self._executor)
            except OSError as error:
                return f"the executor cannot be reached: {error.strerror}"
            return await _hand_over(stream, spec)
        if self._nursery is None:
            raise RuntimeError("LocalRunner.run is not running")
        child = await self._run_sync(partial(self._spawn, folder))
        self._nursery.start_soon(_take_in, child)
        assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - both are pipes
        there = trio.lowlevel.FdStream(os.dup(child.stdin.fileno()))
        back = trio.lowlevel.FdStream(os.dup(child.stdout.fileno()))
        child.stdin.close()
        child.stdout.close()
        return await _hand_over(trio.StapledStream(there, back), spec)

    def _spawn(self, folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._python, "-I", "-S", "-B", str(SHIM), "--folder", str(folder.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=SHIM_ENVIRONMENT,
            start_new_session=True,
            close_fds=True,
        )


def encode_spec(spec: RunSpec, folder: Path) -> bytes:
    """The spec as a shim reads it. ASCII JSON, so that no text in it can break the encoding."""
    document = msgspec.to_builtins(spec)
    document["folder"] = str(folder.absolute())
    document["environment"] = dict(spec.environment) | {
        MARK: spec.session_id,
        ARTIFACTS_VARIABLE: str(folder.absolute() / "artifacts"),
    }
    data = json.dumps(document).encode()
    return b"%d\n%s" % (len(data), data)


async def _hand_over(stream: trio.abc.Stream, spec: bytes) -> str:
    lines = LineStream(stream)
    try:
        try:
            await stream.send_all(spec)
        except trio.BrokenResourceError:
            return "the shim ended before it had read its task"
        answer = await lines.read()
    except UnavailableError as error:
        return str(error)
    finally:
        await lines.aclose()
    if answer is None:
        return "the shim ended before it had answered"
    return "" if answer.get("answer") == "claimed" else str(answer.get("reason") or "the shim refused")


async def _take_in(child: "subprocess.Popen[bytes]") -> None:
    """Waits for a shim's end without a thread, so that it leaves no zombie while we live."""
    try:
        try:
            handle = os.pidfd_open(child.pid)
        except ProcessLookupError:
            return
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)
        child.wait()
    finally:
        _let_go(child)


def _let_go(child: "subprocess.Popen[bytes]") -> None:
    """A shim outlives us on purpose; Popen would call that a leak."""
    if child.poll() is None:
        child.returncode = 0


def _discard(session: Path) -> bool:
    """Removes the folder unless a shim lives in it; false then."""
    if any(run_folder.is_alive(attempt) for attempt in session.glob("run-*")):
        return False
    run_folder.remove_session(session)
    return True


class LocalRun:
    """Implements `ports.runner.RunLink`. One task follows it; `end` may be called from any other."""

    def __init__(self, *, folder: Path, session_id: str, clock: Clock, log: Log, run_sync: RunSync) -> None:
        self._folder = folder
        self._session_id = session_id
        self._clock = clock
        self._log = log
        self._run_sync = run_sync
        self._news: LineStream | None = None
        self._started_at_ms: int | None = None
        self._told_ended = False
        self._seen_alive = False
        self._result: RunResult | None = None

    async def wait_news(self) -> None:
        """Returns when there may be something new; at once after the end.

        Waits on the shim's socket. While the shim lives and its socket does not answer, it returns every
        `SLOW_LOOK` seconds instead.
        """
        if self._result is not None or self._told_ended:
            await trio.sleep(0 if self._result else END_PAUSE)
            return
        if self._news is None:
            self._news = await connect(self._folder)
        if self._news is None:
            if await self._is_alive():
                await trio.sleep(SLOW_LOOK)
            return
        try:
            told = await self._news.read()
        except UnavailableError:
            told = None
        if told is None:
            await self.aclose()
        else:
            self._take_news(told.get("news"))

    def _take_news(self, news: object) -> None:
        if not isinstance(news, dict):
            return
        self._seen_alive = True
        self._told_ended = news.get("ended") is True
        if run_folder.is_instant(news.get("started_at_ms")):
            self._started_at_ms = news["started_at_ms"]

    async def started_at_ms(self) -> int | None:
        """When the agent's process was started, in epoch milliseconds; None while it was not."""
        if self._started_at_ms is None:
            self._started_at_ms = await self._run_sync(partial(run_folder.started_at_ms, self._folder))
        return self._started_at_ms

    async def read_output(self, offset: int) -> OutputChunk:
        """About 256 KiB of complete lines from `offset`. Raises UnavailableError when the disk does not
        answer as it should."""
        try:
            return await self._run_sync(partial(run_folder.read_output, self._folder, offset))
        except OSError as error:
            raise UnavailableError(f"the output cannot be read: {error.strerror}") from error

    async def end(self, *, grace: float) -> None:
        """Returns when TERM has been sent to the whole tree; KILL follows after `grace` seconds.

        A run that has ended, or whose shim is gone, needs nothing. Raises UnavailableError when a shim
        lives and does not answer.
        """
        if await ask(self._folder, {"verb": "end", "grace": grace}) is None and await self._is_alive():
            await trio.sleep(SLOW_LOOK)  # at its very start or end the shim has no socket
            if await ask(self._folder, {"verb": "end", "grace": grace}) is None and await self._is_alive():
                raise UnavailableError("the shim does not listen")

    async def result(self) -> RunResult | None:
        """How the run ended; None while its shim lives.

        When the shim is gone without a result, what it left behind is ended and the result has the cause
        "lost", the error "runner_lost" and no proof.
        """
        if self._result is None:
            self._result = await self._look()
        if self._result is not None:
            await self.aclose()  # nothing more will come
        return self._result

    async def _look(self) -> RunResult | None:
        if await self._is_alive():
            return await self._ask_result()
        written = await self._run_sync(partial(run_folder.read_result, self._folder))
        return written or await self._close_lost()

    async def _ask_result(self) -> RunResult | None:
        """The shim may have ended the run and be about to go, or be unable to write the result down. What
        lies in the folder while it lives counts only if it agrees: the agent can write there too."""
        written = await self._run_sync(partial(run_folder.read_result, self._folder))
        if written is None and not self._told_ended:
            return None
        try:
            reply = await ask(self._folder, {"verb": "status"})
            if reply is None:
                return None  # its socket goes last but one: the lock follows at once, and then it counts
            told = msgspec.convert(reply.get("result"), RunResult | None)
            return None if told is None else run_folder.checked_result(told)
        except (UnavailableError, msgspec.ValidationError):
            return None

    async def _close_lost(self) -> RunResult:
        """The kernel has taken the agent's main process with the shim; the rest carries its mark."""
        survivors = await end_leftovers(self._session_id, run_sync=self._run_sync)
        started = await self.started_at_ms()
        ended = await self._lost_at_ms()
        result = RunResult(
            cause="lost",
            started_at_ms=started,
            ended_at_ms=max(ended, started or 0),
            runtime_ms=max(0, ended - started) if started is not None else 0,
            error="runner_lost",
            message="the process that ran the session is gone; how the agent ended is not known",
            survivors_ended=survivors,
            proof=False,
        )
        self._log.warning("run.lost", session=self._session_id, survivors=survivors)
        try:
            await self._run_sync(partial(run_folder.write_result, self._folder, result))
        except OSError as error:
            self._log.warning("run.lost_not_written", session=self._session_id, reason=error.strerror)
        return result

    async def _lost_at_ms(self) -> int:
        """Now, if this link has seen the shim alive; else the last time the run's files show it alive: it
        may have died with the machine, days ago. Never later than now, whatever time the files bear."""
        now = int(self._clock.now().timestamp() * 1000)
        if not self._seen_alive:
            try:
                return max(0, min(now, await self._run_sync(partial(run_folder.last_sign_ms, self._folder))))
            except OSError:
                self._seen_alive = True  # no better witness than the present
        return now

    async def _is_alive(self) -> bool:
        return await self._run_sync(partial(run_folder.is_alive, self._folder))

    async def aclose(self) -> None:
        """Lets go of the news link; the run goes on, and a later `wait_news` links again."""
        news, self._news = self._news, None
        if news is not None:
            await news.aclose()
