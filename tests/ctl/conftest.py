"""A fake daemon, and two ways to run the command: inside this process, and as people do."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from ambientctl.main import main
from tests.fakes.daemon_http import FakeDaemon, serving

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "packaging" / "scripts" / "ambientctl"
FOREIGN = ("AMBIENT_", "LC_", "XDG_", "PYTHON", "_AMBIENTCTL")
ALSO = ("LANG", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "RUNTIME_DIRECTORY", "STATE_DIRECTORY")


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Ctl = Callable[..., Outcome]


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """Answers on a socket of its own."""
    with serving() as found:
        yield found


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A UTF-8 locale and no wishes from outside; the state directory is empty."""
    for name in [name for name in os.environ if name.startswith(FOREIGN) or name in ALSO]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    return monkeypatch


@pytest.fixture
def ctl(
    environment: pytest.MonkeyPatch, daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]
) -> Ctl:
    """Runs one command in this process against the fake daemon; standard input is no terminal."""
    environment.setenv("AMBIENT_SOCKET", daemon.socket_path)

    def run(*argv: str, stdin: bytes = b"") -> Outcome:
        environment.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = main(list(argv))
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfdbinary.readouterr()
        return Outcome(code, out.decode(), err.decode())

    return run


def outside(socket_path: str, **changes: str) -> dict[str, str]:
    """The environment of a command run as its own process."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": str(ROOT),
        "AMBIENT_SOCKET": socket_path,
        **changes,
    }


def command(*argv: str) -> list[str]:
    """The start script under this interpreter."""
    return [sys.executable, str(SCRIPT), *argv]


def run_outside(
    socket_path: str, *argv: str, stdin: bytes = b"", changes: Mapping[str, str] | None = None
) -> Outcome:
    """Runs the start script as a process; it has to end by itself."""
    done = subprocess.run(
        command(*argv),
        check=False,
        input=stdin,
        capture_output=True,
        timeout=60,
        env=outside(socket_path, **(changes or {})),
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def read_terminal(controller: int, *, once: bool = False) -> bytes:
    """What the program wrote to its terminal: some of it, or all until it has let go."""
    shown = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # nobody holds the other end any more
            return shown
        shown += piece
        if once or not piece:
            return shown
