"""A start that comes to nothing, from outside: what clients, systemd and standard error are told."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambientd.wire import exits

# Hands its first descriptor over as systemd does: as number 3, to the process that it names.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "ambientd", "run", *sys.argv[2:]])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def start(
    place: Path, listener: socket.socket, environ: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ACTIVATE, str(listener.fileno()), "--config", str(place / "c.toml")],
        pass_fds=[listener.fileno()],
        env={**os.environ, "AMBIENT_STATE_DIR": str(place / "state"), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_problem_reaches_the_waiting_client_systemd_and_standard_error(place: Path) -> None:
    (place / "c.toml").write_text('[log]\nlevel = "loud"\n[nod]\n')
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        listener.bind(str(place / "s"))
        listener.listen(8)
        manager.bind(str(place / "notify"))
        client.connect(str(place / "s"))
        client.sendall(b"GET /api/system/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        ran = start(place, listener, {"NOTIFY_SOCKET": str(place / "notify")})
        assert ran.returncode == exits.CONFIG, ran.stderr
        client.settimeout(5)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        status = manager.recv(8192).decode()
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Content-Length: %d" % len(body) in head
    assert (error["code"], error["message"]) == ("NOT_READY", "The configuration has 2 problems.")
    said = [detail["message"] for detail in error["details"]]
    for place_told in (ran.stderr, status, " ".join(said)):
        assert "log.level" in place_told
        assert "nod is not a setting" in place_told
    assert status.startswith("STATUS=The configuration has 2 problems.")
    assert "READY=1" not in status


def test_a_state_directory_that_cannot_be_used_is_told_too(place: Path) -> None:
    (place / "c.toml").write_text("# nothing is set\n")
    (place / "state").write_text("a file")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(place / "s"))
        listener.listen(8)
        client.connect(str(place / "s"))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        ran = start(place, listener, {})
        assert ran.returncode == exits.STORAGE, ran.stderr
        client.settimeout(5)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert str(place / "state") in ran.stderr
    assert str(place / "state") in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
