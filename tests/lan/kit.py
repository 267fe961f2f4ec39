"""A LAN for tests: hosts in network namespaces of their own, on one switch that can be cut and made to lose.

    with Lan(3) as lan:
        process = lan.hosts[0].start(["serf", "agent"])
        lan.split({0}, {1, 2})
        lan.heal()

Nothing leaves the namespaces: the switch has no uplink. Needs root, `ip` and, for cuts and losses, `nft`.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, permutations
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

_NUMBERS = count()
_SUBNET = "10.213.7"
_TABLE = "bridge ambient"
_NEW_NET = 0x40000000  # CLONE_NEWNET
_LIBC = ctypes.CDLL(None, use_errno=True)
_FORWARD = f"add chain {_TABLE} cut {{ type filter hook forward priority 0; }}"


class Counters(NamedTuple):
    """What went over a host's interface, as the kernel counts it: bytes of whole Ethernet frames."""

    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.rx_bytes + self.tx_bytes


class Host(NamedTuple):
    """One namespace, with its address on the LAN. `before` is what every command there is put behind."""

    number: int
    namespace: str
    address: str
    before: tuple[str, ...] = ()

    @property
    def wrapper(self) -> list[str]:
        """What a command is put behind to run there; the command keeps the pid."""
        return ["ip", "netns", "exec", self.namespace, *self.before]

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, out: IO[bytes] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Starts a process there."""
        sink: Any = subprocess.DEVNULL if out is None else out
        return subprocess.Popen(
            [*self.wrapper, *command],
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT if out is not None else sink,
        )

    def counters(self) -> Counters:
        """So far."""
        text = _run([*self.wrapper, "cat", "/proc/net/dev"])
        line = next(line for line in text.splitlines() if line.strip().startswith("lan0:"))
        found = [int(field) for field in line.partition(":")[2].split()]
        return Counters(found[0], found[8], found[1], found[9])


class Trouble(NamedTuple):
    """What a switch does to frames: how late they are (half of it more or less), how many are lost and come
    twice, in per cent."""

    delay_ms: float = 0.0
    loss: float = 0.0
    double: float = 0.0


class Lan:
    """Use it with `with`; everything is gone afterwards. `hosts` are numbered from 0."""

    def __init__(self, size: int, *, before: Sequence[str] = (), trouble: Trouble | None = None) -> None:
        """Makes nothing yet. `before`: a program that every command is run by, such as `chrt -r 1`. With
        `trouble` the switch is a program, which can do more than the kernel's and cannot be cut."""
        prefix = f"amb{os.getpid():x}-{next(_NUMBERS)}"
        self._switch = f"{prefix}-sw"
        self._trouble = trouble
        self._program: subprocess.Popen[str] | None = None
        self.hosts = tuple(Host(i, f"{prefix}-{i}", f"{_SUBNET}.{i + 1}", tuple(before)) for i in range(size))

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _build(self) -> None:
        if self._trouble is not None:
            self._build_bad(self._trouble)
            return
        _run(["ip", "netns", "add", self._switch])
        self._ip("link", "add", "br0", "type", "bridge")
        # Multicast goes to everybody, as on a plain switch; addresses of IPv6 would chatter for a while.
        _quiet_ipv6(self._switch)
        self._ip("link", "set", "br0", "type", "bridge", "mcast_snooping", "0", "stp_state", "0")
        self._ip("link", "set", "br0", "up")
        for host in self.hosts:
            _run(["ip", "netns", "add", host.namespace])
            _quiet_ipv6(host.namespace)
            port = f"p{host.number}"
            self._ip("link", "add", port, "type", "veth", "peer", "name", "lan0", "netns", host.namespace)
            self._ip("link", "set", port, "master", "br0", "up")
            self._address(host)
        if shutil.which("nft"):
            self._nft(f"add table {_TABLE}", _FORWARD)

    def _build_bad(self, trouble: Trouble) -> None:
        for host in self.hosts:
            _run(["ip", "netns", "add", host.namespace])
            _quiet_ipv6(host.namespace)
            _run(["ip", "-n", host.namespace, "tuntap", "add", "dev", "lan0", "mode", "tap"])
        figures = [str(trouble.delay_ms), str(trouble.loss), str(trouble.double)]
        names = [host.namespace for host in self.hosts]
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.lan.badswitch", *figures, *names],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._program.stdout is None or self._program.stdout.readline() != "ready\n":
            raise OSError("the switch does not start")
        for host in self.hosts:
            self._address(host)

    @staticmethod
    def _address(host: Host) -> None:
        for command in (
            ["addr", "add", f"{host.address}/24", "brd", "+", "dev", "lan0"],
            ["link", "set", "lo", "up"],
            ["link", "set", "lan0", "up"],
            ["route", "add", "default", "dev", "lan0"],
        ):
            _run(["ip", "-n", host.namespace, *command])

    def _remove(self) -> None:
        if self._program is not None:
            self._program.communicate(timeout=20)
        for name in (*(host.namespace for host in self.hosts), self._switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    # --- trouble

    def split(self, *groups: Collection[int]) -> None:
        """Hosts of different groups do not reach each other any more; those in no group are alone."""
        group_of = {number: place for place, group in enumerate(groups) for number in group}
        everybody = [host.number for host in self.hosts]
        self._cut(
            (one, other)
            for one, other in permutations(everybody, 2)
            if group_of.get(one, -1 - one) != group_of.get(other, -1 - other)
        )

    def deafen(self, listener: int, speaker: int) -> None:
        """What `speaker` says does not reach `listener`; the other way stays open."""
        self._cut([(speaker, listener)])

    def lose(self, percent: int) -> None:
        """So much of everything is lost, each way."""
        self._rules([f"add rule {_TABLE} cut numgen random mod 100 < {percent} drop"])

    def heal(self) -> None:
        """Everybody reaches everybody, without losses."""
        self._rules([])

    def unplug(self, number: int) -> None:
        """Takes a host's cable out."""
        self._ip("link", "set", f"p{number}", "down")

    def plug(self, number: int) -> None:
        """Puts it in again."""
        self._ip("link", "set", f"p{number}", "up")

    def _cut(self, pairs: Iterator[tuple[int, int]] | Sequence[tuple[int, int]]) -> None:
        self._rules([f'add rule {_TABLE} cut iifname "p{a}" oifname "p{b}" drop' for a, b in pairs])

    def _rules(self, rules: Sequence[str]) -> None:
        self._nft(f"flush chain {_TABLE} cut", *rules)

    def _nft(self, *commands: str) -> None:
        _run(["ip", "netns", "exec", self._switch, "nft", "-f", "-"], "\n".join(commands) + "\n")

    def _ip(self, *words: str) -> None:
        _run(["ip", "-n", self._switch, *words])


def why_not(*, cuts: bool = True) -> str | None:
    """Why there can be no such LAN here; None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", *(["nft"] if cuts else [])) if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    try:
        with Lan(1) as lan:
            if cuts:
                lan.lose(1)
    except (subprocess.SubprocessError, OSError) as error:
        return f"no network namespaces here: {error}"
    return None


@contextmanager
def running(process: "subprocess.Popen[bytes]", seconds: float = 10.0) -> Iterator["subprocess.Popen[bytes]"]:
    """Ends a process that was started when the block ends."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)


@contextmanager
def inside(host: Host) -> Iterator[None]:
    """Sockets that this thread opens in the block are on that host, and stay so."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{host.namespace}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _NEW_NET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _quiet_ipv6(namespace: str) -> None:
    folder = "/proc/sys/net/ipv6/conf"
    if Path(folder).exists():
        script = f"for f in {folder}/*/disable_ipv6; do echo 1 > $f; done"
        _run(["ip", "netns", "exec", namespace, "sh", "-c", script])


def _run(command: Sequence[str], text: str | None = None) -> str:
    done = subprocess.run(list(command), input=text, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
