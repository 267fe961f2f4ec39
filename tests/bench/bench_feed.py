"""Feed appends per second through the helper process, against the same done plainly in one loop.

The plain loop opens, locks, writes, syncs and closes, with lines that were encoded beforehand. The helper
does all that the node relies on (checks, tail, clamp, encoding), fed with requests as `FeedWriter` makes
them, several on their way at once. Run it by hand: `python tests/bench/bench_feed.py [--short]`.
"""

import argparse
import fcntl
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import trio

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ambientd.core.feedline import encode  # noqa: E402 - runs without being installed
from ambientd.core.heartbeat import build_event, build_run_id  # noqa: E402
from ambientd.host.feed_process import HelperProcess, start_helper  # noqa: E402

HOST = "sha256:" + "0" * 64
TARGET = 0.5
WINDOW = 32


def events(count: int) -> list[dict[str, object]]:
    """Beats of one run, a second apart."""
    now_ms = int(time.time() * 1000) - count * 1000
    run_id = build_run_id(now_ms, os.getpid())
    return [
        build_event(
            at_ms=now_ms + seq * 1000,
            actor="dispatcher",
            run_id=run_id,
            host_id=HOST,
            pid=os.getpid(),
            seq=seq,
            interval=60,
            meta={"state": "watching", "cycle_ms": 3, "active_sessions": 1},
        )
        for seq in range(1, count + 1)
    ]


def plain(path: Path, lines: list[bytes]) -> float:
    """Seconds for all lines, one after the other."""
    began = time.perf_counter()
    for line in lines:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, line)
        os.fdatasync(fd)
        os.close(fd)
    return time.perf_counter() - began


async def through_helper(path: Path, beats: list[dict[str, object]]) -> float:
    """Seconds for all beats, with at most WINDOW requests unanswered."""
    settings = {"path": str(path), "state_dir": str(path.parent), "host_id": HOST}
    helper: HelperProcess = await start_helper({**settings, "max_size": 1 << 30, "keep": 86_400.0})
    requests = [
        json.dumps({"event": beat, "budget": 4.0, "floor_ms": 0, "doubt": []}).encode() + b"\n"
        for beat in beats
    ]
    places = trio.Semaphore(WINDOW)
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for request in requests:
                await places.acquire()
                await helper._requests.send_all(request)

        nursery.start_soon(send)
        for _ in requests:
            answer = await helper.hear()
            if not answer["ok"]:
                raise RuntimeError(f"a beat was lost: {answer}")
            places.release()
    took = time.perf_counter() - began
    await helper.aclose()
    await helper.wait_ended()
    return took


def main() -> int:
    """Prints both rates and their ratio; 0 unless something breaks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="fewer beats, for CI")
    parser.add_argument("--folder", help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    count, rounds = (200, 3) if options.short else (2000, 7)
    plain_rates, helper_rates = [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for number in range(rounds):
            beats = events(count)
            lines = [encode(beat) for beat in beats]
            plain_rates.append(count / plain(Path(folder) / f"plain-{number}.jsonl", lines))
            path = Path(folder) / f"helper-{number}.jsonl"
            helper_rates.append(count / trio.run(through_helper, path, beats))
            if path.read_bytes() != b"".join(lines):
                raise RuntimeError("the helper wrote something else than the plain loop")
    ratio = statistics.median(there / here for there, here in zip(helper_rates, plain_rates, strict=True))
    print(f"plain loop      {statistics.median(plain_rates):8.0f} appends/s")
    print(f"through helper  {statistics.median(helper_rates):8.0f} appends/s")
    print(f"ratio           {ratio:8.2f}   target ≥ {TARGET}: {'PASS' if ratio >= TARGET else 'MISS'}")
    print(f"{rounds} rounds of {count}, threads {threading.active_count()}, python {sys.version.split()[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
