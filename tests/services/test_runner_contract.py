"""What `ports.runner` promises, asked of the real runner and of the fake that the other tests rely on."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ambientd.host.clock import SystemClock
from ambientd.host.runner import LocalRunner
from ambientd.ports.runner import LaunchError, NeverStarted, RunLink, RunResult, RunSpec, SessionRunner
from tests.fakes.log import ListLog
from tests.fakes.runner import FakeRunner
from tests.host.shim_kit import PYTHON, fresh_id, workplace

SESSION = fresh_id("contract")
PATIENCE = 60.0
# The same deeds in the fake's words and as programs.
DEEDS = {
    "talks": (("say:one", "err:two", "exit:3"), ("sh", "-c", "echo one; sleep 0.1; echo two >&2; exit 3")),
    "stays": (("say:here", "forever"), ("sh", "-c", "echo here; exec sleep 60")),
    "stubborn": (
        ("deaf", "say:here", "forever"),
        ("sh", "-c", "trap '' TERM; echo here; sleep 9; sleep 9"),
    ),
    "missing": (("missing",), ("/nonexistent/program",)),
}


@pytest.fixture
def place() -> Iterator[Path]:
    with workplace() as folder:
        yield folder


@asynccontextmanager
async def machine(kind: str, place: Path) -> AsyncIterator[SessionRunner]:
    clock = SystemClock()
    async with trio.open_nursery() as nursery:
        runner: FakeRunner | LocalRunner
        if kind == "fake":
            runner = FakeRunner(clock)
            await nursery.start(lambda task_status: runner.run(task_status=task_status))
        else:
            runner = LocalRunner(state_dir=place, python=PYTHON, clock=clock, log=ListLog())
            await nursery.start(lambda task_status: runner.run(task_status=task_status))
        yield runner
        nursery.cancel_scope.cancel()


def spec(kind: str, deed: str, *, timeout: float = 30.0, attempt: int = 1) -> RunSpec:
    return RunSpec(
        session_id=SESSION,
        attempt=attempt,
        argv=DEEDS[deed][kind == "real"],
        stdin="",
        environment={"PATH": "/usr/bin:/bin"},
        workdir=None,
        timeout=timeout,
        grace=0.3,
        output_limit=1024 * 1024,
        line_limit=4096,
    )


async def follow(link: RunLink, offset: int = 0) -> tuple[RunResult, list[tuple[str, str]], int]:
    """To the end: the result, the lines, the last offset."""
    said: list[tuple[str, str]] = []
    with trio.fail_after(PATIENCE):
        while True:
            result = await link.result()
            while (chunk := await link.read_output(offset)).next_offset > offset:
                offset = chunk.next_offset
                said += [(line.stream, line.text) for line in chunk.lines]
            if result is not None:
                return result, said, offset
            await link.wait_news()


async def until_said(link: RunLink) -> int:
    """Returns once there is output, with the offset after it."""
    with trio.fail_after(PATIENCE):
        while (chunk := await link.read_output(0)).next_offset == 0:
            await link.wait_news()
    return chunk.next_offset


@pytest.mark.parametrize("kind", ["fake", "real"])
class TestSessionRunner:
    async def test_a_run_tells_its_output_its_start_and_its_end(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "talks"))
            result, said, _ = await follow(link)
            started = await link.started_at_ms()
            await link.aclose()
        assert said == [("out", "one"), ("err", "two")]
        assert (result.cause, result.exit_code, result.signal, result.error) == ("exit", 3, None, None)
        assert started is not None
        assert started == result.started_at_ms
        assert result.ended_at_ms >= started

    async def test_an_end_is_repeatable_and_told_as_such(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "stays"))
            await until_said(link)
            await link.end(grace=5.0)
            await link.end(grace=5.0)
            result, _, _ = await follow(link)
            await link.end(grace=5.0)
            await link.aclose()
        assert (result.cause, result.signal, result.proof) == ("ended", 15, True)

    async def test_what_ignores_term_is_killed_after_the_grace(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "stubborn"))
            await until_said(link)
            await link.end(grace=0.2)
            result, _, _ = await follow(link)
            await link.aclose()
        assert (result.cause, result.signal) == ("ended", 9)

    async def test_a_time_limit_is_kept(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "stays", timeout=0.5))
            result, _, _ = await follow(link)
            await link.aclose()
        assert result.cause == "timeout"
        assert result.runtime_ms >= 500

    async def test_a_program_that_is_not_there_is_a_result_and_no_error(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "missing"))
            result, said, _ = await follow(link)
            assert await link.started_at_ms() is None
            await link.aclose()
        assert (result.cause, result.error, said) == ("start_failed", "not_found", [])

    async def test_a_run_is_found_again_and_read_on_from_an_offset(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "stays"))
            offset = await until_said(link)
            await link.aclose()
            again = await runner.attach(SESSION, 1)
            assert not isinstance(again, NeverStarted)
            assert await again.result() is None
            await again.end(grace=5.0)
            result, said, _ = await follow(again, offset)
            await again.aclose()
            assert (result.cause, said) == ("ended", [])
            later = await runner.attach(SESSION, 1)
            assert not isinstance(later, NeverStarted)
            assert await later.result() == result
            await later.aclose()

    async def test_what_never_started_never_will(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            assert isinstance(await runner.attach(SESSION, 1), NeverStarted)
            assert isinstance(await runner.attach(SESSION, 1), NeverStarted)
            with pytest.raises(LaunchError):
                await runner.launch(spec(kind, "talks"))
            link = await runner.launch(spec(kind, "talks", attempt=2))
            assert (await follow(link))[0].exit_code == 3
            await link.aclose()

    async def test_a_session_that_left_nothing_has_no_artifacts(self, kind: str, place: Path) -> None:
        async with machine(kind, place) as runner:
            link = await runner.launch(spec(kind, "talks"))
            await follow(link)
            await link.aclose()
            assert await runner.artifacts(SESSION, 10) == []
            await runner.discard(SESSION)
            assert isinstance(await runner.attach(SESSION, 1), NeverStarted)
