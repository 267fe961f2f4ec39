"""What an idle node costs, against a bare trio program in the same run.

    python tests/bench/bench_idle.py [--short]

Both run at the same time for the same window: resident memory, CPU time and voluntary context switches of
all threads, the feed's helper apart. Budget (DESIGN 5): daemon <= 42 MiB, with the helper <= 52 MiB,
CPU <= 0.05 % of a core, <= 2 context switches a second.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BARE = "import trio; trio.run(trio.sleep_forever)"
SETTLE_SEC = 20.0  # the first sweep runs after five seconds, idle worker threads end ten later


class Cost(NamedTuple):
    """Of one process: MiB, nanoseconds of CPU, voluntary switches."""

    rss: float
    cpu: int
    switches: int


def cost(pid: int) -> Cost:
    """Reads it from /proc, over all threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        switches += int((task / "status").read_text().split("voluntary_ctxt_switches:")[1].split()[0])
    return Cost(rss, cpu, switches)


def helper_of(pid: int) -> int | None:
    """The daemon's only child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def wait_ready(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the daemon says so in its log."""
    give_up = time.monotonic() + 30
    while b"node.ready" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > give_up:
            raise SystemExit(f"the daemon did not start:\n{log.read_text()}")
        time.sleep(0.05)


def main() -> int:
    """Prints the figures; a missed budget is told, not failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="a window of 10 s instead of 120 s")
    window = 10.0 if parser.parse_args().short else 120.0
    folder = Path(tempfile.mkdtemp(prefix="ambient-bench-", dir="/tmp"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    log = folder / "log"
    command = [sys.executable, "-m", "ambientd", "run", "--state-dir", str(folder / "state")]
    command += ["--socket", str(folder / "s")]
    # Byte code first: the run that compiles it is a larger process.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "ambientd")], check=True)
    with log.open("wb") as out:
        daemon = subprocess.Popen(command, env=environment, stderr=out, stdin=subprocess.DEVNULL)
    bare = subprocess.Popen([sys.executable, "-I", "-c", BARE])
    try:
        wait_ready(log, daemon)
        time.sleep(SETTLE_SEC)
        helper = helper_of(daemon.pid)
        pids = [daemon.pid, bare.pid, *([helper] if helper else [])]
        before = [cost(pid) for pid in pids]
        time.sleep(window)
        after = [cost(pid) for pid in pids]
    finally:
        for process in (daemon, bare):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        shutil.rmtree(folder)
    report(before, after, window)
    return 0


def report(before: list[Cost], after: list[Cost], window: float) -> None:
    """One line per figure: ours, bare trio, ratio, budget."""
    cpu = [(b.cpu - a.cpu) / 1e9 / window * 100 for a, b in zip(before, after, strict=True)]
    switches = [(b.switches - a.switches) / window for a, b in zip(before, after, strict=True)]
    rss = [item.rss for item in after]
    helper = rss[2] if len(rss) > 2 else 0.0
    with_helper = sum(cpu[0:1] + cpu[2:])
    rows = [
        ("RSS of the daemon, MiB", rss[0], rss[1], 42.0),
        ("RSS with the feed's helper, MiB", rss[0] + helper, rss[1], 52.0),
        ("CPU with the helper, % of a core", with_helper, cpu[1], 0.05),
        ("context switches per second", sum(switches[0:1] + switches[2:]), switches[1], 2.0),
    ]
    print(f"idle for {window:g} s, one beat a minute")
    for name, ours, baseline, budget in rows:
        ratio = f"{ours / baseline:8.2f} x bare trio" if baseline > 0.0005 else "   (bare trio: none)"
        verdict = "PASS" if ours <= budget else "MISS"
        print(f"  {name:<34}{ours:9.3f}  bare {baseline:8.3f}  {ratio}  budget {budget:g}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
