"""Runs real shims for tests, from outside: a spec in, an answer, files and a socket out."""

import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from ambientd.host import run_folder
from ambientd.ports.runner import OutputLine, RunResult

SHIM = Path(run_folder.__file__).with_name("shim.py")
PATIENCE = 60.0  # never reached when things work
PYTHON = sys.executable


def fresh_id(stem: str) -> str:
    """A session id of this run alone; processes are found, and ended, by it on the whole machine."""
    return f"ses_{stem}{secrets.token_hex(8)}"


SESSION = fresh_id("shimtest")
MARK = f"AMBIENT_SESSION_ID={SESSION}".encode()


def spec(*argv: str, **changes: Any) -> dict[str, Any]:
    """A run of `argv`, small in every respect."""
    base: dict[str, Any] = {
        "session_id": SESSION,
        "attempt": 1,
        "argv": argv,
        "stdin": "",
        "environment": {"PATH": "/usr/bin:/bin", "AMBIENT_SESSION_ID": SESSION},
        "workdir": None,
        "timeout": 30.0,
        "grace": 0.3,
        "output_limit": 1024 * 1024,
        "line_limit": 4096,
        "limits": {},
    }
    return base | changes


def frame(document: Mapping[str, Any]) -> bytes:
    """A spec as it travels."""
    data = json.dumps(document).encode()
    return b"%d\n%s" % (len(data), data)


def marked(mark: bytes = MARK) -> set[int]:
    """Processes that carry a session's mark."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if any(
                    item.startswith(mark) for item in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                ):
                    found.add(int(name))
            except OSError:
                continue
    return found


def wait_marked(least: int, mark: bytes = MARK) -> set[int]:
    """Processes that carry the mark, once there are so many: one that is being executed shows no
    environment for an instant."""
    until = time.monotonic() + PATIENCE
    while len(found := marked(mark)) < least:
        assert time.monotonic() < until, f"only {len(found)} of {least} processes carry the mark"
        time.sleep(0.01)
    return found


class Shim:
    """A shim of ours, seen from its folder."""

    def __init__(self, folder: Path, document: Mapping[str, Any], env: Mapping[str, str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [PYTHON, "-I", "-S", "-B", str(SHIM), "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=dict(env),
        )
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(frame(document))
        self.process.stdin.close()
        self.answer = json.loads(self.process.stdout.readline() or b"{}")
        self.process.stdout.close()

    def wait(self) -> RunResult:
        """The result, once the shim has ended."""
        assert self.process.wait(PATIENCE) == 0
        found = run_folder.read_result(self.folder)
        assert found is not None
        return found

    def lines(self) -> list[OutputLine]:
        """All output so far."""
        found: list[OutputLine] = []
        offset = 0
        while True:
            chunk = run_folder.read_output(self.folder, offset)
            if chunk.next_offset == offset:
                return found
            found.extend(chunk.lines)
            offset = chunk.next_offset

    def text(self) -> str:
        """All output, lines joined."""
        return "\n".join(line.text for line in self.lines())

    def dial(self) -> "Caller":
        """A link to the control socket."""
        return Caller(self.folder)

    def wait_output(self, wanted: str) -> None:
        """Returns when the output holds `wanted`."""
        with self.dial() as caller:
            while wanted not in self.text():
                assert caller.read(), "the shim ended first"

    def wait_started(self) -> None:
        """Returns when the agent's program runs."""
        with self.dial() as caller:
            while not caller.read()["news"]["started_at_ms"]:
                continue

    def close(self) -> None:
        """Ends the shim and its tree, whatever state they are in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            finally:
                self.process.kill()
                self.process.wait()


class Caller:
    """A blocking client of the control socket; `link` is the socket itself."""

    def __init__(self, folder: Path) -> None:
        self.link = socket.socket(socket.AF_UNIX)
        self.link.settimeout(PATIENCE)
        place = os.open(folder, os.O_PATH)
        try:
            self.link.connect(f"/proc/self/fd/{place}/ctl")
        finally:
            os.close(place)
        self._file = self.link.makefile("rwb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.link.close()

    def read(self) -> dict[str, Any]:
        """The next line; empty at the end."""
        line = self._file.readline()
        found: dict[str, Any] = json.loads(line) if line else {}
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its reply."""
        self.write(json.dumps(request).encode() + b"\n")
        while "ok" not in (reply := self.read()):
            assert reply, "the shim hung up"
        return reply

    def flood(self) -> None:
        """Asks and never reads, until the socket takes no more."""
        self.link.setblocking(False)
        try:
            while True:
                self.link.send(b'{"verb":"status"}\n' * 100)
        except OSError:  # full, or hung up on: either way it is the client's trouble
            return

    def write(self, data: bytes) -> None:
        """Bytes as they are."""
        self._file.write(data)
        self._file.flush()


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder with a short path, removed at the end."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="ashim-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    document: Mapping[str, Any], *, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Shim]:
    """A shim that has answered; ended and removed at the end."""
    with workplace() as place:
        shim = Shim(folder or place, document, env or {})
        try:
            yield shim
        finally:
            shim.close()


def run(document: Mapping[str, Any]) -> tuple[RunResult, str]:
    """One run to its end: result and output."""
    with running(document) as shim:
        return shim.wait(), shim.text()


def wait_gone(handles: list[int]) -> None:
    """Returns when every process of these descriptors is dead."""
    for handle in handles:
        assert select.select([handle], [], [], PATIENCE)[0], "a process is still alive"
        os.close(handle)
