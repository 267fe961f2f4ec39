import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ambientd.core.feedpath import FeedPath
from ambientd.core.heartbeat import build_event, build_run_id
from ambientd.host.feed_process import HelperLostError, HelperProcess, start_helper
from ambientd.host.feed_writer import KILL_WAIT, QUEUE_BEATS, REPAIR_LIMIT, FeedWriter
from tests.consumers import check_feed
from tests.fakes.feed_helper import HelperFactory, ScriptedHelper
from tests.fakes.log import ListLog

HOST = "sha256:" + "0" * 64
STARTED_MS = 1_795_000_000_000


class Beats:
    """A writer, its log, and beats with increasing numbers."""

    def __init__(
        self,
        path: str | None = "/feed",
        *,
        start: Any = None,
        timeout: float = 5.0,
        state: str = "/",
        **more: Any,
    ) -> None:
        self.log = ListLog()
        refusal = None if path else "heartbeat.feed: the path holds a '..' component"
        self.writer = FeedWriter(
            place=FeedPath(path, refusal, "default"),
            state_dir=state,
            host_id=HOST,
            timeout=timeout,
            max_size=1 << 24,
            keep=86_400,
            log=self.log,
            start=start,
            **more,
        )
        self.seq = 0

    def event(self) -> dict[str, Any]:
        self.seq += 1
        return build_event(
            at_ms=int(time.time() * 1000),
            actor="dispatcher",
            run_id=build_run_id(STARTED_MS, 7),
            host_id=HOST,
            pid=7,
            seq=self.seq,
            interval=60,
            meta={"state": "watching", "dropped": self.writer.lost_since_written()},
        )

    def offer(self, count: int = 1) -> None:
        for _ in range(count):
            self.writer.offer(self.event())

    def refused(self) -> str | None:
        return self.writer.snapshot().refused

    @property
    def lost(self) -> int:
        return self.writer.snapshot().lost


@contextlib.asynccontextmanager
async def running(beats: Beats) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(beats.writer.run)
        yield
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


# --- with a scripted helper and virtual time


async def test_beats_reach_the_helper_in_order(autojump_clock: trio.testing.MockClock) -> None:
    factory = HelperFactory()
    beats = Beats(start=factory)
    async with running(beats):
        beats.offer(3)
        assert await beats.writer.flush(1)
        (helper,) = factory.started
        assert [request["event"]["heartbeat_seq"] for request in helper.requests] == [1, 2, 3]
        assert helper.requests[0]["budget"] == pytest.approx(4.0)
    assert beats.lost == 0
    assert helper.closed


async def test_a_refused_path_loses_every_beat_says_why_and_starts_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    factory = HelperFactory()
    beats = Beats(None, start=factory)
    async with running(beats):
        beats.offer(5)
        await settled()
        snapshot = beats.writer.snapshot()
    assert (snapshot.lost, snapshot.path) == (5, None)
    assert snapshot.refused == "heartbeat.feed: the path holds a '..' component"
    assert factory.started == []


async def test_a_feed_that_is_switched_off_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    factory = HelperFactory()
    beats = Beats(start=factory, enabled=False)
    async with running(beats):
        beats.offer(100)
        assert await beats.writer.flush(1)
    assert beats.lost == 0
    assert not beats.writer.snapshot().enabled
    assert factory.started == []


async def test_a_full_queue_loses_the_beats_that_do_not_fit(autojump_clock: trio.testing.MockClock) -> None:
    helper = ScriptedHelper()
    helper.answers = ["hang"]
    beats = Beats(start=HelperFactory(helper))
    async with running(beats):
        beats.offer()
        await settled()
        beats.offer(QUEUE_BEATS + 3)
        assert beats.lost == 3
        await trio.sleep(60)
        assert beats.lost == 4
        assert beats.writer.lost_since_written() == 0


async def test_a_hundred_failures_count_a_hundred_and_log_at_most_twice_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    helper = ScriptedHelper()
    helper.answers = [{"ok": False, "error": "ENOSPC: No space left on device"}] * 100
    beats = Beats(start=HelperFactory(helper))
    logged_at = []
    async with running(beats):
        for _ in range(100):
            before = len(beats.log.lines)
            beats.offer()
            await trio.sleep(3)
            if len(beats.log.lines) > before:
                logged_at.append(trio.current_time())
        snapshot = beats.writer.snapshot()
        assert (snapshot.lost, snapshot.last_error) == (100, "ENOSPC: No space left on device")
        assert beats.writer.lost_since_written() == 100
        assert all(later - first > 60 for first, later in zip(logged_at, logged_at[2:], strict=False))
        assert len(logged_at) >= 5
        beats.offer()
        await trio.sleep(1)
        assert helper.requests[-1]["event"]["meta"]["dropped"] == 100
        assert (beats.lost, beats.writer.lost_since_written()) == (100, 0)


async def test_a_refusal_stands_until_a_beat_is_written(autojump_clock: trio.testing.MockClock) -> None:
    helper = ScriptedHelper()
    helper.answers = [{"ok": False, "refused": "the feed is a FIFO, not a regular file"}]
    beats = Beats(start=HelperFactory(helper))
    async with running(beats):
        beats.offer()
        await settled()
        assert beats.refused() == "the feed is a FIFO, not a regular file"
        beats.offer()
        await settled()
        assert beats.refused() is None
        assert beats.lost == 1


async def test_a_helper_that_hangs_is_killed_at_the_deadline_and_replaced(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hanging = ScriptedHelper()
    hanging.answers = ["hang"]
    factory = HelperFactory(hanging)
    beats = Beats(start=factory, timeout=5)
    async with running(beats):
        beats.offer()
        await trio.sleep(4.9)
        assert beats.lost == 0
        await trio.sleep(0.2)
        assert hanging.killed
        assert beats.writer.snapshot().last_error == "no answer within 5 s"
        beats.offer()
        await settled()
        assert len(factory.started) == 2
        assert (beats.lost, beats.writer.lost_since_written()) == (1, 0)
        assert factory.started[1].requests[0]["event"]["meta"]["dropped"] == 1
        assert factory.started[1].requests[0]["doubt"] == [1]


async def test_a_beat_of_unknown_fate_that_was_written_after_all_is_not_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first, second = ScriptedHelper(), ScriptedHelper()
    first.answers = ["die"]
    second.answers = [{"ok": True, "at_ms": 1, "clamped_ms": 7, "found": [1], "note": "n", "quarantined": []}]
    beats = Beats(start=HelperFactory(first, second))
    async with running(beats):
        beats.offer()
        await settled()
        assert beats.lost == 1
        await trio.sleep(5)
        beats.offer()
        await settled()
        snapshot = beats.writer.snapshot()
        assert (snapshot.lost, snapshot.clamped_ms, snapshot.note) == (0, 7, "n")


async def test_at_most_one_helper_is_ever_stuck(autojump_clock: trio.testing.MockClock) -> None:
    stuck = ScriptedHelper(immortal=True)
    stuck.answers = ["hang"]
    factory = HelperFactory(stuck)
    beats = Beats(start=factory)
    async with running(beats):
        for _ in range(10):
            beats.offer()
            await trio.sleep(60)
        assert factory.started == [stuck]
        assert beats.lost == 10
        assert "does not answer" in str(beats.writer.snapshot().last_error)
        stuck.release()
        await settled()
        beats.offer()
        await settled()
        assert len(factory.started) == 2
        assert factory.started[1].requests[0]["event"]["meta"]["dropped"] == 10
        assert beats.writer.lost_since_written() == 0


async def test_stopping_does_not_wait_for_a_stuck_helper(autojump_clock: trio.testing.MockClock) -> None:
    stuck = ScriptedHelper(immortal=True)
    stuck.answers = ["hang"]
    beats = Beats(start=HelperFactory(stuck))
    async with running(beats):
        beats.offer()
        await trio.sleep(10)
        beats.offer()
        assert await beats.writer.flush(3)
        began = trio.current_time()
    assert trio.current_time() - began <= 2 * KILL_WAIT + 0.1


async def test_flush_gives_up_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    hanging = ScriptedHelper()
    hanging.answers = ["hang"]
    beats = Beats(start=HelperFactory(hanging))
    async with running(beats):
        beats.offer()
        began = trio.current_time()
        assert not await beats.writer.flush(2)
        assert trio.current_time() - began == pytest.approx(2)
    assert beats.lost == 1


async def test_a_repair_that_shows_progress_is_waited_for_but_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Repairing(ScriptedHelper):
        steps = 10

        async def hear(self) -> dict[str, Any]:
            if self.steps:
                self.steps -= 1
                await trio.sleep(4)
                return {"progress": True}
            return await super().hear()

    patient, endless = Repairing(), Repairing()
    endless.steps = 10**6
    beats = Beats(start=HelperFactory(patient))
    async with running(beats):
        beats.offer()
        await trio.sleep(50)
        assert (beats.lost, beats.writer.lost_since_written()) == (0, 0)
        assert not patient.killed
    beats = Beats(start=HelperFactory(endless))
    async with running(beats):
        beats.offer()
        await trio.sleep(REPAIR_LIMIT + 1)
        assert endless.killed
        assert beats.lost == 1


async def test_a_helper_that_does_not_start_is_tried_again_with_growing_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    failing = [OSError(11, "Resource temporarily unavailable") for _ in range(5)]
    factory = HelperFactory(*failing)
    beats = Beats(start=factory)
    async with running(beats):
        for _ in range(70):
            beats.offer()
            await trio.sleep(1)
        assert len(factory.started) == 1
        assert beats.writer.lost_since_written() == 0
        assert beats.lost > 25  # 1 + 2 + 4 + 8 + 16 s of pauses


async def test_quarantined_pieces_are_counted_and_logged(autojump_clock: trio.testing.MockClock) -> None:
    helper = ScriptedHelper()
    cut = {"name": "f.torn", "offset": 5, "bytes": 9, "reason": "torn or damaged line"}
    helper.answers = [{"ok": False, "error": "x", "quarantined": [cut]}]
    beats = Beats(start=HelperFactory(helper))
    async with running(beats):
        beats.offer()
        await settled()
    assert beats.writer.snapshot().quarantined == 1
    assert ("warning", "feed.quarantined", cut) in beats.log.lines


async def test_an_event_that_cannot_be_encoded_is_lost_and_the_helper_stays(tmp_path: Path) -> None:
    beats = Beats(str(tmp_path / "f.jsonl"), state=str(tmp_path))
    async with running(beats):
        beats.writer.offer({"run_id": {1, 2}})
        beats.offer()
        assert await beats.writer.flush(30)
    assert beats.lost == 1
    assert "cannot be encoded" in str(beats.writer.snapshot().last_error)
    assert len((tmp_path / "f.jsonl").read_bytes().splitlines()) == 1


# --- with the real helper process


def children() -> list[int]:
    """Helper processes of this test process."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text().split() if is_helper(pid)]
    return found


def is_helper(pid: str) -> bool:
    return b"feed_helper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_live_feed_satisfies_every_known_reader(tmp_path: Path) -> None:
    feed = tmp_path / "observability" / "logs" / "activity_feed.jsonl"
    beats = Beats(str(feed), state=str(tmp_path))
    async with running(beats):
        beats.offer(10)
        assert await beats.writer.flush(30)
        assert beats.writer.snapshot().last_written_at_ms is not None
    assert beats.lost == 0
    assert check_feed(feed) == []
    assert [json.loads(line)["heartbeat_seq"] for line in feed.read_bytes().splitlines()] == list(
        range(1, 11)
    )
    assert children() == []


async def test_the_helper_has_three_descriptors_no_variables_and_little_memory(tmp_path: Path) -> None:
    secret, _ = os.openpty()
    os.set_inheritable(secret, True)
    beats = Beats(str(tmp_path / "f.jsonl"), state=str(tmp_path))
    async with running(beats):
        beats.offer(3)
        assert await beats.writer.flush(30)
        (pid,) = children()
        proc = Path(f"/proc/{pid}")
        assert sorted(os.listdir(proc / "fd")) == ["0", "1", "2"]
        assert (proc / "environ").read_bytes() == b""
        assert os.readlink(proc / "cwd") == "/"
        maps = (proc / "maps").read_text()
        assert "site-packages" not in maps
        bare = _rss_kib(["-c", "import time; time.sleep(60)"])
        status = (proc / "status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < bare + 6144
    os.close(secret)


def _rss_kib(arguments: list[str]) -> int:
    """Resident memory of a bare interpreter."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-B", *arguments], env={}) as process:
        try:
            time.sleep(0.3)
            return int(Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")[1].split()[0])
        finally:
            process.kill()


async def test_a_stopped_helper_is_killed_and_the_next_beat_is_written(tmp_path: Path) -> None:
    feed = tmp_path / "f.jsonl"
    beats = Beats(str(feed), state=str(tmp_path), timeout=1.0)
    async with running(beats):
        beats.offer()
        assert await beats.writer.flush(30)
        (pid,) = children()
        os.kill(pid, signal.SIGSTOP)
        beats.offer()
        assert await beats.writer.flush(30)
        assert beats.lost == 1
        beats.offer()
        assert await beats.writer.flush(30)
        assert beats.lost == 1
        assert pid not in children()
    last = json.loads(feed.read_bytes().splitlines()[-1])
    assert (last["heartbeat_seq"], last["meta"]["dropped"]) == (3, 1)


async def test_a_helper_that_was_killed_is_replaced_and_terminate_does_not_end_it(tmp_path: Path) -> None:
    feed = tmp_path / "f.jsonl"
    beats = Beats(str(feed), state=str(tmp_path))
    async with running(beats):
        beats.offer()
        assert await beats.writer.flush(30)
        (pid,) = children()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        beats.offer()
        assert await beats.writer.flush(30)
        assert (beats.lost, children()) == (0, [pid])
        os.kill(pid, signal.SIGKILL)
        beats.offer(2)
        assert await beats.writer.flush(30)
    seqs = [json.loads(line)["heartbeat_seq"] for line in feed.read_bytes().splitlines()]
    assert len(seqs) + beats.lost == 4
    assert seqs[-1] == 4
    assert check_feed(feed) == []


async def test_a_fifo_and_a_held_lock_cost_beats_and_recover_without_a_restart(tmp_path: Path) -> None:
    feed = tmp_path / "f.jsonl"
    os.mkfifo(feed)
    beats = Beats(str(feed), state=str(tmp_path), timeout=0.5)
    async with running(beats):
        beats.offer(3)
        assert await beats.writer.flush(30)
        assert beats.lost == 3
        assert "FIFO" in str(beats.writer.snapshot().refused)
        (pid,) = children()
        feed.unlink()
        beats.offer()
        assert await beats.writer.flush(30)
        assert (beats.lost, beats.writer.snapshot().refused) == (3, None)
        with open(feed, "rb") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            beats.offer()
            assert await beats.writer.flush(30)
            assert beats.writer.snapshot().last_error == "another process holds the feed's lock"
        beats.offer()
        assert await beats.writer.flush(30)
        assert children() == [pid]
    events = [json.loads(line) for line in feed.read_bytes().splitlines()]
    assert [(event["heartbeat_seq"], event["meta"].get("dropped")) for event in events] == [(4, 3), (6, 1)]


async def test_a_torn_tail_is_reported_through_the_link(tmp_path: Path) -> None:
    feed = tmp_path / "f.jsonl"
    feed.write_bytes(b'{"ts_utc":"2026-01-01T00:00:00Z","ts_ep')
    os.utime(feed, (1, 1))
    beats = Beats(str(feed), state=str(tmp_path))
    async with running(beats):
        beats.offer()
        assert await beats.writer.flush(30)
    assert beats.writer.snapshot().quarantined == 1
    assert check_feed(feed) == []


async def test_the_helper_ends_when_the_daemon_is_gone(tmp_path: Path) -> None:
    settings = {
        "path": str(tmp_path / "f"),
        "state_dir": "/",
        "host_id": HOST,
        "max_size": 1 << 20,
        "keep": 1,
    }
    helper = await start_helper(settings)
    await helper.aclose()
    with trio.fail_after(10):
        await helper.wait_ended()


async def test_a_helper_that_talks_nonsense_is_no_helper(tmp_path: Path) -> None:
    for script in (
        "echo hello; sleep 60",
        "exit 3",
        'echo "{\\"version\\": 99}"; sleep 60',
        "yes | tr -d '\\n'",
    ):
        talker = tmp_path / "talker"
        talker.write_text(f"#!/bin/sh\n{script}\n")
        talker.chmod(0o755)
        with trio.fail_after(30), pytest.raises(HelperLostError):
            await start_helper({"path": "/x"}, python=str(talker))


async def test_a_path_that_is_not_unicode_reaches_the_disk_unchanged(tmp_path: Path) -> None:
    name = os.fsdecode(b"f\xff\xfe.jsonl")
    beats = Beats(f"{tmp_path}/{name}", state=str(tmp_path))
    async with running(beats):
        beats.offer()
        assert await beats.writer.flush(30)
    assert beats.lost == 0
    assert (tmp_path / name).exists()


async def test_requests_may_follow_each_other_without_waiting(tmp_path: Path) -> None:
    settings = {
        "path": str(tmp_path / "f"),
        "state_dir": "/",
        "host_id": HOST,
        "max_size": 1 << 20,
        "keep": 1,
    }
    helper: HelperProcess = await start_helper(settings)
    beats = Beats(start=HelperFactory())
    with trio.fail_after(60):
        for _ in range(20):
            request = {"event": beats.event(), "budget": 5.0}
            await helper._requests.send_all(json.dumps(request).encode() + b"\n")
        answers = [await helper.hear() for _ in range(20)]
        await helper.aclose()
        await helper.wait_ended()
    assert all(answer["ok"] for answer in answers)
    assert len((tmp_path / "f").read_bytes().splitlines()) == 20


@contextlib.contextmanager
def freezable(folder: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A mounted file system that can be frozen (`-f`) and thawed (`-u`)."""
    image, place = folder / "image", folder / "frozen"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not installed")
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.decode()}")

    def freeze(how: str) -> None:
        subprocess.run(["fsfreeze", how, str(place)], check=True, timeout=60)

    try:
        yield place, freeze
    finally:
        subprocess.run(["fsfreeze", "-u", str(place)], capture_output=True, timeout=60, check=False)
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_hung_file_system_costs_beats_one_process_and_no_time(tmp_path: Path) -> None:
    with freezable(tmp_path) as (place, freeze):
        feed = place / "f.jsonl"
        beats = Beats(str(feed), state=str(place), timeout=0.5)
        async with running(beats):
            beats.offer()
            assert await beats.writer.flush(30)
            (pid,) = children()
            await trio.to_thread.run_sync(freeze, "-f")
            for _ in range(5):
                beats.offer()
                began = trio.current_time()
                await trio.sleep(0)
                assert trio.current_time() - began < 5
                assert await beats.writer.flush(30)
            assert (beats.lost, children()) == (5, [pid])
            assert "does not answer" in str(beats.writer.snapshot().last_error)
            await trio.to_thread.run_sync(freeze, "-u")
            with trio.fail_after(30):
                while beats.writer.lost_since_written():
                    beats.offer()
                    assert await beats.writer.flush(30)
                    await trio.sleep(0.05)
            assert pid not in children()
        events = [json.loads(line) for line in feed.read_bytes().splitlines()]
        written = [event["heartbeat_seq"] for event in events]
        assert written[-1] == beats.seq
        assert len(written) + beats.lost == beats.seq
        assert events[-1]["meta"]["dropped"] >= 5
        assert check_feed(feed) == []
