import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ambientd.host.notify import Notifier, passed_sockets, watchdog_interval

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, str]]:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        address = str(Path(folder) / "notify")
        sock.bind(address)
        sock.settimeout(20)
        yield sock, address


def test_every_notification_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    environ = {"NOTIFY_SOCKET": address, "OTHER": "x"}
    notifier = Notifier.from_environ(environ)
    assert environ == {"OTHER": "x"}
    assert notifier.enabled
    notifier.ready("watching")
    notifier.status("two\nlines " + "ü" * 2000)
    notifier.reloading(12.5)
    notifier.watchdog()
    notifier.stopping()
    said = [sock.recv(4096).decode() for _ in range(5)]
    assert said[0] == "READY=1\nSTATUS=watching"
    assert said[1].startswith("STATUS=two lines üüü")
    assert said[1].endswith("ü…")
    assert 2040 < len(said[1].encode()) <= len("STATUS=") + 2048  # systemd takes 4096 bytes in all
    assert said[2:] == ["RELOADING=1\nMONOTONIC_USEC=12500000", "WATCHDOG=1", "STOPPING=1"]


def test_an_abstract_socket_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"ambient-test-{os.getpid()}"
        sock.bind("\0" + name)
        sock.settimeout(20)
        Notifier("@" + name).ready()
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "/nowhere/at/all", "/" + "x" * 500, "@" + "x" * 500, "/a\0b"]
)
def test_nobody_listening_is_no_trouble(address: str | None) -> None:
    Notifier(address).ready()


def test_a_manager_that_does_not_read_cannot_hold_us_up(manager: tuple[socket.socket, str]) -> None:
    _sock, address = manager
    notifier = Notifier(address)
    for _ in range(5000):
        notifier.watchdog()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "180000000"}, 180.0),
        ({"WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "7"}, 180.0),
        ({"WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
    ],
)
def test_the_watchdog_interval_is_for_one_process(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(environ, 7) == seconds


@pytest.mark.parametrize(
    ("count", "owner"),
    [("1", "8"), ("1", ""), ("", "7"), ("-1", "7"), ("x", "7"), ("0", "7"), ("65", "7"), ("9" * 5000, "7")],
)
def test_sockets_for_others_or_nonsense_are_left_alone_and_the_variables_removed(
    count: str, owner: str
) -> None:
    environ = {"LISTEN_FDS": count, "LISTEN_PID": owner, "LISTEN_FDNAMES": "x", "KEPT": "1"}
    assert passed_sockets(environ, 7) == []
    assert environ == {"KEPT": "1"}


RECEIVER = """
import fcntl, os, socket, sys
from ambientd.host.notify import passed_sockets
environ = dict(os.environ, LISTEN_PID=str(os.getpid()))
passed = passed_sockets(environ, os.getpid())
for fd, name in passed:
    flags = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    print(fd, name, flags, os.get_blocking(fd), socket.socket(fileno=fd).family.name)
print([name for name in environ if name.startswith("LISTEN_")])
"""


def test_passed_sockets_are_taken_over_close_on_exec() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        spare = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 10)
        try:
            # descriptor 4 does not exist: it is passed over
            command = f"exec {sys.executable} -c '{RECEIVER}' 3<&{spare} {spare}<&- 4<&-"
            environ = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "ambientd.sock"}
            done = subprocess.run(
                ["bash", "-c", command],
                check=False,
                cwd=ROOT,
                env=environ,
                pass_fds=[spare],
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            os.close(spare)
    assert done.stdout == "3 ambientd.sock 1 False AF_UNIX\n[]\n", done.stderr
