"""systemd's two small protocols: telling it how we are (sd_notify), and taking over its sockets."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple, Self

ENV_NOTIFY = "NOTIFY_SOCKET"
_LISTEN = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FIRST_FD = 3
# One socket is all we ask for; the bound keeps a wrong variable from closing in on every descriptor.
_MOST_FDS = 64
# STATUS= is a line in `systemctl status`. The whole message may have 4096 bytes.
_LONGEST_STATUS = 2048


class Notifier:
    """Sends notifications; without an address, or when systemd does not listen, it does nothing."""

    def __init__(self, address: str | None) -> None:
        """`address` is a path, or `@name` for an abstract socket."""
        self._address = address

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Self:
        """Takes NOTIFY_SOCKET out of `environ`, so that no child speaks in our name."""
        return cls(environ.pop(ENV_NOTIFY, None))

    @property
    def enabled(self) -> bool:
        """Whether anyone asked to be told."""
        return bool(self._address)

    def ready(self, status: str | None = None) -> None:
        """Start, or reload, is finished."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def reloading(self, monotonic: float) -> None:
        """A reload has begun; `monotonic` is CLOCK_MONOTONIC in seconds. `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(monotonic * 1_000_000)}")

    def stopping(self, status: str | None = None) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> None:
        """The main loop has turned."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        address = self._address
        if not address or address[0] not in "/@":
            return
        if address[0] == "@":
            address = "\0" + address[1:]
        # Nobody listening, a full queue, a path too long: none of it may touch the daemon.
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(errors="replace"), address)


def _status(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    line = " ".join(text.split()).encode(errors="replace")
    if len(line) > _LONGEST_STATUS:
        line = line[: _LONGEST_STATUS - 3].decode(errors="ignore").encode() + "…".encode()
    return ("STATUS=" + line.decode(),)


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which systemd wants to hear WATCHDOG=1; None when it does not."""
    usec, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID")
    microseconds = _count(usec)
    return microseconds / 1_000_000 if microseconds and owner in {None, str(pid)} else None


def _count(text: str) -> int:
    """A count from a variable; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


class PassedSocket(NamedTuple):
    """A descriptor from systemd; `name` is FileDescriptorName= of its unit ("" when unknown)."""

    fd: int
    name: str


def passed_sockets(environ: MutableMapping[str, str], pid: int) -> list[PassedSocket]:
    """The sockets that were passed to this process, close-on-exec; the variables are taken out of
    `environ`. Empty when they are meant for another process or make no sense."""
    count, owner, names = (environ.get(name, "") for name in _LISTEN[:3])
    for name in _LISTEN:
        environ.pop(name, None)
    total = _count(count)
    if owner != str(pid) or total > _MOST_FDS:
        return []
    labels = names.split(":") if names else []
    found = []
    for index in range(total):
        fd = _FIRST_FD + index
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            os.set_blocking(fd, False)
            found.append(PassedSocket(fd, labels[index] if index < len(labels) else ""))
    return found
