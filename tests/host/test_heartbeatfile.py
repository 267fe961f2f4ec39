import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ambientd.config.schema import HostIdSource
from ambientd.core.hostid import NODE_ONLY, WITH_MACHINE, build_host_id
from ambientd.host import facts
from ambientd.host.heartbeatfile import DiskHeartbeatFile


async def run_here(work: Callable[[], None]) -> None:
    await trio.lowlevel.checkpoint()
    work()


async def test_readers_only_ever_see_a_whole_document(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    file = DiskHeartbeatFile(str(path), run_sync=run_here)
    assert await file.write({"cycles": 0, "text": "x" * 5000})
    stop = threading.Event()
    bad: list[Exception] = []
    seen: set[int] = set()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add(json.loads(path.read_bytes())["cycles"])
            except (ValueError, OSError) as error:
                bad.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for cycle in range(300):
        assert await file.write({"cycles": cycle, "text": "x" * (cycle % 7) * 999})
    stop.set()
    reader.join()
    assert bad == []
    assert len(seen) > 1
    assert os.listdir(tmp_path) == ["heartbeat.json"]


async def test_a_path_that_cannot_be_written_is_counted_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    path.mkdir()
    file = DiskHeartbeatFile(str(path))
    for count in range(1, 4):
        assert not await file.write({})
        assert file.failures == count
    assert file.last_error == file.error == "Is a directory"
    assert os.listdir(tmp_path) == ["heartbeat.json"]
    path.rmdir()
    assert await file.write({"a": 1})
    assert file.last_error == "Is a directory"
    assert not file.error
    assert json.loads(path.read_bytes()) == {"a": 1}


async def test_a_folder_that_is_gone_is_counted(tmp_path: Path) -> None:
    file = DiskHeartbeatFile(str(tmp_path / "gone" / "heartbeat.json"), run_sync=run_here)
    assert not await file.write({})
    assert file.last_error == "No such file or directory"


async def test_a_symlink_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = tmp_path / "heartbeat.json"
    file = DiskHeartbeatFile(str(path), run_sync=run_here)
    assert await file.write({})
    (tmp_path / f"heartbeat.json.{os.getpid()}.tmp").symlink_to(victim)
    assert not await file.write({})
    assert victim.read_bytes() == b"precious"


async def test_what_killed_processes_left_is_removed_and_nothing_else_is(tmp_path: Path) -> None:
    others = {"heartbeat.json.x.tmp", "heartbeat.json.1", "stopped.json.1.tmp"}
    for name in ("heartbeat.json.123.tmp", "heartbeat.json.4.tmp", *others):
        (tmp_path / name).write_bytes(b"{")
    file = DiskHeartbeatFile(str(tmp_path / "heartbeat.json"), run_sync=run_here)
    assert await file.write({})
    assert set(os.listdir(tmp_path)) == {"heartbeat.json", *others}


async def test_a_hanging_file_system_costs_one_thread_and_no_cycle(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    release, calls = threading.Event(), 0

    async def hang(work: Callable[[], None]) -> None:
        nonlocal calls
        calls += 1

        def late() -> None:
            release.wait(60)
            work()

        await trio.to_thread.run_sync(late, abandon_on_cancel=True)

    file = DiskHeartbeatFile(str(path), timeout=0.1, run_sync=hang)
    with trio.fail_after(30):
        for _ in range(5):
            assert not await file.write({})
        assert calls == 1
        assert file.failures == 5
        release.set()
        while not path.exists():
            await trio.sleep(0.01)
        await trio.sleep(0.05)
        assert await file.write({"a": 1})


async def test_a_write_that_is_cancelled_ends_before_the_next_one_is_made(tmp_path: Path) -> None:
    path, began = tmp_path / "heartbeat.json", threading.Event()

    async def slowly(work: Callable[[], None]) -> None:
        def late() -> None:
            began.set()
            threading.Event().wait(0.1)
            work()

        await trio.to_thread.run_sync(late, abandon_on_cancel=True)

    file = DiskHeartbeatFile(str(path), run_sync=slowly)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.write, {"status": "watching"})
        while not began.is_set():
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert await file.write({"status": "stopped"})
    assert json.loads(path.read_bytes()) == {"status": "stopped"}
    assert file.failures == 0


async def test_a_write_that_is_cancelled_before_it_began_is_no_hanging_write(tmp_path: Path) -> None:
    file = DiskHeartbeatFile(str(tmp_path / "heartbeat.json"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.write({"status": "watching"})
    assert scope.cancelled_caught
    assert await file.write({"status": "stopped"})


async def test_a_machine_without_a_thread_to_give_costs_one_write(tmp_path: Path) -> None:
    problems = [RuntimeError("can't start new thread")]

    async def sometimes(work: Callable[[], None]) -> None:
        if problems:
            raise problems.pop()
        await run_here(work)

    file = DiskHeartbeatFile(str(tmp_path / "heartbeat.json"), run_sync=sometimes)
    assert not await file.write({})
    assert file.error == "can't start new thread"
    assert await file.write({})


# --- facts of the machine


def test_the_machine_id_comes_from_the_first_file_that_holds_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    files = (str(first), str(second))
    assert facts.machine_id(files) is None
    second.write_text("2" * 32 + "\n")
    assert facts.machine_id(files) == "2" * 32
    for useless in ("", "\n", "uninitialized\n", "0" * 32, "\xff\xfe", "x" * 32):
        first.write_text(useless)
        assert facts.machine_id(files) == "2" * 32
    first.write_text("11111111-2222-3333-4444-555555555555\n")
    assert facts.machine_id(files) == "11111111-2222-3333-4444-555555555555"


def test_the_host_id_is_stable_and_falls_back_to_the_node_name(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    files = (str(file),)
    file.write_text("11111111-2222-3333-4444-555555555555\n")
    made = facts.host_id("node-1", HostIdSource.AUTO, files)
    assert made == facts.host_id("node-1", HostIdSource.AUTO, files)
    assert made.value.endswith("ef062")
    assert made.algorithm == WITH_MACHINE
    assert facts.host_id("node-1", HostIdSource.NAME, files) == build_host_id("node-1", None)
    file.write_bytes(b"")
    assert facts.host_id("node-1", HostIdSource.AUTO, files).algorithm == NODE_ONLY
    file.unlink()
    assert facts.host_id("node-1", HostIdSource.AUTO, files).value.endswith("f617d")


def test_the_host_name_serves_when_no_name_is_configured() -> None:
    assert facts.node_name(None) == os.uname().nodename
    assert facts.node_name("edge-07") == "edge-07"


def test_the_start_time_is_this_process_start() -> None:
    import time

    now_ms = int(time.time() * 1000)
    started_ms = facts.process_started_ms(now_ms)
    age_sec = float(Path("/proc/uptime").read_text().split()[0]) - _start_ticks() / os.sysconf("SC_CLK_TCK")
    assert started_ms == pytest.approx(now_ms - age_sec * 1000, abs=3000)


def _start_ticks() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.parametrize(
    ("own", "machine"),
    [
        ("", "btime 1700000000\n"),
        ("7 (a) b) S " + "0 " * 18 + "500", ""),
        ("7 (x) S 1", "btime 1700000000\n"),
        ("7 (x) S " + "0 " * 18 + "500", "btime 9700000000\n"),
    ],
)
def test_an_odd_kernel_gives_the_present_time(tmp_path: Path, own: str, machine: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_text(own)
    (tmp_path / "stat").write_text(machine)
    assert facts.process_started_ms(1_795_000_000_000, str(tmp_path)) == 1_795_000_000_000


def test_a_process_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_text("7 (a) b) S " + "0 " * 18 + "500 0 0")
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1700000000\nx\n")
    wanted = 1_700_000_000_000 + 500_000 // os.sysconf("SC_CLK_TCK")
    assert facts.process_started_ms(1_701_000_000_000, str(tmp_path)) == wanted


def test_reading_all_facts_never_fails() -> None:
    read = facts.read_host_facts(configured_name="n", source=HostIdSource.AUTO, now_ms=1_795_000_000_000)
    assert read.node_name == "n"
    assert read.host_id.startswith("sha256:")
    assert read.host_id_source in (WITH_MACHINE, NODE_ONLY)
