"""A real PostgreSQL server for tests: of Debian's package, in a temporary directory, on a Unix socket only.

It runs as an unprivileged user (it refuses root), with its own defaults: fsync is on.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

START_WAIT = 60.0  # seconds; after a kill it replays its log first
STOP_WAIT = 30.0
_INSTALLED = Path("/usr/lib/postgresql")
_UNPRIVILEGED = ("postgres", "nobody")


class NoServerError(Exception):
    """PostgreSQL cannot be run here; the text says why."""


def programs() -> Path:
    """The folder with `initdb` and `postgres`, of the newest installed version."""
    found = sorted(_INSTALLED.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("postgres")
    if there is not None and shutil.which("initdb") is not None:
        return Path(there).resolve().parent
    raise NoServerError("PostgreSQL is not installed (apt-get install postgresql)")


def _owner() -> pwd.struct_passwd | None:
    """Whom the server runs as when this process is root."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoServerError("there is no unprivileged user to run PostgreSQL as")


def _processes() -> list[str]:
    return [entry.name for entry in Path("/proc").glob("[0-9]*")]


def _parent_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat.rpartition(b")")[2].split()[1])


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False


class PgServer:
    """One server; its databases are made one for each test."""

    def __init__(self) -> None:
        self.bin = programs()
        self._owner = _owner()
        self.folder = Path(tempfile.mkdtemp(prefix="ambient-pg-"))
        self._data = self.folder / "data"
        self._log = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._serial = 0
        if self._owner is not None:
            os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
            self.folder.chmod(0o755)

    def _spawn(self, *command: str) -> "subprocess.Popen[bytes]":
        user: dict[str, Any] = {}
        if self._owner is not None:
            user = {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": ()}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                **user,
            )

    def init(self) -> None:
        """Makes the cluster."""
        command = ("-D", str(self._data), "-U", "ambient", "-E", "UTF8", "--locale=C.UTF-8", "-A", "trust")
        if self._spawn(str(self.bin / "initdb"), *command).wait(START_WAIT) != 0:
            raise NoServerError(f"initdb failed: {self.log()}")

    def start(self) -> None:
        """Starts it and waits until it takes connections."""
        settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}"]
        # One call for the file system instead of one for each file, before the log is replayed.
        settings += ["-c", "recovery_init_sync_method=syncfs"]
        self._process = self._spawn(str(self.bin / "postgres"), "-D", str(self._data), *settings)
        self._wait(self._process)

    def ensure(self) -> None:
        """Waits until it takes connections, also when a test before has killed it and not had it back."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        else:
            self._wait(self._process)

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_WAIT
        while True:
            try:
                psycopg.connect(self.address("postgres")).close()
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise NoServerError(f"PostgreSQL did not start: {error}; {self.log()}") from error
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Ends all of its processes at once, with SIGKILL."""
        assert self._process is not None
        parent = self._process.pid
        children = [pid for pid in map(int, _processes()) if _parent_of(pid) == parent]
        self._process.send_signal(signal.SIGKILL)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(STOP_WAIT)
        self._process = None
        # A new server would refuse to start while one of them still holds the shared memory.
        deadline = time.monotonic() + STOP_WAIT
        while any(_works_in(pid, self._data) for pid in children) and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self, *, at_once: bool = False) -> None:
        """Ends it in an orderly way (fast shutdown), or without a checkpoint (immediate shutdown)."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
        self._process.wait(STOP_WAIT)
        self._process = None

    def remove(self) -> None:
        """Stops it and removes its folder."""
        try:
            self.stop(at_once=True)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """The end of the server's log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""

    def address(self, database: str) -> str:
        """What a client connects with."""
        return f"postgresql://ambient@/{database}?host={self.folder}"

    def new_database(self, template: str = "template1") -> str:
        """A new database; its name."""
        if self._process is None:  # a test that killed it failed before it came back
            self.start()
        self._serial += 1
        name = f"t{self._serial}_{secrets.token_hex(4)}"
        self.run("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Removes a database. A killed server looks at every file of all of them before it is back."""
        self.ensure()
        self.run("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def run(self, database: str, sql: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a statement over a connection of its own."""
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), params)
            return cursor.fetchall() if cursor.description is not None else []


def started() -> PgServer:
    """A server that runs; raises NoServerError."""
    server = PgServer()
    try:
        server.init()
        server.start()
    except BaseException:
        server.remove()
        raise
    return server
