"""A real node for tests from outside: `ambientd run` as a process of its own, in a place of its own.

    with Node({"agents": {"echo": {"command": ["/bin/cat"]}}}) as node:
        node.wait_for(lambda: node.beats())
        assert node.ctl("status").returncode == 0

Nothing of the product is imported here. Whatever happens in the block, all processes of the node are gone
afterwards; its folder stays when the block failed, and its path is printed.
"""

import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from ambientd.net.ask import UnixConnection

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SEC = 30.0
STOP_SEC = 20.0
WAIT_SEC = 15.0
CTL_SEC = 30.0
LOOK_EVERY = 0.02
SWEEPS = 100

_CTL = "from ambientctl.main import main; main()"
_DEFAULTS: Mapping[str, Any] = {"dispatcher": {"interval": "100ms"}}

_T = TypeVar("_T")


class Answer(NamedTuple):
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Stopped(NamedTuple):
    """How a daemon ended: exit code (negative: the signal), and seconds from the request to the end."""

    code: int
    seconds: float


class Node:
    """One node and its folder. Start it with `with`, or `start()`; `close()` ends everything of it.

    `root` holds everything: `state` (the state directory), `sock`, `ambient.toml`, `home`, `log`.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        ready: bool = True,
    ) -> None:
        """Makes the folder; starts nothing.

        `config`: a mapping is laid over an interval of 100 ms; text is written as it is. `environment` is
        added to a small one (the caller's is not inherited). `flags` follow `ambientd run`. `wrapper` is a
        program that ends in `exec "$@"`, such as `prlimit --fsize=4096`: the daemon keeps its pid. With
        `ready` false the `with` block does not wait for readiness.
        """
        self.root = Path(tempfile.mkdtemp(prefix="amb-", dir="/tmp"))
        self.state = self.root / "state"
        self.socket = self.root / "sock"
        self.config_file = self.root / "ambient.toml"
        self.home = self.root / "home"
        self.log_file = self.root / "log"
        self.heartbeat_file = self.state / "heartbeat.json"
        self.flags = list(flags)
        self.wrapper = list(wrapper)
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.home),
            "PYTHONPATH": str(REPOSITORY),
            "AMBIENT_STATE_DIR": str(self.state),
            "AMBIENT_SOCKET": str(self.socket),
            "AMBIENT_CONFIG": str(self.config_file),
            **(environment or {}),
        }
        self._wants_ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self.home.mkdir()
        self.log_file.touch()
        self.configure(config if config is not None else {})

    # --- its life

    def __enter__(self) -> Self:
        try:
            self.start(ready=self._wants_ready)
        except BaseException:
            self.close(keep=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=kind is not None)

    def configure(self, config: str | Mapping[str, Any]) -> None:
        """Writes the configuration file anew; a running daemon reads it on HUP."""
        text = config if isinstance(config, str) else to_toml(_merged(_DEFAULTS, config))
        self.config_file.write_text(text)
        self.config_file.chmod(0o600)

    def start(self, *, ready: bool = True) -> Self:
        """Starts the daemon on the state there is; returns when it answers that it is ready."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, sys.executable, "-m", "ambientd", "run", *self.flags],
                env=self.environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready:
            self.wait_for(self.is_ready, READY_SEC, "the node to be ready")
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon last started."""
        assert self._process is not None, "never started"
        return self._process

    @property
    def pid(self) -> int:
        """The pid of the daemon last started."""
        return self.process.pid

    def is_alive(self) -> bool:
        """Whether the daemon runs."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether `/readyz` answers 200."""
        try:
            return self.get("/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def send_signal(self, number: int) -> None:
        """Sends a signal to the daemon."""
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, seconds: float = STOP_SEC) -> Stopped:
        """Asks the daemon to end and waits for it; raises subprocess.TimeoutExpired when it does not."""
        began = time.monotonic()
        self.send_signal(number)
        code = self.process.wait(seconds)
        return Stopped(code, time.monotonic() - began)

    def kill9(self) -> None:
        """Kills the daemon; sessions and the feed's helper are left to themselves."""
        self.process.kill()
        self.process.wait(STOP_SEC)

    def wait_ended(self, seconds: float = STOP_SEC) -> int:
        """Waits for the daemon to end by itself; its exit code."""
        return self.process.wait(seconds)

    def close(self, *, keep: bool = False) -> None:
        """Ends the daemon and everything that it left; removes the folder unless `keep`."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(STOP_SEC / 2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SEC)
        end_processes_of(self.root)
        if keep:
            print(f"\nkept: {self.root}\n{self.log[-4000:]}", file=sys.stderr)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    # --- asking it

    def get(self, path: str, headers: Mapping[str, str] | None = None, *, seconds: float = CTL_SEC) -> Answer:
        """GETs a path over the socket. Raises OSError, http.client.HTTPException."""
        return self.request("GET", path, headers=headers, seconds=seconds)

    def post(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float = CTL_SEC,
    ) -> Answer:
        """POSTs a value as JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Content-Type": "application/json", **(headers or {})}
        return self.request("POST", path, data, headers=told, seconds=seconds)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = CTL_SEC,
    ) -> Answer:
        """One exchange on a connection of its own."""
        link = UnixConnection(str(self.socket), seconds)
        try:
            link.request(method, path, body, dict(headers or {}))
            answer = link.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            link.close()

    def status(self) -> dict[str, Any]:
        """The status document."""
        answer = self.get("/api/system/status")
        assert answer.status == 200, answer
        document: dict[str, Any] = answer.json
        return document

    def ctl(
        self,
        *arguments: str,
        timeout: float = CTL_SEC,
        input: str | None = None,  # noqa: A002 - as of subprocess.run
    ) -> subprocess.CompletedProcess[str]:
        """Runs `ambientctl`, talking to this node."""
        return self._run(["-c", _CTL, *arguments], timeout, input)

    def ambientd(
        self,
        *arguments: str,
        timeout: float = CTL_SEC,
        input: str | None = None,  # noqa: A002 - as of subprocess.run
    ) -> subprocess.CompletedProcess[str]:
        """Runs a verb of `ambientd` with this node's environment."""
        return self._run(["-m", "ambientd", *arguments], timeout, input)

    def _run(
        self, arguments: Sequence[str], timeout: float, text: str | None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=self.root,
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    # --- what it leaves

    @property
    def feed(self) -> Path:
        """The activity feed: where the environment says, else the default."""
        named = self.environment.get("LUKA_ACTIVITY_FEED_JSONL", "").strip()
        return self.state / (named or "observability/logs/activity_feed.jsonl")

    def lines(self, feed: Path | None = None) -> list[dict[str, Any]]:
        """The objects in the feed's ended lines; fails on a line that is none."""
        return parse_lines(feed or self.feed)

    def beats(self, feed: Path | None = None) -> list[dict[str, Any]]:
        """The heartbeats among `lines`."""
        return [event for event in self.lines(feed) if event.get("action") == "heartbeat"]

    def heartbeat(self) -> dict[str, Any]:
        """The heartbeat file."""
        document: dict[str, Any] = json.loads(self.heartbeat_file.read_bytes())
        return document

    @property
    def log(self) -> str:
        """Everything the daemon has said."""
        return self.log_file.read_text(errors="replace")

    def log_events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log's JSON lines, all of them or those of one event."""
        found = []
        for line in self.log.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and name in (None, event.get("event")):
                found.append(event)
        return found

    def wait_for(
        self,
        predicate: Callable[[], _T | Literal[False] | None],
        seconds: float = WAIT_SEC,
        what: str = "",
        *,
        alive: bool = True,
    ) -> _T:
        """Returns the predicate's first true value; fails after `seconds`, or when the daemon ends."""
        until = time.monotonic() + seconds
        while True:
            ended = alive and not self.is_alive()
            value = predicate()
            if value:
                return value
            assert not ended, f"the daemon ended with {self.process.returncode}:\n{self.log[-4000:]}"
            assert time.monotonic() < until, (
                f"waited {seconds} s for {what or predicate}:\n{self.log[-4000:]}"
            )
            time.sleep(LOOK_EVERY)

    def pass_cycles(self, count: int, seconds: float = WAIT_SEC) -> None:
        """Returns after `count` further cycles of the dispatcher, as its status counts them."""
        goal = self.status()["heartbeat"]["cycles"] + count
        self.wait_for(lambda: self.status()["heartbeat"]["cycles"] >= goal, seconds, f"{count} cycles")


def parse_lines(feed: Path) -> list[dict[str, Any]]:
    """The objects in a file's ended lines, nothing when there is no file; fails on a line that is none."""
    try:
        raw = feed.read_bytes()
    except FileNotFoundError:
        return []
    *lines, _ = raw.split(b"\n")
    found = [json.loads(line) for line in lines]
    assert all(isinstance(event, dict) for event in found)
    return found


def to_toml(document: Mapping[str, Any]) -> str:
    """A mapping as TOML: strings, numbers, booleans, lists and tables of them."""
    return "".join(_table((), document))


def _table(path: tuple[str, ...], table: Mapping[str, Any]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(json.dumps, path))}]\n"] if path and plain else []
    lines += [f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _table((*path, key), value)
    return lines


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def processes_of(root: Path) -> set[int]:
    """Processes that have the folder in their command line or environment; never this one."""
    mark = os.fsencode(root)
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and _mentions(int(name), mark):
            found.add(int(name))
    return found


def _mentions(pid: int, mark: bytes) -> bool:
    try:
        texts = (Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return False
    return any(mark in text for text in texts)


def end_processes_of(root: Path) -> None:
    """Kills session shims, agents and whatever else belongs to the folder; fails if something stays."""
    mark = os.fsencode(root)
    for _ in range(SWEEPS):
        found = processes_of(root)
        if not found:
            return
        for pid in found:
            _kill(pid, mark)
        time.sleep(LOOK_EVERY)
    raise AssertionError(f"processes of {root} do not end: {found}")


def _kill(pid: int, mark: bytes) -> None:
    """Kills through a descriptor, looked at again after it was opened: numbers are given anew."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _mentions(pid, mark) and not select.select([handle], [], [], 0)[0]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return
    finally:
        os.close(handle)
