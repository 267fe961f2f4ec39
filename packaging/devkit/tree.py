"""Where things are in a checkout, and the locks that let two runs of `dev.py` share it."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devkit.show import Screen, TroubleError

# sockaddr_un holds 108 bytes with the closing NUL (unix(7)).
SOCKET_PATH_MAX_BYTES = 107

# What goes into the installed package: a change in any of these calls for a new build.
PACKAGE_PARTS = (
    "ambientd",
    "ambientctl",
    "migrations",
    "packaging/scripts",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """The checkout at `root`; everything that `dev.py` makes lies under `.venv` and `.dev`."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def dev(self) -> Path:
        return self.root / ".dev"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def state(self) -> Path:
        return self.dev / "state"

    @property
    def socket(self) -> Path:
        """The development daemon's socket: in its state, or in a short folder when that path is too long."""
        usual = self.state / "ambientd.sock"
        if len(os.fsencode(usual)) <= SOCKET_PATH_MAX_BYTES:
            return usual
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"ambient-dev-{os.getuid()}-{name}" / "ambientd.sock"

    @property
    def log(self) -> Path:
        return self.dev / "ambientd.log"

    @property
    def setup_log(self) -> Path:
        return self.dev / "setup.log"

    def requirements(self, name: str) -> Path:
        """The lock file of that name."""
        return self.root / "packaging" / name

    def prepare(self) -> None:
        """Makes `.dev`. Raises `TroubleError` when the tree cannot be written."""
        try:
            self.dev.mkdir(mode=0o700, exist_ok=True)
            tempfile.TemporaryFile(dir=self.dev).close()
        except OSError as error:
            raise TroubleError(
                f"Cannot write in {self.root}: {error.strerror or error}.",
                "Use a checkout that you own on a file system that is not read-only and not full.",
            ) from error

    def package_digest(self) -> str:
        """SHA-256 over the names, modes and contents of all that is installed."""
        digest = hashlib.sha256()
        for path in sorted(self._package_files()):
            name = os.fsencode(path.relative_to(self.root))
            content = path.read_bytes()
            mode = path.stat().st_mode & 0o111
            digest.update(b"%d %s %o %d\n" % (len(name), name, mode, len(content)) + content)
        return digest.hexdigest()

    def _package_files(self) -> Iterator[Path]:
        for part in PACKAGE_PARTS:
            path = self.root / part
            if path.is_file():
                yield path
            for found in path.rglob("*"):
                if found.is_file() and "__pycache__" not in found.parts:
                    yield found


def file_digest(path: Path) -> str:
    """SHA-256 of the file; empty when it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def read_record(path: Path) -> dict[str, Any]:
    """A small JSON object written by `write_record`; empty when missing or not one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Replaces the file in one step, so that a killed run leaves the old or the new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    fresh.replace(path)


class FileLock:
    """A lock on a file, shared or alone, that ends with the process that holds it."""

    def __init__(self, path: Path, screen: Screen) -> None:
        self._path = path
        self._screen = screen
        self._fd = -1

    @contextlib.contextmanager
    def held(self, *, alone: bool) -> Iterator["FileLock"]:
        """Holds the lock for the block; says so when it has to wait for another process."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.take(alone=alone)
            yield self
        finally:
            os.close(self._fd)
            self._fd = -1

    def take(self, *, alone: bool) -> None:
        """Changes how the lock is held; between the two kinds another process may come first."""
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self._screen.note("another dev.py is at work in this checkout; waiting for it")
            fcntl.flock(self._fd, kind)
