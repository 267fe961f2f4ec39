"""The virtual environment `.venv`: made without ensurepip, filled from the hash-locked requirements.

Debian keeps `ensurepip` out of its `python3`, and marks its own packages as externally managed
(PEP 668): so the environment is made without pip, and the system's pip installs into it (`--python`).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from devkit.show import Screen, TroubleError
from devkit.tree import FileLock, Tree, file_digest, read_record, write_record

CORE = ("requirements.txt", "requirements-build.txt")
DEV = ("requirements-dev.txt",)

# What an installation takes, with pip's downloads, rounded up.
ROOM_BYTES = {CORE: 100 * 1024 * 1024, DEV: 400 * 1024 * 1024}

# Between making it and sharing it another run may change it; more than that is a fight.
ATTEMPTS = 3

# Settings that would send pip or Python elsewhere than into our environment.
UNWANTED = (
    "PIP_PREFIX",
    "PIP_PYTHON",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_ROOT",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)

NO_PIP = "Install it, on Debian as root with: apt install python3-pip"

# First match wins: sign in pip's output, what happened, what to do.
SIGNS = (
    ("No module named pip", "This Python has no pip.", NO_PIP),
    (
        "No module named venv",
        "This Python has no venv module.",
        "Install the whole of Python's standard library, on Debian: apt install python3",
    ),
    (
        "No space left on device",
        "The disk is full.",
        "Make room (the environment needs up to 400 MB) and run the same command again.",
    ),
    (
        "DO NOT MATCH THE HASHES",
        "A downloaded package is not the one that was locked.",
        "Try again; if it stays so, the package source serves other files than the public index does.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The package index's certificate was not accepted.",
        "Behind a proxy that opens TLS, point PIP_CERT at its certificate authority.",
    ),
    (
        "establish a new connection",
        "The package index could not be reached.",
        "Check the network (pip's own settings apply, PIP_INDEX_URL and proxies too), then run it again.",
    ),
    (
        "Network is unreachable",
        "The package index could not be reached.",
        "Check the network (pip's own settings apply, PIP_INDEX_URL and proxies too), then run it again.",
    ),
    (
        "timed out",
        "The package index did not answer in time.",
        "Check the network, then run the same command again; finished steps are kept.",
    ),
    (
        "No matching distribution",
        "A locked package is not to be had for this Python and machine.",
        "Wheels exist for CPython 3.11 to 3.13 on Linux, x86_64 and aarch64; use one of these.",
    ),
    (
        "no such option: --python",
        "This pip is too old (22.3 is needed).",
        "Upgrade it for this user: python3 -m pip install --user --upgrade pip",
    ),
)


def base_python() -> str:
    """The interpreter outside of any virtual environment that lacks pip, ours above all."""
    if sys.prefix != sys.base_prefix:
        return getattr(sys, "_base_executable", None) or sys.executable
    return sys.executable


def clean_environ() -> dict[str, str]:
    """This process's environment without what would redirect pip or Python."""
    return {key: value for key, value in os.environ.items() if key not in UNWANTED}


class Environment:
    """Brings `.venv` to what the lock files and the sources say; does nothing when it is there."""

    def __init__(self, tree: Tree, screen: Screen) -> None:
        self._tree = tree
        self._screen = screen
        self._record = tree.dev / "environment.json"

    def missing(self, wanted: tuple[str, ...]) -> list[str]:
        """What has to be done for these lock files: any of "python", "packages", "ambient"."""
        done = read_record(self._record)
        if done.get("python") != self._python_name() or not self._tree.python.exists():
            return ["python", "packages", "ambient"]
        parts = [] if self._packages_ready(wanted) else ["packages"]
        if done.get("ambient") != self._tree.package_digest() or not self._scripts_exist():
            parts.append("ambient")
        return parts

    def make(self, wanted: tuple[str, ...], lock: FileLock) -> None:
        """Does what is missing, holding the lock alone while it does, and shared when it returns.

        Raises `TroubleError` with the remedy when a step fails; finished steps are kept.
        """
        for _attempt in range(ATTEMPTS):
            if not self.missing(wanted):
                self._screen.good("environment ready")
                return
            lock.take(alone=True)
            # another run may have done it while we waited
            missing = self.missing(wanted)
            self._check_room(missing, wanted)
            if "python" in missing:
                self._make_venv()
            if "packages" in missing:
                self._install_packages(wanted)
            if "ambient" in missing:
                self._install_ambient()
            lock.take(alone=False)
        raise TroubleError(
            "The environment is changed by something else while it is being made.",
            f"Stop what writes to {self._tree.venv} or to the sources, then run the same command again.",
        )

    def _python_name(self) -> str:
        return f"{sys.version_info[0]}.{sys.version_info[1]} {sys.base_prefix}"

    def _packages_ready(self, wanted: tuple[str, ...]) -> bool:
        done = read_record(self._record).get("packages", {})
        # the development lock holds everything of the other two, in the same versions
        return any(
            all(done.get(name) == file_digest(self._tree.requirements(name)) for name in names)
            for names in (wanted, DEV)
        )

    def _scripts_exist(self) -> bool:
        return all((self._tree.venv / "bin" / name).exists() for name in ("ambientd", "ambientctl"))

    def _check_room(self, missing: list[str], wanted: tuple[str, ...]) -> None:
        if "packages" not in missing:
            return
        free, needed = shutil.disk_usage(self._tree.root).free, ROOM_BYTES[wanted]
        if free < needed:
            raise TroubleError(
                f"Only {free // 1_000_000} MB are free at {self._tree.root}.",
                f"The environment needs about {needed // 1_000_000} MB: make room and run it again.",
            )

    def _make_venv(self) -> None:
        venv, ours = self._tree.venv, "python" in read_record(self._record)
        if venv.exists() and not ours and self._adopted():
            self._screen.note("using the .venv that is already here")
            write_record(self._record, {"python": self._python_name()})
            return
        if venv.exists() and not ours:
            raise TroubleError(
                f"{venv} was made by something else, with another Python.",
                "Remove it or move it away, then run the same command again.",
            )
        # the name is written first, so that a run killed half-way knows the folder as its own
        write_record(self._record, {"python": "unfinished"})
        version = ".".join(map(str, sys.version_info[:3]))
        with self._screen.step(
            "making the virtual environment", f"virtual environment made, Python {version}"
        ):
            self._run([base_python(), "-m", "venv", "--clear", "--without-pip", str(venv)])
        write_record(self._record, {"python": self._python_name()})

    def _adopted(self) -> bool:
        ask = "import sys; print('%d.%d %s' % (*sys.version_info[:2], sys.base_prefix))"
        try:
            answer = subprocess.run(
                [str(self._tree.python), "-I", "-c", ask], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return False
        return answer.stdout.strip() == self._python_name()

    def _install_packages(self, wanted: tuple[str, ...]) -> None:
        files = [self._tree.requirements(name) for name in wanted]
        count = sum(1 for path in files for line in path.read_text().splitlines() if "==" in line)
        arguments = [part for path in files for part in ("-r", str(path))]
        done = f"{count} packages installed, each checked against its hash"
        # only wheels: building from source would need a compiler and packages that nobody locked
        flags = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
        with self._screen.step(f"installing {count} packages", done):
            self._install(*flags, *arguments)
        state = read_record(self._record)
        state["packages"] = {name: file_digest(self._tree.requirements(name)) for name in wanted}
        write_record(self._record, state)

    def _install_ambient(self) -> None:
        digest = self._tree.package_digest()
        with self._screen.step("building ambient", "ambient built and installed"):
            # everything it needs is here already, the build backend too: nothing is fetched
            flags = ["--no-build-isolation", "--no-deps", "--no-index", "--force-reinstall"]
            self._install(*flags, str(self._tree.root))
        write_record(self._record, {**read_record(self._record), "ambient": digest})

    def _install(self, *arguments: str) -> None:
        host = [base_python(), "-m", "pip", "--python", str(self._tree.python)]
        quiet = ["--disable-pip-version-check", "--no-input", "--no-color"]
        self._run([*host, *quiet, "install", "--progress-bar", "off", *arguments])

    def _run(self, command: list[str]) -> None:
        """Runs a step's program with its output in the set-up log."""
        with self._tree.setup_log.open("a+b") as log:
            began = log.seek(0, os.SEEK_END)
            log.write(("\n$ " + " ".join(command) + "\n").encode())
            log.flush()
            outcome = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._tree.root,
                env=clean_environ(),
                check=False,
            )
            log.seek(began)
            output = log.read().decode(errors="replace")
        if outcome.returncode:
            raise explain(output, outcome.returncode, self._tree.setup_log)


def explain(output: str, code: int, log: Path) -> TroubleError:
    """Turns the output of a failed installer into a cause and a remedy."""
    told = [line for line in output.splitlines() if line.strip() and not line.startswith("$ ")]
    detail = "\n".join(line[:200] for line in told[-8:])
    for sign, what, todo in SIGNS:
        if sign.lower() in output.lower():
            return TroubleError(what, f"{todo}\nThe whole output is in {log}", detail)
    return TroubleError(f"The program ended with code {code}.", f"The whole output is in {log}", detail)
