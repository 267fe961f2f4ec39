"""A machine on which agents are scripts: runs live on virtual time and outlive the service that follows them.

`FakeRunner` implements `ports.runner.SessionRunner`. An agent's command is a list of steps:

    say:TEXT      a line on standard output        err:TEXT   a line on standard error
    part:TEXT     the beginning of a line that the next step goes on with
    sleep:SEC     works for so long                forever    works until it is ended
    exit:CODE     ends (0 when nothing says so)    deaf       from here on TERM does nothing, only KILL
    crash         its shim dies with it            missing    the program does not exist (first step)
"""

from collections.abc import Awaitable, Callable

import trio

from ambientd.ports.clock import Clock
from ambientd.ports.errors import UnavailableError
from ambientd.ports.runner import (
    ArtifactFile,
    LaunchError,
    NeverStarted,
    OutputChunk,
    OutputLine,
    RunLink,
    RunResult,
    RunSpec,
)

LINES_PER_CHUNK = 3
TERM, KILL = 15, 9


class Script:
    """One run: what has happened so far, and how to push it on from a test."""

    def __init__(self, spec: RunSpec, clock: Clock) -> None:
        self.spec = spec
        self.clock = clock
        self.lines: list[OutputLine] = []
        self.started_at_ms: int | None = None
        self.result: RunResult | None = None
        self.ends_asked = 0
        self.silent = False  # the shim lives and does not answer
        self._deaf = False
        self._signal: int | None = None
        self._scope = trio.CancelScope()
        self._news = trio.Event()

    def now_ms(self) -> int:
        return int(self.clock.now().timestamp() * 1000)

    def say(self, text: str, stream: str = "out", *, partial: bool = False) -> None:
        """A line of output, or part of one, now."""
        self.lines.append(OutputLine(at_ms=self.now_ms(), stream=stream, text=text, partial=partial))
        self.tell()

    def tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait(self) -> None:
        await self._news.wait()

    def finish(self, cause: str = "exit", **facts: object) -> None:
        """Ends the run with these facts, unless it has ended."""
        if self.result is None:
            ended, started = self.now_ms(), self.started_at_ms
            base: dict[str, object] = {
                "cause": cause,
                "started_at_ms": started,
                "ended_at_ms": ended,
                "runtime_ms": 0 if started is None else ended - started,
                "output_bytes": sum(len(line.text) + 1 for line in self.lines),
            }
            self.result = RunResult(**(base | facts))  # type: ignore[arg-type]
            self._scope.cancel()
            self.tell()

    def lose(self) -> None:
        """The shim is gone and has told nobody how the agent ended."""
        self.finish("lost", error="runner_lost", message="the shim is gone", proof=False)

    def signal(self, number: int) -> None:
        """TERM or KILL, to everything."""
        if number == KILL or not self._deaf:
            self._signal = number
            self._scope.cancel()

    async def play(self) -> None:
        """Runs the script to its end."""
        if self.spec.argv[0] == "missing":
            self.finish("start_failed", error="not_found", message="no such program")
            return
        self.started_at_ms = self.now_ms()
        self.tell()
        code = 0
        with trio.move_on_after(self.spec.timeout) as patience, self._scope:
            code = await self._steps()
        if patience.cancelled_caught:
            self.finish("timeout", signal=TERM)
        elif self._signal is not None:
            self.finish("ended", signal=self._signal)
        else:
            self.finish(exit_code=code)

    async def _steps(self) -> int:
        for step in self.spec.argv:
            verb, _, rest = step.partition(":")
            if verb == "exit":
                return int(rest)
            await self._one(verb, rest)
        return 0

    async def _one(self, verb: str, rest: str) -> None:
        if verb in ("say", "err", "part"):
            self.say(rest, "err" if verb == "err" else "out", partial=verb == "part")
        elif verb == "sleep":
            await trio.sleep(float(rest))
        elif verb == "forever":
            await trio.sleep_forever()
        elif verb == "deaf":
            self._deaf = True
        elif verb == "crash":
            self.lose()
        else:
            raise ValueError(f"no such step: {verb}")


class FakeLink:
    """Implements `ports.runner.RunLink` over a script."""

    def __init__(self, script: Script, nursery: trio.Nursery) -> None:
        self._script = script
        self._nursery = nursery
        self.closed = False

    async def wait_news(self) -> None:
        if self._script.result is not None:
            await trio.lowlevel.checkpoint()
            return
        await self._script.wait()

    async def started_at_ms(self) -> int | None:
        await trio.lowlevel.checkpoint()
        return self._script.started_at_ms

    async def read_output(self, offset: int) -> OutputChunk:
        await trio.lowlevel.checkpoint()
        lines = tuple(self._script.lines[offset : offset + LINES_PER_CHUNK])
        return OutputChunk(lines=lines, next_offset=offset + len(lines))

    async def end(self, *, grace: float) -> None:
        await trio.lowlevel.checkpoint()
        self._script.ends_asked += 1
        if self._script.silent:
            raise UnavailableError("the shim does not answer")
        self._script.signal(TERM)
        self._nursery.start_soon(self._kill_later, grace)

    async def _kill_later(self, grace: float) -> None:
        await trio.sleep(grace)
        self._script.signal(KILL)

    async def result(self) -> RunResult | None:
        await trio.lowlevel.checkpoint()
        return self._script.result

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class FakeRunner:
    """Implements `ports.runner.SessionRunner`; `run` must be running. The machine goes on when a service
    that uses it is stopped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._nursery: trio.Nursery | None = None
        self._runs: dict[tuple[str, int], Script] = {}
        self._claimed: set[tuple[str, int]] = set()
        self.links: list[FakeLink] = []
        self.launches: list[tuple[float, RunSpec]] = []
        self.launches_to_fail = 0
        self.before_launch: Callable[[RunSpec], Awaitable[None]] | None = None
        self.after_launch: Callable[[RunSpec], Awaitable[None]] | None = None
        self.left_artifacts: dict[str, list[ArtifactFile]] = {}
        self.discarded: list[str] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def of(self, session_id: str, attempt: int = 1) -> Script:
        """The run of a session, to push it on."""
        return self._runs[session_id, attempt]

    def playing(self) -> list[str]:
        """Sessions whose scripts have not ended."""
        return [session_id for (session_id, _), script in self._runs.items() if script.result is None]

    def forget(self, session_id: str) -> None:
        """Somebody removed the session's folder."""
        for key in [key for key in self._runs if key[0] == session_id]:
            del self._runs[key]

    async def launch(self, spec: RunSpec) -> RunLink:
        assert self._nursery is not None, "not running"
        await trio.lowlevel.checkpoint()
        self.launches.append((trio.current_time(), spec))
        key = (spec.session_id, spec.attempt)
        if self.before_launch is not None:
            await self.before_launch(spec)
        if self.launches_to_fail or key in self._claimed:
            self.launches_to_fail = max(0, self.launches_to_fail - 1)
            self._claimed.add(key)
            raise LaunchError("no shim today")
        script = self._runs[key] = Script(spec, self._clock)
        self._nursery.start_soon(script.play)
        if self.after_launch is not None:
            await self.after_launch(spec)
        return self._link(script)

    async def attach(self, session_id: str, attempt: int) -> RunLink | NeverStarted:
        await trio.lowlevel.checkpoint()
        script = self._runs.get((session_id, attempt))
        if script is None:
            self._claimed.add((session_id, attempt))
            return NeverStarted()
        return self._link(script)

    def _link(self, script: Script) -> FakeLink:
        assert self._nursery is not None, "not running"
        link = FakeLink(script, self._nursery)
        self.links.append(link)
        return link

    async def alive(self, limit: int) -> list[tuple[str, int]]:
        await trio.lowlevel.checkpoint()
        return [key for key, script in self._runs.items() if script.result is None][:limit]

    async def artifacts(self, session_id: str, limit: int) -> list[ArtifactFile]:
        await trio.lowlevel.checkpoint()
        return self.left_artifacts.get(session_id, [])[:limit]

    async def discard(self, session_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.discarded.append(session_id)
        self.forget(session_id)
