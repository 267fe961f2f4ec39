import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from ambientd.host.feedopen import file_system_of
from tests.consumers import check_feed
from tests.host.feedfile_kit import ROOT, Feed, feed, write_lines

__all__ = ["feed"]


# --- the ordinary case


def test_beats_are_appended_to_a_feed_that_is_made_below_the_state_directory(feed: Feed) -> None:
    feed.good(3)
    assert [event["heartbeat_seq"] for event in feed.events()] == [1, 2, 3]
    assert check_feed(feed.path) == []
    assert stat.S_IMODE(feed.path.parent.stat().st_mode) & 0o027 == 0


def test_folders_outside_the_state_directory_are_not_made(tmp_path: Path) -> None:
    feed = Feed(tmp_path / "other" / "f.jsonl", tmp_path / "state")
    (tmp_path / "state").mkdir()
    assert feed.beat()["error"].startswith("ENOENT")
    assert not (tmp_path / "other").exists()
    (tmp_path / "other").mkdir()
    feed.good()
    assert feed.events()[0]["heartbeat_seq"] == 2


def test_one_beat_is_one_write_and_one_sync(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.host.feedfile_kit import Feed\n"
        "folder = Path(sys.argv[1])\n"
        "feed = Feed(folder / 'feed.jsonl', folder)\n"
        "feed.good(5)\n"
    )
    command = [strace, "-f", "-y", "-e", "trace=write,writev,pwrite64,fdatasync", "-o", str(trace)]
    done = subprocess.run(
        [*command, sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode and b"ptrace" in done.stderr.lower():
        pytest.skip("tracing is not permitted here")
    assert done.returncode == 0, done.stderr
    calls = [
        line.split("(")[0].split()[-1] for line in trace.read_text().splitlines() if "feed.jsonl>" in line
    ]
    assert calls == ["write", "fdatasync"] * 5


# --- hostile paths (R2.33, R2.41, F1)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(path))


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def make_link_out(path: Path) -> None:
    outside = path.parent.parent / "outside.jsonl"
    outside.write_bytes(b"")
    path.symlink_to(outside)


def make_link_to_link(path: Path) -> None:
    (path.parent / "real").write_bytes(b"")
    (path.parent / "middle").symlink_to("real")
    path.symlink_to("middle")


def make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


def make_link_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_hard_link(path: Path) -> None:
    other = path.parent.parent / "precious"
    other.write_bytes(b"")
    os.link(other, path)


def make_device_link(path: Path) -> None:
    path.symlink_to("/dev/full")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_directory, "a folder"),
        (make_fifo, "a FIFO"),
        (make_socket, "a socket"),
        (make_dangling_link, "leads nowhere"),
        (make_link_out, "out of its folder"),
        (make_link_to_link, "symlink to a symlink"),
        (make_link_to_fifo, "a FIFO"),
        (make_link_loop, "symlink to a symlink"),
        (make_hard_link, "hard link"),
        (make_device_link, "out of its folder"),
    ],
)
def test_what_is_no_plain_file_is_refused_and_beats_go_on_when_it_is_mended(
    make: Callable[[Path], None], reason: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path must be short
    try:
        feed = Feed(folder / "logs" / "f.jsonl", folder)
        feed.path.parent.mkdir()
        make(feed.path)
        before = sorted(str(path) for path in folder.rglob("*"))
        began = time.monotonic()
        for _ in range(10):
            answer = feed.beat()
            assert not answer["ok"]
            assert reason in answer["refused"]
        assert time.monotonic() - began < 5
        assert sorted(str(path) for path in folder.rglob("*")) == before
        assert not any(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        feed.path.rmdir() if feed.path.is_dir() and not feed.path.is_symlink() else feed.path.unlink()
        feed.good()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/null", "character device"),
        ("/dev/full", "character device"),
        ("/proc/self/mem", "on proc"),
        ("/proc/self/comm", "on proc"),
        ("/proc/no-such-file", "on proc"),
        pytest.param(
            "/sys/kernel/notes",
            "on sysfs",
            marks=pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="sysfs is not mounted here"),
        ),
    ],
)
def test_devices_and_kernel_files_are_refused(tmp_path: Path, path: str, reason: str) -> None:
    answer = Feed(Path(path), tmp_path).beat()
    assert not answer["ok"]
    assert reason in answer.get("refused", "") or "on devtmpfs" in answer.get("refused", "")


@pytest.mark.parametrize(
    ("name", "code"),
    [("x" * 256, "ENAMETOOLONG"), ("file/under", "ENOTDIR"), ("loop/under", ""), ("gone/../x", "ENOENT")],
)
def test_paths_that_lead_nowhere_lose_beats_and_nothing_else(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    answer = Feed(Path(f"{tmp_path}/{name}"), Path("/nonexistent")).beat()
    assert not answer["ok"]
    assert answer.get("error", "").startswith(code) or "loop of symlinks" in answer.get("refused", "")


def test_a_symlink_to_a_file_in_the_same_folder_is_followed(feed: Feed) -> None:
    feed.path.parent.mkdir()
    real = feed.path.parent / "real.jsonl"
    real.write_bytes(b"")
    feed.path.symlink_to("real.jsonl")
    feed.good()
    feed.path.unlink()
    feed.path.symlink_to(real)
    feed.good()
    assert len(real.read_bytes().splitlines()) == 2
    assert feed.path.is_symlink()


def test_a_feed_swapped_for_a_symlink_never_reaches_the_target(feed: Feed, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    feed.good()
    stop = threading.Event()

    def swap() -> None:
        link, spare = tmp_path / "link", tmp_path / "logs" / "spare"
        while not stop.is_set():
            with contextlib.suppress(OSError):
                link.symlink_to(victim)
                os.replace(link, feed.path)
                spare.write_bytes(b"")
                os.replace(spare, feed.path)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        written = sum(feed.beat(budget=0.5)["ok"] for _ in range(500))
    finally:
        stop.set()
        swapper.join()
    assert victim.read_bytes() == b""
    assert written > 0


@pytest.mark.skipif(not ROOT, reason="mounting needs root")
def test_a_full_file_system_loses_whole_beats_and_takes_partial_ones_back(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=16k", "tmpfs") as folder:
        feed = Feed(folder / "f.jsonl", folder)
        answers = [feed.beat() for _ in range(60)]
        assert answers[0]["ok"]
        assert not answers[-1]["ok"]
        assert {answer["error"][:11] for answer in answers if not answer["ok"]} <= {
            "ENOSPC: No ",
            "short write",
        }
        assert len(feed.events()) == sum(answer["ok"] for answer in answers)
        assert check_feed(feed.path) == []
        os.truncate(feed.path, 0)
        feed.good()


@pytest.mark.skipif(not ROOT, reason="mounting needs root")
def test_a_read_only_file_system_loses_beats_until_it_is_writable(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "-t", "tmpfs", "tmpfs") as folder:
        feed = Feed(folder / "f.jsonl", folder)
        feed.good()
        mount("-o", "remount,ro", str(folder))
        assert feed.beat()["error"].startswith("EROFS")
        mount("-o", "remount,rw", str(folder))
        feed.good()
        assert [event["heartbeat_seq"] for event in feed.events()] == [1, 3]


@pytest.mark.skipif(not ROOT, reason="mounting needs root")
def test_the_kind_of_a_file_system_is_known_by_its_mount(tmp_path: Path) -> None:
    with mounted(tmp_path / "m", "-t", "tmpfs", "tmpfs") as folder, open(folder / "x", "wb") as file:
        assert file_system_of(file.fileno()) == "tmpfs"


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.decode()}")


@contextlib.contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[Path]:
    place.mkdir()
    mount(*arguments, str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _beat_under_a_size_limit(folder: str) -> None:
    feed = Feed(Path(folder) / "f.jsonl", Path(folder))
    feed.good(2)
    size = feed.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
    lost = [feed.beat(), feed.beat()]
    assert all("short write: 100 of" in answer["error"] for answer in lost), lost
    assert feed.path.stat().st_size == size


def test_a_short_write_is_taken_back_at_once(tmp_path: Path) -> None:
    child = get_context("spawn").Process(target=_beat_under_a_size_limit, args=(str(tmp_path),))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert check_feed(tmp_path / "f.jsonl") == []


def test_a_failing_sync_takes_the_line_back_so_that_the_count_stays_true(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.good()
    real = os.fdatasync

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    assert feed.beat()["error"].startswith("EIO")
    monkeypatch.setattr(os, "fdatasync", real)
    feed.good()
    assert [event["heartbeat_seq"] for event in feed.events()] == [1, 3]


# --- the lock


def test_a_held_lock_costs_the_beat_after_its_budget_and_is_polled_not_awaited(feed: Feed) -> None:
    feed.good()
    with open(feed.path, "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        before = feed.clocks.now
        answer = feed.beat(budget=2.0)
        assert answer["error"] == "another process holds the feed's lock"
        assert 2.0 <= feed.clocks.now - before < 2.1
        feed.clocks.slept = [lambda: None, lambda: fcntl.flock(holder, fcntl.LOCK_UN)]
        feed.good()
    assert [event["heartbeat_seq"] for event in feed.events()] == [1, 3]


def test_eight_writers_lose_and_tear_nothing(tmp_path: Path) -> None:
    count = int(os.environ.get("AMBIENT_TEST_LINES", "250"))
    context = get_context("spawn")
    writers = [context.Process(target=write_lines, args=(str(tmp_path), run, count)) for run in range(1, 9)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(240)
    assert [writer.exitcode for writer in writers] == [0] * 8
    events = [json.loads(line) for line in (tmp_path / "f.jsonl").read_bytes().splitlines()]
    assert len(events) == 8 * count
    for run in range(1, 9):
        assert [event["heartbeat_seq"] for event in events if event["pid"] == run] == list(
            range(1, count + 1)
        )
    assert check_feed(tmp_path / "f.jsonl") == []
