"""What it costs a node to report to its control plane.

    python tests/bench/bench_push.py [--short]

A real control plane and three real nodes at the same time: one that belongs to no control plane, one that
reports every five seconds (the least that may be set), one at the default interval of a minute. What a report
takes of the first is the processor time that the second has spent beyond the first, of all threads, by the
number of its reports; it holds the look at the machine's loads, the durable write to the outbox, the
signature and the answer. Between node and control plane a relay counts bytes: the request with its line and
headers, and the answer. The third node shows what being joined costs a node that rests.

Budgets (DESIGN 5): a report takes 1 ms of the processor and 700 bytes; a resting node 0.05 % of a core.
"""

import argparse
import contextlib
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.bench_idle import cost
from tests.e2e.fleetkit import Plane
from tests.e2e.harness import Node
from tests.e2e.joinedkit import join

OFTEN = "5s"
RESTING = {"dispatcher": {"interval": "60s"}, "connectivity": {"hold": "0s"}}
SETTLE_SEC = 30.0  # what a start leaves behind is given back meanwhile
BUDGET_CPU_MS, BUDGET_BYTES, BUDGET_IDLE = 1.0, 700, 0.05


class Exchange(NamedTuple):
    """One request and its answer, as bytes on the wire."""

    request: bytes
    answer: bytes

    @property
    def is_report(self) -> bool:
        """Whether it is a single report that was taken."""
        return self.request.startswith(b"PUT ") and self.answer.startswith(b"HTTP/1.1 200")


class Passage:
    """One connection through the relay; one request at a time goes over it."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._request = self._answer = b""

    def keep(self, data: bytes, forth: bool) -> None:
        """Takes what goes forth or comes back."""
        if not forth:
            self._answer += data
            return
        if self._answer:
            self.exchanges.append(Exchange(self._request, self._answer))
            self._request = self._answer = b""
        self._request += data

    @property
    def all(self) -> list[Exchange]:
        """The last one is whole when nothing is under way."""
        return [*self.exchanges, Exchange(self._request, self._answer)]


class Relay:
    """Passes connections on to a port of loopback, and keeps what went over them."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._passages: list[Passage] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            node, _ = self._listener.accept()
            plane, passage = socket.create_connection(("127.0.0.1", self._to)), Passage()
            self._passages.append(passage)
            for way in ((node, plane, passage, True), (plane, node, passage, False)):
                threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket, passage: Passage, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                passage.keep(data, forth)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def reports(self) -> list[Exchange]:
        """Single reports that were taken."""
        return [one for passage in self._passages for one in passage.all if one.is_report]


class Spent(NamedTuple):
    """Of one process: CPU seconds of all threads, voluntary switches, MiB."""

    cpu: float
    switches: int
    rss: float


def spent(pid: int) -> Spent:
    """As it stands now. The kernel's clock of a process is exact, and counts threads that have ended."""
    found = cost(pid)
    return Spent(time.clock_gettime(~pid << 3 | 2), found.switches, found.rss)


def show(relay: Relay, begun: int, change: list[Spent], window: float) -> None:
    """Figures and budgets; a missed one is told, not failed."""
    reports = relay.reports()[begun:]
    if not reports:
        raise SystemExit("no report was seen")
    alone, often, seldom = change
    sizes = [len(one.request) for one in reports]
    answers = [len(one.answer) for one in reports]
    bodies = [len(one.request.partition(b"\r\n\r\n")[2]) for one in reports]
    each = (often.cpu - alone.cpu) / len(reports) * 1000
    print(f"{window:g} s, {len(reports)} reports of the node that reports every {OFTEN}")
    rows = (
        ("CPU of a report, ms", each, BUDGET_CPU_MS),
        ("request on the wire, bytes", statistics.median(sizes), BUDGET_BYTES),
        ("   of it its body", statistics.median(bodies), 0),
        ("answer on the wire, bytes", statistics.median(answers), 0),
        ("CPU of a joined node at rest, %", seldom.cpu / window * 100, BUDGET_IDLE),
        ("   of one that has not joined, %", alone.cpu / window * 100, BUDGET_IDLE),
        ("switches/s of a joined node at rest", seldom.switches / window, 2.0),
        ("   of one that has not joined", alone.switches / window, 2.0),
        ("RSS of a joined node, MiB", seldom.rss, 42.0),
        ("   of one that has not joined, MiB", alone.rss, 42.0),
    )
    for name, value, budget in rows:
        verdict = "" if not budget else f"   budget {budget:g}: {'PASS' if value <= budget else 'MISS'}"
        print(f"  {name:<38}{value:9.3f}{verdict}", flush=True)
    shown = re.sub(rb"Bearer nd_\w+", b"Bearer nd_...", reports[-1].request).decode()
    print("\n".join(f"    {line}" for line in shown.split("\r\n")))


def joined(stack: contextlib.ExitStack, port: int, token: str, name: str, interval: str) -> Node:
    """A node that belongs to the control plane behind a port."""
    plane = {"interval": interval, "pull_interval": "1d", "allow_plain": True}
    node = stack.enter_context(Node({**RESTING, "control_plane": plane}))
    answer = join(node, f"http://127.0.0.1:{port}", token, name)
    if answer.status != 200:
        raise SystemExit(f"{name} cannot join: {answer}")
    return node


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a window of 11 s instead of 120 s")
    options = parser.parse_args()
    window = 11.0 if options.short else 120.0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = Plane(folder)
        owner = plane.init()
        stack.enter_context(plane.start())
        plane.log_in(owner["owner"], owner["password"])
        token = plane.call("POST", "/join-tokens", {"uses": 2}, status=201)["join_token"]
        relay = Relay(plane.port)
        alone = stack.enter_context(Node(RESTING))
        often = joined(stack, relay.port, token, "often", OFTEN)
        seldom = joined(stack, plane.port, token, "seldom", "60s")
        time.sleep(1.0 if options.short else SETTLE_SEC)
        pids = [alone.pid, often.pid, seldom.pid]
        before, begun = [spent(pid) for pid in pids], len(relay.reports())
        time.sleep(window)
        after = [spent(pid) for pid in pids]
        change = [
            Spent(b.cpu - a.cpu, b.switches - a.switches, b.rss) for a, b in zip(before, after, strict=True)
        ]
        show(relay, begun, change, window)
    return 0


if __name__ == "__main__":
    sys.exit(main())
