"""Boots a Debian with the units under a real systemd and checks them from inside; by hand, not in CI.

    python3 tests/systemd/run.py [--keep DIR] [--release bookworm] [--only WORD]

Needs root, debootstrap and systemd-container. One line per check, then the count; exit code 0 when all
passed, 1 when one failed, 2 when the machine lacks something. With --keep the system stays in DIR/<release>
and is used again; without, it is made anew (a minute) and removed. The container has no network.
Limits of memory and tasks are not enforced in such a container: they are looked at, not tried.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.systemd.image import CHECKS, install, make_system

LONGEST_RUN = 600.0
LOOK_EVERY = 0.2
NEEDED = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container"}


def lacking() -> list[str]:
    """What this machine has not, as sentences."""
    found = [] if os.getuid() == 0 else ["this needs root"]
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            found.append(f"{program} is missing: apt-get install {package}")
    return found


def boot(root: Path, only: str) -> tuple[int, int]:
    """Runs the checks in the booted system and prints their lines; returns how many passed and failed."""
    told = root / "root/checks.out"
    (root / CHECKS / "only").write_text(only)
    # in a process namespace of its own, which ends with its first process: nothing can stay behind
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]
    command += ["--console=pipe", f"--machine=ambient-{os.getpid()}", f"--directory={root}"]
    with (root / "root/boot.log").open("wb") as log:
        system = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            counted = _follow(system, told)
        finally:
            system.kill()
            system.wait()
    return counted


def _follow(system: "subprocess.Popen[bytes]", told: Path) -> tuple[int, int]:
    """Prints what the checks say until the system has powered off, or the time is up."""
    until, shown, ended = time.monotonic() + LONGEST_RUN, 0, False
    while not ended and time.monotonic() < until:
        ended = system.poll() is not None
        lines = told.read_text(errors="replace").splitlines() if told.exists() else []
        for line in lines[shown:]:
            print(line, flush=True)
        shown = len(lines)
        time.sleep(LOOK_EVERY)
    lines = told.read_text(errors="replace").splitlines() if told.exists() else []
    passed = sum(line.startswith("PASS ") for line in lines)
    failed = sum(line.startswith("FAIL ") for line in lines)
    if not ended or not any(line.startswith("END") for line in lines):
        print("FAIL the checks did not come to their end")
        failed += 1
    return passed, failed


def main() -> int:
    """Exit code: 0 all passed, 1 not, 2 this machine cannot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder in which the system stays for the next run")
    parser.add_argument("--release", default="bookworm", help="Debian release (bookworm)")
    parser.add_argument(
        "--only", default="", help="run only the groups of checks with this word in their name"
    )
    parser.add_argument("--install", action="store_true", help="make the system, install, and do not boot")
    options = parser.parse_args()
    if missing := lacking():
        sys.stderr.write("".join(f"Error: {sentence}\n" for sentence in missing))
        return 2
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="ambient-systemd-"))).resolve()
    root = folder / options.release
    try:
        make_system(root, options.release)
        install(root)
        if options.install:
            return 0
        passed, failed = boot(root, options.only)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    print(f"{options.release}: {passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
