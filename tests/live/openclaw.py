"""A real OpenClaw Gateway as a process on loopback, in a folder of its own, with a model that is a mock.

Its agents are named by what their model does: `fast`, `slow`, `short`, `hang`, `bad`, `tool`.
"""

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.live.mock_model import PRICES

Json = dict[str, Any]
BOOT_SEC = 150.0
STOP_SEC = 60.0
LOOK_EVERY = 0.05
SWEEPS = 100
# A model that fails makes the gateway avoid its provider, so those have one of their own.
PROVIDERS = {"mock": ("mock-fast", "mock-slow", "mock-short", "mock-tool"), "mock4": ("mock-400",)}
PROVIDERS["mockhang"] = ("mock-hang",)
AGENTS = {
    "main": "mock/mock-fast",
    "fast": "mock/mock-fast",
    "slow": "mock/mock-slow",
    "short": "mock/mock-short",
    "hang": "mockhang/mock-hang",
    "bad": "mock4/mock-400",
    "tool": "mock/mock-tool",
}
_ENVIRONMENT = {
    "OPENCLAW_OFFLINE": "1",
    "OPENCLAW_NO_AUTO_UPDATE": "1",
    "OPENCLAW_DISABLE_BONJOUR": "1",
    "OPENCLAW_SKIP_CHANNELS": "1",
    "OPENCLAW_NO_RESPAWN": "1",
    "OPENCLAW_EXEC_SHELL_SNAPSHOT": "0",
    "DO_NOT_TRACK": "1",
    "LANG": "C.UTF-8",
}


class Gateway:
    """One gateway and its folder; may be stopped and started again on the state there is."""

    def __init__(self, root: Path, *, version: str, program: Path, node: Path, model_port: int) -> None:
        self.root = root
        self.version = version
        self.port = _free_port()
        self.token = secrets.token_hex(24)
        self.token_file = root / "token"
        self.log_file = root / "output.log"
        self._mark = f"AMBIENT_LIVE={secrets.token_hex(8)}"
        self._started: set[int] = set()
        self._program = program
        self._node = node
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True)
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self.token)
        self._config_file = root / "openclaw.json"
        self._config_file.write_text(json.dumps(self._config(model_port), indent=1))

    @property
    def is_old(self) -> bool:
        """Whether it speaks protocol 3."""
        return self.version.startswith("2026.5.")

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Starts it; returns once it accepts connections, with the seconds that took."""
        began = time.monotonic()
        self.launch()
        self.wait_ready()
        return time.monotonic() - began

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        name, _, value = self._mark.partition("=")
        environment = {
            **_ENVIRONMENT,
            name: value,
            "PATH": f"{self._node.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root / "home"),
            "OPENCLAW_HOME": str(self.root / "home"),
            "OPENCLAW_STATE_DIR": str(self.root / "state"),
            "OPENCLAW_CONFIG_PATH": str(self._config_file),
        }
        for name in ("home", "state", "workspace"):
            (self.root / name).mkdir(exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._node, self._program, "gateway", "run", "--port", str(self.port)],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.add(self._process.pid)

    def wait_ready(self) -> None:
        """Returns when it says that it is ready."""
        assert self._process is not None
        until = time.monotonic() + BOOT_SEC
        while not self._is_ready():
            code = self._process.poll()
            assert code is None, f"the gateway ended with {code}:\n{self.log_tail()}"
            assert time.monotonic() < until, f"not ready after {BOOT_SEC:g} s:\n{self.log_tail()}"
            time.sleep(LOOK_EVERY)

    def _is_ready(self) -> bool:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            link.request("GET", "/readyz")
            answer = link.getresponse()
            return answer.status == 200 and bool(json.loads(answer.read() or b"{}").get("ready"))
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            link.close()

    def terminate(self) -> None:
        """Asks it to end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait_ended(self, seconds: float = STOP_SEC) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def kill9(self) -> None:
        """Kills it and whatever it has started."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SEC)
        self._end_all()

    def close(self) -> None:
        """Ends everything of it; its folder stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SEC)
        self._end_all()

    def processes(self) -> set[int]:
        """Its processes: those of its sessions, and those that have its mark in their environment."""
        found = set()
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and self._is_ours(path):
                found.add(int(path.name))
        return found

    def _is_ours(self, path: Path) -> bool:
        try:
            state, _, _, session = path.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            marked = self._mark.encode() in path.joinpath("environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return state != "Z" and (marked or int(session) in self._started)

    def _end_all(self) -> None:
        for _ in range(SWEEPS):
            found = self.processes()
            if not found:
                return
            for pid in found:
                self._end(pid)
            time.sleep(LOOK_EVERY)
        raise AssertionError(f"processes of the gateway do not end: {self.processes()}")

    def _end(self, pid: int) -> None:
        """Through a descriptor, looked at again after it was opened: numbers are given anew."""
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return
        try:
            if self._is_ours(Path(f"/proc/{pid}")):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return
        finally:
            os.close(handle)

    def memory_mb(self) -> float:
        """Resident memory of all its processes."""
        return sum(resident_mb(pid) for pid in self.processes() | {self.pid})

    def log_tail(self, length: int = 3000) -> str:
        return self.log_file.read_text(errors="replace")[-length:]

    def _config(self, model_port: int) -> Json:
        models: Json = {"mode": "replace", "providers": {}}
        for provider, names in PROVIDERS.items():
            models["providers"][provider] = {
                "baseUrl": f"http://127.0.0.1:{model_port}/v1",
                "apiKey": "sk-mock",
                "api": "openai-completions",
                "models": [_model(name) for name in names],
            }
        agents: Json = {
            "defaults": {
                "workspace": str(self.root / "workspace"),
                "model": {"primary": "mock/mock-fast"},
                "heartbeat": {"every": "0m"},
                "skipBootstrap": True,
            }
        }
        config: Json = {
            "gateway": {
                "mode": "local",
                "port": self.port,
                "bind": "loopback",
                "auth": {"mode": "token", "token": self.token},
                "controlUi": {"enabled": False},
                "terminal": {"enabled": False},
            },
            "update": {"checkOnStart": False},
            "cron": {"enabled": False},
            "discovery": {"mdns": {"mode": "off"}},
            "plugins": {"enabled": False},
            "logging": {"file": str(self.root / "openclaw.log")},
            "agents": agents,
            "models": models,
        }
        settings = {
            name: {"name": name.title(), "model": {"primary": model}} for name, model in AGENTS.items()
        }
        if self.is_old:
            config["gateway"].pop("terminal")
            agents["list"] = [
                {"id": name, "default": name == "main", **more} for name, more in settings.items()
            ]
        else:
            agents["entries"] = settings
            config["telemetry"] = {"enabled": False}
            models["catalogRefresh"] = {"enabled": False}
            config["tools"] = {"toolSearch": False}  # else the model sees no tool but a search for tools
        return config


def _model(name: str) -> Json:
    return {
        "id": name,
        "name": name,
        "input": ["text"],
        "cost": PRICES,
        "contextWindow": 200000,
        "maxTokens": 4096,
    }


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
