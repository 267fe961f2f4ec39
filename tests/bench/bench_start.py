"""From exec to READY=1 on an empty state, against a bare interpreter and a bare trio in the same run.

    python tests/bench/bench_start.py [--short]

Budget (DESIGN 5): <= 0.6 s. Rounds are interleaved; medians are printed.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUDGET_SEC = 0.6


def run_program(code: str) -> float:
    """Seconds until a program has ended."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    return time.perf_counter() - began


def start_daemon() -> float:
    """Seconds from exec to READY=1."""
    folder = Path(tempfile.mkdtemp(prefix="ambient-bench-", dir="/tmp"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(folder / "notify"))
    listener.settimeout(30)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "NOTIFY_SOCKET": str(folder / "notify"),
    }
    command = [sys.executable, "-m", "ambientd", "run", "--state-dir", str(folder / "state")]
    began = time.perf_counter()
    daemon = subprocess.Popen(
        [*command, "--socket", str(folder / "s")],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        while b"READY=1" not in listener.recv(4096):
            pass
        return time.perf_counter() - began
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
        listener.close()
        shutil.rmtree(folder)


def main() -> int:
    """Prints medians and ratios; a missed budget is told, not failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="5 rounds instead of 25")
    rounds = 5 if parser.parse_args().short else 25
    start_daemon()  # byte code and page cache
    ours, bare, with_trio = [], [], []
    for _ in range(rounds):
        bare.append(run_program("pass"))
        ours.append(start_daemon())
        with_trio.append(run_program("import trio"))
    median, base, loop = (statistics.median(values) for values in (ours, bare, with_trio))
    verdict = "PASS" if median <= BUDGET_SEC else "MISS"
    print(f"start to READY: median {median:.3f} s of {rounds} (min {min(ours):.3f}, max {max(ours):.3f})")
    print(f"  {median / base:.1f} x a bare interpreter ({base:.3f} s)")
    print(f"  {median / loop:.1f} x importing trio ({loop:.3f} s)")
    print(f"  budget {BUDGET_SEC} s: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
