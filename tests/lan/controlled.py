"""A control plane and its nodes on a LAN of network namespaces, all on one clock that runs fast.

Every process is a real one; libfaketime makes all its clocks and waits run `factor` times as fast, so that
hours of the default intervals pass in minutes. What agents do takes its true time.
"""

import http.client
import os
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.bothsides import Rows
from tests.e2e.fleetkit import Plane, Reply
from tests.e2e.harness import Node
from tests.e2e.joinedkit import join, rows_of
from tests.e2e.leasekit import faketime
from tests.lan.fleet import until
from tests.lan.kit import Host, Lan, inside

PORT = 7443
ONLINE_SEC = 30.0
TRIES = 5
NEEDS_CLOCK = "libfaketime is not installed"


class FastClock:
    """One clock for several processes: `factor` seconds in each true one, from now on."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._began = time.time()

    def environment(self) -> dict[str, str]:
        """For a process that starts now: its own fast clock would begin with the true time."""
        library = faketime()
        assert library is not None, NEEDS_CLOCK
        ahead = (time.time() - self._began) * (self.factor - 1)
        return {
            "LD_PRELOAD": library,
            "FAKETIME": f"+{ahead:.3f} x{self.factor:g}",
            "FAKETIME_NO_CACHE": "1",
        }

    def true(self, seconds: float) -> float:
        """True seconds, of some on this clock."""
        return seconds / self.factor


class LanPlane(Plane):
    """A control plane on a host of the LAN, with TLS, asked from this process."""

    def __init__(self, folder: Path, host: Host, clock: FastClock, config: str = "") -> None:
        folder.mkdir()
        cert, key = _certificate(folder, host.address)
        server = f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\naccess_lifetime = "1d"\n{config}'
        super().__init__(folder, config=server)
        self.host = host
        self.clock = clock
        self.address, self.port, self.wrapper = host.address, PORT, host.wrapper
        self.certificate = cert
        self.tls = ssl.create_default_context(cafile=str(cert))

    @property
    def url(self) -> str:
        """What nodes join."""
        return f"https://{self.address}:{self.port}"

    @property
    def rows(self) -> Rows:
        """Asks its database."""
        return rows_of(self.state / "fleet.db")

    def start(self, *arguments: str, ready: bool = True) -> "LanPlane":
        self.environment |= self.clock.environment()
        return super().start(*arguments, ready=ready)

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        """Reading is repeated: on the fast clock the other side loses patience with a busy machine."""
        for _ in range(TRIES - 1 if method == "GET" else 0):
            try:
                return super().ask(method, path, body, **more)
            except OSError:
                continue
        return super().ask(method, path, body, **more)

    def link(self) -> http.client.HTTPConnection:
        """A connection that begins on the control plane's own host, so that no cut is in its way."""
        link = super().link()
        with inside(self.host):
            link.connect()
        return link


class ControlledNode:
    """A node on a host of the LAN that belongs to the control plane."""

    def __init__(self, name: str, host: Host, plane: LanPlane, config: Mapping[str, Any]) -> None:
        self.name = name
        self.host = host
        control = {"ca_file": str(plane.certificate), "timeout": "2m"}
        # On a fast clock the longest allowed times are just long enough.
        whole = {"connectivity": {"timeout": "1m"}, "control_plane": control, **config}
        self.node = Node({"dispatcher": {"interval": "1m"}, **whole}, wrapper=host.wrapper)
        self.plane = plane

    @property
    def rows(self) -> Rows:
        """Asks its database."""
        return rows_of(self.node.state / "ambient.db")

    def start(self) -> None:
        """On the fast clock; what is run beside it is not."""
        fast = self.plane.clock.environment()
        self.node.environment |= fast
        self.node.start(ready=False)
        for name in fast:
            del self.node.environment[name]

    def at_plane(self) -> dict[str, Any]:
        """What the control plane says of it."""
        found: dict[str, Any] = self.plane.call("GET", f"/nodes/{self.name}")
        return found

    def is_online(self) -> bool:
        return bool(self.at_plane()["status"] == "online")


class Controlled:
    """All of them."""

    def __init__(self, lan: Lan, plane: LanPlane, nodes: list[ControlledNode]) -> None:
        self.lan = lan
        self.plane = plane
        self.nodes = nodes

    def cut(self, node: ControlledNode) -> None:
        """This node reaches nobody."""
        self.lan.split({host.number for host in self.lan.hosts} - {node.host.number})

    def pass_time(self, seconds: float) -> None:
        """So much on the fast clock."""
        time.sleep(self.plane.clock.true(seconds))


@contextmanager
def controlled(
    folder: Path, size: int, *, factor: float, config: Mapping[str, Any], server: str = ""
) -> Iterator[Controlled]:
    """A control plane and so many joined nodes, all online."""
    with ExitStack() as stack:
        lan = stack.enter_context(Lan(size + 1))
        clock = FastClock(factor)
        plane = LanPlane(folder / "cp", lan.hosts[0], clock, server)
        made = plane.init()
        stack.enter_context(plane.start())
        nodes = [ControlledNode(f"edge-{host.number}", host, plane, config) for host in lan.hosts[1:]]
        failed = True
        try:
            for one in nodes:
                one.start()
            plane.log_in("admin", made["password"])
            token = plane.call("POST", "/join-tokens", {"uses": size}, status=201)["join_token"]
            for one in nodes:
                one.node.wait_for(one.node.is_ready, 60)
                until(partial(_joined, one, token), ONLINE_SEC, f"{one.name} to join")
            for one in nodes:
                until(one.is_online, ONLINE_SEC, f"{one.name} to be online")
            yield Controlled(lan, plane, nodes)
            failed = False
        finally:
            for one in nodes:
                one.node.close(keep=failed)


def _joined(one: ControlledNode, token: str) -> bool:
    """Asks again where the fast clock left too little time; the same node gets the same place."""
    return join(one.node, one.plane.url, token, one.name).status == 200


def _certificate(folder: Path, address: str) -> tuple[Path, Path]:
    key, cert = folder / "tls.key", folder / "tls.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
         "30", "-subj", "/CN=plane", "-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out",
         str(cert)],
        check=True,
        capture_output=True,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
    )  # fmt: skip
    key.chmod(0o600)
    return cert, key
