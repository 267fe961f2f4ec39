"""A real control plane for tests from outside: `ambientd control-plane` as a process of its own."""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ambientd.core.ed25519 import public_of, show_key, sign
from ambientd.core.fleet.signing import enrol_bytes, request_bytes

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SEC = 30.0
STOP_SEC = 20.0
LOOK_EVERY = 0.03
REGISTRATION = {
    "region": "eu",
    "node_type": "any",
    "capabilities": {"bandwidth_mbps": 1000, "cpu_cores": 16, "memory_gb": 64},
}
SECRETS = ("ACCESS_TOKEN_KEY", "REFRESH_TOKEN_PEPPER", "API_KEY_PEPPER", "CONNECT_SESSION_TOKEN_PEPPER")
RANDOM = {name: f"{number}f" * 32 + "0123456789abcdef" for number, name in enumerate(SECRETS)}
_TIERS = ("AUTH", "NODE", "TASK", "PROOF", "GENERAL", "DEVICE")
UNLIMITED = {f"AMBIENT__SERVER__{tier}_{word}": "1000000" for tier in _TIERS for word in ("RPM", "BURST")}


class Reply(NamedTuple):
    """One answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Plane:
    """One control plane in a folder. `init` sets it up; `with` or `start` runs it."""

    def __init__(
        self, folder: Path, *, config: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "ambient.toml"
        folder.mkdir(exist_ok=True)
        self.config.write_text("# of a test\n" + config)
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            **UNLIMITED,
            **(environment or {}),
        }
        self.log = folder / "log"
        self.address = "127.0.0.1"
        self.wrapper: Sequence[str] = ()  # what the process is put behind; it keeps the pid
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.token = ""
        self.tls: ssl.SSLContext | None = None
        self.links: list[http.client.HTTPConnection] = []

    # --- the process

    def command(self, *arguments: str) -> list[str]:
        places = ["--config", str(self.config), "--state-dir", str(self.state)]
        has_verb = bool(arguments) and arguments[0] in ("init", "backup", "restore")
        verb = [*arguments[:has_verb], *places, *arguments[has_verb:]]
        return [*self.wrapper, sys.executable, "-m", "ambientd", "control-plane", *verb]

    def run(self, *arguments: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs the verb to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            input=given,
            timeout=60,
            check=False,
        )

    def init(self, *arguments: str) -> Any:
        """Sets it up; the JSON that `init` printed."""
        found = self.run("init", "--json", *arguments)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def start(self, *arguments: str, ready: bool = True) -> Self:
        """Starts the server on a free port."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("--listen", f"{self.address}:{self.port}", *arguments),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if not self.port:
            self.port = self._wait(self._listening)
        if ready:
            self._wait(lambda: self._answers("/readyz") == 200)
        return self

    def _wait(self, look: Any) -> Any:
        deadline = time.monotonic() + READY_SEC
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended: {self.log.read_text()}"
            found = look()
            if found:
                return found
            time.sleep(LOOK_EVERY)
        raise AssertionError(f"it is not ready: {self.log.read_text()}")

    def _listening(self) -> int:
        """The port that the process has got, as the kernel says."""
        assert self.process is not None
        with contextlib.suppress(OSError):
            mine = {
                os.readlink(f"/proc/{self.process.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{self.process.pid}/fd")
            }
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                    return int(fields[1].rpartition(":")[2], 16)
        return 0

    def _answers(self, path: str) -> int:
        try:
            return self.ask("GET", path).status
        except OSError:
            return 0

    def kill(self) -> None:
        """Ends it as a power cut of the process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_SEC)

    def stop(self) -> tuple[int, float]:
        """TERM, and how it ended: exit code and seconds."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SEC), time.monotonic() - began

    def __enter__(self) -> Self:
        return self.start() if self.process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for link in self.links:
            link.close()

    # --- requests

    def link(self) -> http.client.HTTPConnection:
        """A connection of its own."""
        if self.tls is not None:
            return http.client.HTTPSConnection(self.address, self.port, timeout=20, context=self.tls)
        return http.client.HTTPConnection(self.address, self.port, timeout=20)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        link: http.client.HTTPConnection | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request; `path` is whole. Raises OSError when nobody answers."""
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        given = {} if raw is None else {"Content-Type": "application/json"}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        own = link or self.link()
        try:
            own.request(method, path, raw, given | dict(headers or {}))
            answer = own.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            if link is None:
                own.close()

    def log_in(self, username: str, password: str) -> None:
        """From now on `call` speaks for this account."""
        found = self.ask("POST", "/api/v1/auth/login", {"username": username, "password": password})
        assert found.status == 200, found
        self.token = found.json["access_token"]

    def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """The JSON of an answer below /api/v1 with the status that is expected."""
        found = self.ask(method, f"/api/v1{path}", body, token=self.token)
        assert found.status == status, found
        return found.json

    def join(self, node_id: str, join_token: str, **fields: Any) -> "Joined":
        """Enrols a node."""
        seed = node_id.encode().ljust(32, b"\7")[:32]
        key = public_of(seed)
        proof = sign(seed, enrol_bytes(node_id=node_id, public_key=key, join_token=join_token))
        body = {
            "join_token": join_token,
            "node_id": node_id,
            "public_key": show_key(key),
            "proof": proof.hex(),
            **REGISTRATION,
            **fields,
        }
        found = self.ask("POST", "/api/v1/nodes/enrol", body)
        assert found.status == 201, found
        return Joined(self, node_id, seed, found.json["device_token"])


class Joined:
    """A joined node on a connection of its own."""

    def __init__(self, plane: Plane, node_id: str, seed: bytes, token: str) -> None:
        self.plane = plane
        self.node_id = node_id
        self.seed = seed
        self.token = token
        self.sequence = 0
        self._link: http.client.HTTPConnection | None = None

    def ask(self, method: str, rest: str, body: Any = None) -> Reply:
        """A signed request about the node itself. Raises OSError when nobody answers."""
        self.sequence += 1
        target = f"/api/v1/nodes/{self.node_id}{rest}"
        raw = b"" if body is None else json.dumps(body).encode()
        message = request_bytes(
            node_id=self.node_id, sequence=self.sequence, method=method, target=target, body=raw
        )
        headers = {
            "X-Ambient-Sequence": str(self.sequence),
            "X-Ambient-Signature": sign(self.seed, message).hex(),
        }
        if self._link is None:
            self._link = self.plane.link()
            self.plane.links.append(self._link)
        try:
            return self.plane.ask(
                method, target, raw or None, token=self.token, link=self._link, headers=headers
            )
        except OSError:
            self._link.close()
            self.plane.links.remove(self._link)
            self._link = None
            raise


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
         "1", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
         str(cert)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    return cert, key
