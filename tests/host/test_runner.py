import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ambientd.host import run_folder
from ambientd.host.clock import SystemClock
from ambientd.host.runner import LocalRunner
from ambientd.ports.errors import UnavailableError
from ambientd.ports.runner import LaunchError, NeverStarted, OutputLine, RunLink, RunResult, RunSpec
from tests.fakes.log import ListLog
from tests.host.shim_kit import PATIENCE, PYTHON, SHIM, fresh_id, marked, wait_gone, wait_marked, workplace

SESSION = fresh_id("runnertest")
MARK = f"AMBIENT_SESSION_ID={SESSION}".encode()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    yield
    assert marked(MARK) == set()


@pytest.fixture
def state() -> Iterator[Path]:
    with workplace() as place:
        yield place


def spec(*argv: str, **changes: Any) -> RunSpec:
    base: dict[str, Any] = {
        "session_id": SESSION,
        "attempt": 1,
        "argv": argv,
        "stdin": "",
        "environment": {"PATH": "/usr/bin:/bin"},
        "workdir": None,
        "timeout": 60.0,
        "grace": 0.3,
        "output_limit": 1024 * 1024,
        "line_limit": 4096,
    }
    return RunSpec(**base | changes)


def make(state: Path, **changes: Any) -> LocalRunner:
    given: dict[str, Any] = {"state_dir": state, "python": PYTHON, "clock": SystemClock(), "log": ListLog()}
    return LocalRunner(**given | changes)


@asynccontextmanager
async def serving(state: Path, **changes: Any) -> AsyncIterator[LocalRunner]:
    runner = make(state, **changes)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: runner.run(task_status=task_status))
        yield runner
        nursery.cancel_scope.cancel()


async def follow(link: RunLink, *, until: str | None = None) -> tuple[RunResult | None, list[OutputLine]]:
    """Reads to the end, or until a line says `until`."""
    lines: list[OutputLine] = []
    offset = 0
    with trio.fail_after(PATIENCE):
        while True:
            result = await link.result()
            while (chunk := await link.read_output(offset)).next_offset > offset:
                offset = chunk.next_offset
                lines.extend(chunk.lines)
            if until is not None and until in [line.text for line in lines]:
                return result, lines
            if result is not None:
                return result, lines
            await link.wait_news()


async def ended(link: RunLink) -> RunResult:
    result, _ = await follow(link)
    assert result is not None
    return result


async def attached(runner: LocalRunner) -> RunLink:
    found = await runner.attach(SESSION, 1)
    assert not isinstance(found, NeverStarted)
    return found


def shim_pid(state: Path) -> int:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(SHIM).encode() in words and any(word.startswith(bytes(state)) for word in words):
                return int(name)
    raise AssertionError("no shim")


async def test_a_run_is_launched_followed_and_ended(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec("sh", "-c", "cat; echo $AMBIENT_SESSION_ID", stdin="hi\n"))
        result, lines = await follow(link)
        started = await link.started_at_ms()
        await link.aclose()
    assert result is not None
    assert (result.cause, result.exit_code) == ("exit", 0)
    assert [line.text for line in lines] == ["hi", SESSION]
    assert started == result.started_at_ms


async def test_ended_shims_are_taken_in(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec("sleep", "1000"))
        pid = shim_pid(state)
        await link.end(grace=0)
        assert (await ended(link)).cause == "ended"
        with trio.fail_after(PATIENCE):
            while Path(f"/proc/{pid}").exists():
                await trio.sleep(0.01)


async def test_nothing_of_the_daemons_environment_reaches_the_agent(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_SECRET", "s3cret")
    async with serving(state) as runner:
        _, lines = await follow(await runner.launch(spec("env")))
    names = sorted(line.text.partition("=")[0] for line in lines)
    assert names == ["AMBIENT_ARTIFACTS", "AMBIENT_SESSION_ID", "PATH"]


async def test_a_program_that_is_missing_is_a_result_and_not_a_launch_error(state: Path) -> None:
    async with serving(state) as runner:
        assert (await ended(await runner.launch(spec("no-such-program")))).error == "not_found"


async def test_text_that_is_not_unicode_does_not_stop_a_launch(state: Path) -> None:
    async with serving(state) as runner:
        _, lines = await follow(await runner.launch(spec("cat", stdin="a\ud800b")))
    assert [line.text for line in lines] == ["a?b"]


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false", "/bin/true"])
async def test_a_shim_that_cannot_start_is_a_launch_error_and_never_runs(state: Path, python: str) -> None:
    async with serving(state, python=python) as runner:
        with pytest.raises(LaunchError):
            await runner.launch(spec("true"))
        assert await runner.attach(SESSION, 1) == NeverStarted()


async def test_launching_into_a_used_folder_does_not_run_anything_twice(state: Path) -> None:
    async with serving(state) as runner:
        first = await ended(await runner.launch(spec("sh", "-c", "echo x >>$AMBIENT_ARTIFACTS/ran")))
        assert await ended(await runner.launch(spec("sh", "-c", "echo x >>$AMBIENT_ARTIFACTS/ran"))) == first
    ran = run_folder.run_folder(state, SESSION, 1) / "artifacts" / "ran"
    assert ran.read_text() == "x\n"


async def test_a_run_that_never_started_cannot_start_after_it_was_asked_for(state: Path) -> None:
    async with serving(state) as runner:
        assert await runner.attach(SESSION, 1) == NeverStarted()
        assert await runner.attach(SESSION, 1) == NeverStarted()
        with pytest.raises(LaunchError):
            await runner.launch(spec("true"))


async def test_an_ended_run_is_found_with_its_result_at_once(state: Path) -> None:
    async with serving(state) as runner:
        before = await ended(await runner.launch(spec("sh", "-c", "exit 9")))
    link = await attached(make(state))
    assert await link.result() == before
    with trio.fail_after(PATIENCE):
        await link.wait_news()
    await link.end(grace=1)


async def test_a_dropped_link_can_be_made_again(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec("sh", "-c", "echo ready; sleep 1000"))
        await follow(link, until="ready")
        await link.aclose()
        await link.wait_news()
        other = await attached(runner)
        await other.wait_news()
        await other.end(grace=0.1)
        assert await ended(link) == await ended(other)
        await link.aclose()
        await other.aclose()


async def test_waiting_for_news_waits(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec("sleep", "1000"))
        with trio.fail_after(PATIENCE):
            while await link.started_at_ms() is None:
                await link.wait_news()
        returned = 0
        with trio.move_on_after(0.5):
            while True:
                await link.wait_news()
                returned += 1
        assert returned <= 3
        assert await link.result() is None
        await link.end(grace=0)
        await ended(link)


LAUNCHER = """
import sys, trio
from pathlib import Path
from tests.host.test_runner import make, spec
async def main():
    async with trio.open_nursery() as nursery:
        runner = make(Path(sys.argv[1]))
        await nursery.start(lambda task_status: runner.run(task_status=task_status))
        await runner.launch(spec("sh", "-c", sys.argv[2], session_id=sys.argv[3]))
        print("launched", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def launch_elsewhere(state: Path, command: str) -> None:
    """Launches from a process of its own, which is killed at once."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(state), command, SESSION], stdout=subprocess.PIPE, cwd=root
    )
    assert process.stdout
    assert process.stdout.readline() == b"launched\n"
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_run_survives_its_daemon_and_is_found_by_the_next(state: Path) -> None:
    launch_elsewhere(state, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo done; exit 3")
    link = await attached(make(state))
    await follow(link, until="ready")
    assert await link.result() is None
    (run_folder.run_folder(state, SESSION, 1) / "work" / "go").touch()
    result, lines = await follow(link)
    assert result is not None
    assert (result.cause, result.exit_code) == ("exit", 3)
    assert [line.text for line in lines] == ["ready", "done"]
    await link.aclose()


async def test_a_run_that_is_not_our_child_can_be_ended(state: Path) -> None:
    launch_elsewhere(state, "sleep 1000 & setsid sleep 1000 & echo ready; wait")
    link = await attached(make(state))
    await follow(link, until="ready")
    await link.end(grace=0.2)
    assert (await ended(link)).proof
    assert marked(MARK) == set()
    await link.aclose()


async def test_a_killed_shim_is_told_truthfully_and_its_leftovers_are_ended(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec("sh", "-c", "setsid sleep 1000 & sleep 1001 & echo ready; wait"))
        await follow(link, until="ready")
        handles = [os.pidfd_open(pid) for pid in wait_marked(3, MARK)]
        assert len(handles) == 3
        os.kill(shim_pid(state), signal.SIGKILL)
        result = await ended(link)
        assert (result.error, result.cause, result.proof) == ("runner_lost", "lost", False)
        assert result.survivors_ended >= 2
        assert result.started_at_ms is not None
        assert result.runtime_ms == result.ended_at_ms - result.started_at_ms
        wait_gone(handles)
        assert await (await attached(runner)).result() == result
        await link.end(grace=1)


async def test_a_run_lost_while_nobody_watched_ended_at_its_last_sign_of_life(state: Path) -> None:
    launch_elsewhere(state, "echo ready; sleep 1000")
    watcher = await attached(make(state))
    await follow(watcher, until="ready")
    await watcher.aclose()
    os.kill(shim_pid(state), signal.SIGKILL)
    folder = run_folder.run_folder(state, SESSION, 1)
    with trio.fail_after(PATIENCE):
        while run_folder.is_alive(folder):
            await trio.sleep(0.01)
    sign = run_folder.last_sign_ms(folder)
    await trio.sleep(1)
    assert sign <= (await ended(await attached(make(state)))).ended_at_ms < sign + 900


async def test_a_lost_run_never_ended_later_than_now(state: Path) -> None:
    launch_elsewhere(state, "echo ready; sleep 1000")
    watcher = await attached(make(state))
    await follow(watcher, until="ready")
    await watcher.aclose()
    os.kill(shim_pid(state), signal.SIGKILL)
    folder = run_folder.run_folder(state, SESSION, 1)
    with trio.fail_after(PATIENCE):
        while run_folder.is_alive(folder):
            await trio.sleep(0.01)
    os.utime(folder / "output", (2**33, 2**33))
    assert (await ended(await attached(make(state)))).ended_at_ms <= time.time() * 1000


FORGED = """
import json, os, socket
os.chdir(os.path.dirname(os.environ["AMBIENT_ARTIFACTS"]))
os.unlink("ctl")
good = {"cause": "exit", "started_at_ms": 1, "ended_at_ms": 9, "runtime_ms": 1}
with open("result.json", "w") as file:
    json.dump(good, file)
listener = socket.socket(socket.AF_UNIX)
listener.bind("ctl")
listener.listen()
print("bound", flush=True)
for _ in range(50):
    link, _ = listener.accept()
    link.sendall(json.dumps({"news": {"ended": True, "started_at_ms": 10**30}}).encode() + b"\\n")
    if link.recv(4096):
        link.sendall(json.dumps({"ok": True, "result": good | {"ended_at_ms": 10**18}}).encode() + b"\\n")
    link.close()
"""


async def test_a_result_forged_while_the_shim_lives_ends_nothing(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec(PYTHON, "-c", FORGED))
        await follow(link, until="bound")
        await link.aclose()
        fresh = await attached(runner)
        for _ in range(5):
            assert await fresh.result() is None
            assert (await fresh.started_at_ms() or 0) < 10**14
            await fresh.wait_news()
        await fresh.aclose()
        os.kill(shim_pid(state), signal.SIGKILL)
        await ended(await attached(runner))


async def test_a_mute_shim_is_unavailable_and_not_ended(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ambientd.host.shim_link.ANSWER_TIMEOUT", 0.2)
    async with serving(state) as runner:
        link = await runner.launch(spec("sleep", "1000"))
        pid = shim_pid(state)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(UnavailableError):
                await link.end(grace=0)
            assert await link.result() is None
        finally:
            os.kill(pid, signal.SIGCONT)
        await link.end(grace=0)
        assert (await ended(link)).cause == "ended"


async def test_an_executor_socket_starts_shims_too(state: Path) -> None:
    place = str(state / "x.sock")
    shims: list[subprocess.Popen[bytes]] = []

    async def executor(stream: trio.SocketStream) -> None:
        command = [PYTHON, "-I", "-S", "-B", str(SHIM), "--socket"]
        shims.append(subprocess.Popen(command, stdin=stream.socket.fileno(), stdout=stream.socket.fileno()))

    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(place)
    listener.listen()
    async with serving(state, executor_socket=place) as runner, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, executor, [trio.SocketListener(listener)])
        result, lines = await follow(await runner.launch(spec("echo", "from the executor")))
        nursery.cancel_scope.cancel()
    assert result is not None
    assert result.exit_code == 0
    assert [line.text for line in lines] == ["from the executor"]
    assert [shim.wait(PATIENCE) for shim in shims] == [0]


async def test_an_absent_executor_is_a_launch_error(state: Path) -> None:
    async with serving(state, executor_socket=str(state / "nobody.sock")) as runner:
        with pytest.raises(LaunchError):
            await runner.launch(spec("true"))


async def test_artifacts_are_regular_files_below_the_folder_only(state: Path) -> None:
    make_them = (
        "cd $AMBIENT_ARTIFACTS; mkdir -p deep/er; printf one >b.txt; printf two >deep/er/a.txt;"
        "ln -s /etc/passwd link; ln -s /etc folder; mkfifo pipe; printf x >$(printf 'odd\\377\\033name')"
    )
    async with serving(state) as runner:
        await ended(await runner.launch(spec("sh", "-c", make_them)))
        found = await runner.artifacts(SESSION, 10)
        few = await runner.artifacts(SESSION, 1)
        none = await runner.artifacts("ses_unknown", 10)
    assert [(item.name, item.bytes) for item in found] == [
        ("b.txt", 3),
        ("deep/er/a.txt", 3),
        ("odd��name", 1),
    ]
    assert found[0].sha256 == hashlib.sha256(b"one").hexdigest()
    assert few == found[:1]
    assert none == []


async def test_discarding_removes_links_and_not_what_they_name(state: Path) -> None:
    outside = state / "outside"
    outside.mkdir(mode=0o750)
    (outside / "kept").touch()
    async with serving(state) as runner:
        command = f"ln -s {outside} out; mkdir -p a/b/c; touch a/b/c/f; chmod 0 a/b; chmod 500 a"
        await ended(await runner.launch(spec("sh", "-c", command)))
        await runner.discard(SESSION)
        await runner.discard(SESSION)
    assert (outside / "kept").exists()
    assert outside.stat().st_mode & 0o777 == 0o750
    assert list((state / "sessions").iterdir()) == []


async def test_discarding_a_very_deep_tree_works(state: Path) -> None:
    code = "import os\nfor _ in range(3000):\n os.mkdir('d'); os.chdir('d')"
    async with serving(state) as runner:
        result = await ended(await runner.launch(spec(PYTHON, "-I", "-S", "-c", code)))
        assert result.exit_code == 0
        await runner.discard(SESSION)
    assert list((state / "sessions").iterdir()) == []


async def test_a_live_session_is_not_discarded(state: Path) -> None:
    async with serving(state) as runner:
        link = await runner.launch(spec("sleep", "1000"))
        with pytest.raises(UnavailableError):
            await runner.discard(SESSION)
        await link.end(grace=0)
        await ended(link)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "x\0y", "a" * 200])
async def test_an_id_that_is_no_plain_name_touches_nothing(state: Path, name: str) -> None:
    with pytest.raises(ValueError, match="session id"):
        await make(state).discard(name)


def test_output_is_read_in_complete_records_from_any_offset(tmp_path: Path) -> None:
    data = b"1 o0 3\none\n2 e1 4\nt\nwo\n3 o0 0\n\n4 o0 9\ntorn"
    (tmp_path / "output").write_bytes(data)
    chunk = run_folder.read_output(tmp_path, 0)
    assert [(line.at_ms, line.stream, line.text, line.partial) for line in chunk.lines] == [
        (1, "out", "one", False),
        (2, "err", "t\nwo", True),
        (3, "out", "", False),
    ]
    assert chunk.next_offset == data.index(b"4 o0")
    again = run_folder.read_output(tmp_path, chunk.next_offset)
    assert (again.lines, again.next_offset) == ((), chunk.next_offset)
    (tmp_path / "output").write_bytes(data + b" more\n")
    assert [line.text for line in run_folder.read_output(tmp_path, chunk.next_offset).lines] == ["torn more"]


def test_chunks_are_bounded_and_a_record_larger_than_a_chunk_still_arrives(tmp_path: Path) -> None:
    size = run_folder.CHUNK_SIZE + 5000
    records = [b"%d o0 %d\n%s\n" % (n, size, b"x" * size) for n in range(3)] + [b"9 o0 1\ny\n"] * 40_000
    (tmp_path / "output").write_bytes(b"".join(records))
    offset, lengths = 0, []
    while (chunk := run_folder.read_output(tmp_path, offset)).next_offset > offset:
        offset = chunk.next_offset
        lengths.append(len(chunk.lines))
    assert lengths[:3] == [1, 1, 1]
    assert sum(lengths) == 40_003
    assert len(lengths) > 4


def test_bytes_that_no_shim_wrote_are_passed_over(tmp_path: Path) -> None:
    junk = b"hello\n1 o0 99999999\n" + b"z" * 50 + b"\n"
    (tmp_path / "output").write_bytes(b"1 o0 3\none\n" + junk + b"2 o0 3\ntwo\n")
    assert [line.text for line in run_folder.read_output(tmp_path, 0).lines] == ["one", "two"]
    (tmp_path / "output").unlink()
    (tmp_path / "output").symlink_to("/etc/passwd")
    assert run_folder.read_output(tmp_path, 0).lines == ()


def test_a_result_that_no_shim_wrote_is_no_result(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"cause": 1}', "x" * 100_000):
        (tmp_path / "result.json").write_text(text)
        assert run_folder.read_result(tmp_path) is None
