"""CPU of `ambientctl` against a bare interpreter (DESIGN 5), as ratios of medians in one interleaved run.

Compared, all with the same interpreter and user + system time of the process by wait4:
  bare      PYTHON -I -c pass
  others    PYTHON START-SCRIPT VERB: the start script beside the interpreter when it is installed, else the
            one of this source tree with the tree on PYTHONPATH
Bytecode is written by warm-up runs before anything is measured. The daemon's own CPU is not counted: it is
another process, or by default a small fake one in this process.

    python tests/bench/bench_ctl.py [--short] [--socket PATH]
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.fakes.daemon_http import serving, summary  # noqa: E402 - the tree has to be found first

HOT, OTHER = 1.5, 4.5
CASES = {
    "status": (["status"], HOT),
    "status --json": (["status", "--json"], HOT),
    "status --check --short": (["status", "--check", "--short"], HOT),
    "version": (["version"], HOT),
    "sessions": (["sessions"], OTHER),
    "sessions --json": (["sessions", "--json"], OTHER),
    "agents": (["agents"], OTHER),
}
SHOWN_SESSIONS = 20


def start_script() -> tuple[list[str], dict[str, str]]:
    """How the program is started, and the environment that needs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    installed = Path(sys.executable).with_name("ambientctl")
    if installed.is_file():
        return [sys.executable, str(installed)], environment
    environment["PYTHONPATH"] = str(ROOT)
    return [sys.executable, str(ROOT / "packaging" / "scripts" / "ambientctl")], environment


def cpu_ms(argv: list[str], environment: dict[str, str]) -> float:
    """User and system time of one run. The command has to succeed."""
    child = subprocess.Popen(
        argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {child.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def measure(socket_path: str, runs: int) -> int:
    """Prints the table; a missed target is told, not failed."""
    program, environment = start_script()
    environment["AMBIENT_SOCKET"] = socket_path
    commands = {"bare": [sys.executable, "-I", "-c", "pass"]}
    commands |= {name: [*program, *argv] for name, (argv, _) in CASES.items()}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(-2, runs):
        for name, argv in commands.items():
            spent = cpu_ms(argv, environment)
            if turn >= 0:
                taken[name].append(spent)
    bare = statistics.median(taken["bare"])
    print(f"{' '.join(program)}, Python {sys.version.split()[0]}, medians of {runs} interleaved runs")
    print(f"{'bare: python -I -c pass':<26}{bare:8.2f} ms")
    for name, (_, target) in CASES.items():
        median = statistics.median(taken[name])
        verdict = "PASS" if median / bare <= target else "MISS"
        print(f"{name:<26}{median:8.2f} ms  {median / bare:5.2f} x bare  (target {target})  {verdict}")
    return 0


def main() -> int:
    """Measures against the daemon named, or a fake one."""
    parser = argparse.ArgumentParser(description="CPU of ambientctl against a bare interpreter.")
    parser.add_argument("--short", action="store_true", help="fewer runs")
    parser.add_argument("--socket", metavar="PATH", help="a running daemon instead of the fake one")
    options = parser.parse_args()
    runs = 11 if options.short else 41
    if options.socket:
        return measure(options.socket, runs)
    with serving() as daemon:
        daemon.screen = daemon.screen * 20
        daemon.sessions = {f"ses_{n:026d}": summary(f"ses_{n:026d}") for n in range(SHOWN_SESSIONS)}
        return measure(daemon.socket_path, runs)


if __name__ == "__main__":
    sys.exit(main())
