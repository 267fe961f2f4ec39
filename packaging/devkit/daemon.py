"""The development daemon: started apart from this process, found again by its socket, ended by its pid."""

import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from devkit.show import Screen, TroubleError
from devkit.tree import Tree, read_record, write_record

READY_SEC = 30.0
# the daemon gives its services a grace of their own; systemd's unit allows 20 s
STOP_SEC = 30.0
ASK_SEC = 2.0
LOG_LINES = 20
HTTP_OK = 200


class Daemon:
    """The `ambientd dev` of this checkout, whoever started it."""

    def __init__(
        self, tree: Tree, screen: Screen, *, ready_sec: float = READY_SEC, stop_sec: float = STOP_SEC
    ) -> None:
        self._tree = tree
        self._screen = screen
        self._ready_sec = ready_sec
        self._stop_sec = stop_sec
        self.child: subprocess.Popen[bytes] | None = None
        self._record = tree.dev / "daemon.json"

    def pid(self) -> int | None:
        """The process that listens on the socket, or the one we started if that one still lives."""
        peer = _listener(self._tree.socket)
        if peer is not None:
            return peer
        noted = read_record(self._record)
        pid = noted.get("pid")
        # a pid alone may belong to someone else by now; with its start time it cannot
        if isinstance(pid, int) and _started(pid) is not None and _started(pid) == noted.get("started"):
            return pid
        return None

    def is_outdated(self, digest: str) -> bool:
        """Whether it was started from other sources; one of unknown sources is not."""
        return bool(read_record(self._record).get("digest", digest) != digest)

    def start(self, digest: str) -> int:
        """Starts it detached and returns its pid once it says that it is ready.

        Raises `TroubleError` with the end of its log when it ends or is not ready in time.
        """
        self._prepare()
        with self._screen.step("starting ambientd", "ambientd ready") as step:
            self._keep_last_log()
            # kept, because an object that goes away while its process lives is a warning
            self.child = child = self._spawn()
            self._note(child.pid, digest)
            self._wait_ready(child)
            step.done = f"ambientd ready, pid {child.pid}"
        return child.pid

    def run(self, digest: str) -> None:
        """Becomes the daemon; returns never."""
        self._prepare()
        self._note(os.getpid(), digest)
        command = self._command()
        os.chdir(self._tree.dev)
        try:
            os.execve(command[0], command, self._environ())  # noqa: S606 - becoming it is the point
        except OSError as error:
            raise _not_startable(command[0], error) from error

    def stop(self) -> bool:
        """Ends it and waits until it is gone; False when none was. Raises `TroubleError` when it stays."""
        pid = self.pid()
        if pid is None:
            return False
        with self._screen.step(f"stopping ambientd, pid {pid}", "ambientd stopped"):
            if not _end(pid, self._stop_sec):
                raise TroubleError(
                    f"Process {pid} still runs {self._stop_sec:.0f} s after TERM.",
                    f"Its log is {self._tree.log}. To end it without its consent: kill -KILL {pid}",
                    self._log_end(),
                )
        return True

    def readiness(self) -> tuple[int, str]:
        """HTTP status and body of `/readyz`; 0 and the reason when nothing answers."""
        try:
            return _ask(self._tree.socket, "/readyz")
        except (OSError, ValueError) as error:
            return 0, str(error)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = self._command()
        with os.fdopen(os.open(self._tree.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._tree.dev,
                    env=self._environ(),
                    start_new_session=True,
                )
            except OSError as error:
                raise _not_startable(command[0], error) from error

    def _command(self) -> list[str]:
        return [str(self._tree.venv / "bin" / "ambientd"), "dev", "--state-dir", str(self._tree.state)]

    def _environ(self) -> dict[str, str]:
        environ = dict(os.environ)
        environ.pop("PYTHONPATH", None)
        return {**environ, **settings(self._tree)}

    def _prepare(self) -> None:
        folder = self._tree.socket.parent
        if folder == self._tree.state:
            return
        # a folder in /tmp is only safe when nobody else made it
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or folder.is_symlink():
            raise TroubleError(
                f"{folder} belongs to someone else.",
                "Use a checkout with a shorter path, so that its socket fits beside its state.",
            )

    def _note(self, pid: int, digest: str) -> None:
        write_record(self._record, {"pid": pid, "started": _started(pid), "digest": digest})

    def _keep_last_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._tree.log.replace(self._tree.log.with_name("ambientd.log.1"))

    def _log_end(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._tree.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        return ""

    def _wait_ready(self, child: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + self._ready_sec
        status, body = 0, ""
        while time.monotonic() < deadline:
            code = child.poll()
            if code is not None:
                raise TroubleError(
                    f"ambientd ended at once, with code {code}.",
                    f"The lines above are the end of {self._tree.log}",
                    self._log_end(),
                )
            status, body = self.readiness()
            if status == HTTP_OK:
                return
            time.sleep(0.05)
        if status:
            raise TroubleError(
                f"ambientd runs but is not ready: {body.strip()[:300]}",
                "It stays up to say so. End it with: python3 packaging/dev.py down",
                self._log_end(),
            )
        raise TroubleError(
            f"ambientd did not answer within {self._ready_sec:.0f} s on {self._tree.socket}.",
            f"Its log is {self._tree.log}. End it with: python3 packaging/dev.py down",
            self._log_end(),
        )


def _not_startable(program: str, error: OSError) -> TroubleError:
    return TroubleError(
        f"{program} cannot be started: {error.strerror}.",
        "Is this file system mounted noexec? Otherwise: python3 packaging/dev.py clean, then up again.",
    )


def settings(tree: Tree) -> dict[str, str]:
    """What a shell or the daemon needs in its environment to mean this checkout's node."""
    return {"AMBIENT_SOCKET": str(tree.socket), "AMBIENT_STATE_DIR": str(tree.state)}


def write_shell_settings(tree: Tree) -> Path:
    """Writes `.dev/env`, to be read by a POSIX shell with `.`; returns its path."""
    lines = [f"export {key}={shlex.quote(value)}" for key, value in settings(tree).items()]
    programs = shlex.quote(str(tree.venv / "bin"))
    lines.append(f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH={programs}:"$PATH" ;; esac')
    path = tree.dev / "env"
    path.write_text("\n".join(lines) + "\n")
    return path


def processes_of(tree: Tree) -> list[tuple[int, str]]:
    """Processes whose arguments name this checkout's state, such as the shims of running sessions."""
    sign = os.fsencode(tree.state)
    return [(pid, words.decode(errors="replace")) for pid, words in _command_lines() if sign in words]


def _command_lines() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip()


def remove_socket_folder(tree: Tree) -> None:
    """Removes the short folder that a long path made necessary."""
    if tree.socket.parent != tree.state:
        shutil.rmtree(tree.socket.parent, ignore_errors=True)


def _listener(path: Path) -> int | None:
    """Pid of the process that listens there: the peer credential of a socket is its listener's."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ASK_SEC)
        try:
            probe.connect(str(path))
        except OSError:
            return None
        size = struct.calcsize("3i")
        pid, _uid, _gid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid) or None


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (proc(5), field 22); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # the name in parentheses may itself hold spaces and parentheses
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _end(pid: int, patience: float) -> bool:
    """TERM, then wait until the process is gone. True when it is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        return bool(waiter.poll(patience * 1000))
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise TroubleError(f"Process {pid} belongs to another user.", "Run this as that user.") from error
    finally:
        os.close(handle)


def _ask(path: Path, route: str) -> tuple[int, str]:
    """One HTTP/1.1 GET over the socket: status and body, both bounded. Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ASK_SEC)
        link.connect(str(path))
        link.sendall(f"GET {route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while len(answer) < 65536:
            received = link.recv(65536)
            if not received:
                break
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1] if head else b""), body.decode(errors="replace")
