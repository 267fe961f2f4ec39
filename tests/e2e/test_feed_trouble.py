"""What a hostile or broken place for the feed does to a running node: it costs beats, and nothing else."""

import fcntl
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.consumers import check_feed
from tests.e2e.feedkit import assert_goes_on, assert_serves_readers, chained_feed, feed_helper, feed_status
from tests.e2e.harness import Node

MakeNode = Callable[..., Node]
PATIENTS = 5
TIMEOUT = {"heartbeat": {"timeout": "500ms"}}


def without_override() -> list[str]:
    """Root passes every permission check; a wrapper that takes that away."""
    if os.geteuid() or not shutil.which("setpriv"):
        return []
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]


@pytest.fixture(scope="module")
def silent(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node whose feed is refused from the start; left alone until a hundred beats are lost."""
    yield from shared_node(request, Node(environment={"LUKA_ACTIVITY_FEED_JSONL": "logs/../../x"}))


@pytest.fixture(scope="module")
def patients(request: pytest.FixtureRequest, silent: Node) -> Iterator[list[Node]]:
    """Nodes whose feeds, outside the state directory, are damaged and mended again and again."""
    with ExitStack() as stack:
        yield [stack.enter_context(contextmanager(shared_node)(request, patient())) for _ in range(PATIENTS)]


def patient() -> Node:
    """One of them, not started."""
    node = Node(TIMEOUT, wrapper=without_override(), environment={"COLUMNS": "200"})
    feed = node.root / "feeds/feed.jsonl"
    feed.parent.mkdir()
    node.environment["LUKA_ACTIVITY_FEED_JSONL"] = str(feed)
    return node


def shared_node(request: pytest.FixtureRequest, node: Node) -> Iterator[Node]:
    """Runs a node for the tests of this module."""
    failed = request.session.testsfailed
    try:
        yield node.start()
    finally:
        node.close(keep=request.session.testsfailed > failed)


# --- the ways to damage a feed; each builds a folder in place of the good one


def nothing(folder: Path) -> None:
    """The parent is missing, and outside the state directory it is not made."""


def a_file_as_parent(folder: Path) -> None:
    folder.write_text("a file\n")


def a_loop_as_parent(folder: Path) -> None:
    folder.symlink_to(folder.parent / "feeds")


def a_folder(folder: Path) -> None:
    (folder / "feed.jsonl").mkdir(parents=True)


def a_fifo(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "feed.jsonl")


def a_socket(folder: Path) -> None:
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(folder / "feed.jsonl"))


def a_link_to_a_device(folder: Path) -> None:
    folder.mkdir()
    (folder / "feed.jsonl").symlink_to("/dev/null")


def a_dangling_link(folder: Path) -> None:
    folder.mkdir()
    (folder / "feed.jsonl").symlink_to("not-there.jsonl")


def a_link_to_itself(folder: Path) -> None:
    folder.mkdir()
    (folder / "feed.jsonl").symlink_to("feed.jsonl")


def a_link_elsewhere(folder: Path) -> None:
    folder.mkdir()
    (folder.parent / "precious").write_text('{"a":1}\n')
    (folder / "feed.jsonl").symlink_to("../precious")


def a_hard_link(folder: Path) -> None:
    folder.mkdir()
    (folder / "precious").write_text('{"a":1}\n')
    os.link(folder / "precious", folder / "feed.jsonl")


def a_closed_folder(folder: Path) -> None:
    folder.mkdir(mode=0o555)


def a_read_only_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "feed.jsonl").write_bytes(b"")
    (folder / "feed.jsonl").chmod(0o444)


def something_else(folder: Path) -> None:
    folder.mkdir()
    (folder / "feed.jsonl").write_bytes(b"\x7fELF, or a diary\n" * 40)


def a_chained_feed(folder: Path) -> None:
    folder.mkdir()
    (folder / "feed.jsonl").write_bytes(chained_feed(5))


@contextmanager
def in_place_of(node: Node, build: Callable[[Path], None]) -> Iterator[Path]:
    """Puts a damaged folder where the good one was, and the good one back in the end."""
    here, good, bad = (node.root / name for name in ("feeds", "feeds.good", "feeds.bad"))
    build(bad)
    here.rename(good)
    with suppress(FileNotFoundError):
        bad.rename(here)
    try:
        yield here
    finally:
        with suppress(FileNotFoundError):
            here.rename(bad)
        good.rename(here)
        if bad.is_dir() and not bad.is_symlink():
            bad.chmod(0o755)
            shutil.rmtree(bad)
        else:
            bad.unlink(missing_ok=True)
        (node.root / "precious").unlink(missing_ok=True)


def contents(folder: Path) -> dict[str, Any]:
    """What is in a place and beside it: names, kinds, bytes."""
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in (folder, folder.parent / "precious", *sorted(folder.rglob("*")))
        if os.path.lexists(path)
    }


def assert_recovers(node: Node, mended: Callable[[], object] = lambda: None) -> None:
    """Beats are appended again without a restart, and what was lost is told exactly.

    Each hole in `heartbeat_seq` is as long as the next beat's `meta.dropped`, and all together are what
    the status counts.
    """
    mended()
    last = node.beats()[-1]["heartbeat_seq"]
    node.wait_for(lambda: node.beats()[-1]["heartbeat_seq"] >= last + 3)
    now = node.wait_for(lambda: None if feed_status(node).get("failing") else feed_status(node))
    beats = [event for event in node.beats() if event["pid"] == node.pid]
    seqs = [0, *(event["heartbeat_seq"] for event in beats)]
    holes = [later - earlier - 1 for earlier, later in pairwise(seqs)]
    assert [event["meta"].get("dropped", 0) for event in beats] == holes
    assert now["lost"] == sum(holes)
    assert "refused" not in now
    assert_serves_readers(node)


HOSTILE: tuple[tuple[Callable[[Path], None], str, bool], ...] = (
    (nothing, "ENOENT", False),
    (a_file_as_parent, "ENOTDIR", False),
    (a_loop_as_parent, "loop", True),
    (a_folder, "a folder", True),
    (a_fifo, "a FIFO", True),
    (a_socket, "a socket", True),
    (a_link_to_a_device, "symlink out of its folder", True),
    (a_dangling_link, "symlink that leads nowhere", True),
    (a_link_to_itself, "symlink", True),
    (a_link_elsewhere, "symlink out of its folder", True),
    (a_hard_link, "hard link", True),
    (a_closed_folder, "EACCES", False),
    (a_read_only_file, "EACCES", False),
    (something_else, "no activity feed", True),
    (a_chained_feed, "hash-chained", True),
)
"""What is there instead, a word of the reason, and whether a person must act."""


@pytest.fixture(scope="module")
def examined(patients: list[Node]) -> Mapping[str, Future[None]]:
    """All hostile places, several at a time: each takes ten cycles."""
    free: SimpleQueue[Node] = SimpleQueue()
    for node in patients:
        free.put(node)

    def examine(build: Callable[[Path], None], reason: str, final: bool) -> None:
        node = free.get()
        try:
            assert_hostile_place_costs_beats(node, build, reason, final=final)
        finally:
            free.put(node)

    with ThreadPoolExecutor(PATIENTS) as pool:
        return {case[0].__name__: pool.submit(examine, *case) for case in HOSTILE}


@pytest.mark.parametrize("build", [case[0] for case in HOSTILE])
def test_a_hostile_place_costs_beats_that_are_counted_and_nothing_else(
    examined: Mapping[str, Future[None]], build: Callable[[Path], None]
) -> None:
    if build in (a_closed_folder, a_read_only_file) and not os.geteuid() and not without_override():
        pytest.skip("root may do everything here")
    examined[build.__name__].result()


def assert_hostile_place_costs_beats(
    patient: Node, build: Callable[[Path], None], reason: str, *, final: bool
) -> None:
    patient.wait_for(patient.beats)
    lost = feed_status(patient)["lost"]
    with in_place_of(patient, build) as folder:
        before = contents(folder)
        assert_goes_on(patient)
        told = patient.wait_for(lambda: now if (now := feed_status(patient))["lost"] > lost + 3 else None)
        assert reason in told["lastError"]
        assert (told.get("refused") == told["lastError"]) is final
        shown = patient.ctl("status", "--check")
        assert shown.returncode == 10
        assert reason in shown.stdout
        assert contents(folder) == before
        if build is a_chained_feed:
            assert [text for text in check_feed(folder / "feed.jsonl", live=False) if "chain" in text] == []
    assert not (patient.state / "observability").exists()
    assert_recovers(patient)


def test_a_lock_that_another_process_holds_costs_beats_and_no_cycle(patients: list[Node]) -> None:
    patient = patients[0]
    patient.wait_for(patient.beats)
    with patient.feed.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        raw = patient.feed.read_bytes()
        assert_goes_on(patient)
        told = patient.wait_for(lambda: now if (now := feed_status(patient)).get("failing") else None)
        assert "holds the feed's lock" in told["lastError"]
        assert patient.feed.read_bytes() == raw
    assert_recovers(patient)


def test_a_file_size_limit_leaves_no_part_of_a_line(patients: list[Node]) -> None:
    patient = patients[0]
    patient.wait_for(patient.beats)
    helper = patient.wait_for(lambda: feed_helper(patient))
    _, hard = resource.prlimit(helper, resource.RLIMIT_FSIZE)
    lost, size = feed_status(patient)["lost"], patient.feed.stat().st_size
    resource.prlimit(helper, resource.RLIMIT_FSIZE, (size + 1000, hard))
    patient.wait_for(lambda: feed_status(patient)["lost"] >= lost + 5)
    assert "short write" in feed_status(patient)["lastError"]
    assert_goes_on(patient)
    raw = patient.feed.read_bytes()
    assert size <= len(raw) <= size + 1000
    assert raw.endswith(b"}\n")
    assert feed_helper(patient) == helper
    assert_recovers(patient, lambda: resource.prlimit(helper, resource.RLIMIT_FSIZE, (hard, hard)))


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_helper_that_hangs_or_dies_is_replaced(patients: list[Node], number: signal.Signals) -> None:
    patient = patients[0]
    patient.wait_for(patient.beats)
    helper = patient.wait_for(lambda: feed_helper(patient))
    os.kill(helper, number)
    assert_goes_on(patient, 3)
    patient.wait_for(lambda: feed_helper(patient) not in (None, helper))
    assert not Path(f"/proc/{helper}").exists(), "a zombie, or still stopped"
    assert_recovers(patient)


def test_a_hundred_lost_beats_are_counted_and_logged_twice_a_minute_at_most(silent: Node) -> None:
    told = silent.wait_for(lambda: now if (now := feed_status(silent))["lost"] >= 100 else None, 60)
    assert told["seq"] - told["lost"] in (0, 1)
    assert "'..'" in told["refused"]
    assert "lastAt" not in told
    lines = [event for event in silent.log_events() if event["event"].startswith("feed.")]
    minutes = 1 + told["cycles"] // 600
    assert 1 <= len(lines) <= 2 * minutes
    assert feed_helper(silent) is None
    assert not (silent.state / "observability").exists()
    assert not list(silent.root.glob("x*"))
    assert silent.stop().code == 0
    assert silent.heartbeat()["status"] == "stopped"


def test_a_stop_under_a_held_lock_waits_a_moment_and_ends_well(new_node: MakeNode) -> None:
    node = new_node(TIMEOUT)
    node.wait_for(node.beats)
    with node.feed.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        raw = node.feed.read_bytes()
        code, seconds = node.stop()
        assert code == 0
        assert seconds < 5
        assert node.feed.read_bytes() == raw
    assert node.heartbeat()["status"] == "stopped"
