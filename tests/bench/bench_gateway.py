"""What a gateway with 40 agents and 5,000 known sessions costs, and how late the status is behind it.

    python tests/bench/bench_gateway.py [--short]

The gateway is the fake one, a process of its own. Measured:
- loop: link and view in this process, over loopback; how long one step of a task holds the loop while all
  5,000 sessions are listed anew (processor time of the step: what others do on the machine is not its fault);
- cache: a real node; latency of status requests over HTTP, 50 a second;
- events, polling: a real node; from a change at the gateway to the status request that shows it.
"""

import argparse
import http.client
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

AGENTS, SESSIONS, PAGE = 40, 5_000, 100
RATE = 50
SECRET = "bench-0f3a9c51d2e84b60a1c9d7e5f3b2a486"
PATH = "/api/system/status"
HOLD_MS, CACHE_MS, EVENTS_MS, POLLING_MS = 20.0, 5.0, 250.0, 2_000.0
LOOK_SEC = 0.005

Row = tuple[str, float, float]


def names() -> str:
    """Agent ids as the fake gateway takes them."""
    return ",".join(f"agent-{number}" for number in range(AGENTS))


@contextmanager
def big_gateway() -> Iterator[Any]:
    """All agents; the sessions ended one a second, the last just now."""
    from tests.fakes.gateway.process import FakeGatewayProcess

    with FakeGatewayProcess("--agents", names()) as gateway:
        gateway.do("populate", count=SESSIONS, age_ms=0)
        for number in range(AGENTS):
            gateway.do("create", agent_id=f"agent-{number}", message="x")
        yield gateway


@contextmanager
def connected(gateway: Any) -> Iterator[tuple[Any, http.client.HTTPConnection]]:
    """A real node that has listed everything, and a connection to it."""
    from tests.e2e.harness import Node

    config = {
        "gateway": {"enabled": True, "url": gateway.url},
        "http": {"listen": "127.0.0.1:0"},
        "dispatcher": {"interval": "60s"},
    }
    environment = {"HELICARRIER_SECRET": SECRET, "OPENCLAW_AUTH_TOKEN": gateway.token}
    with Node(config, environment=environment) as node:
        node.wait_for(lambda: node.status()["gateway"]["healthy"], 30, "the gateway to be listed")
        port = int(node.status()["http"]["address"].rpartition(":")[2])
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            link.connect()
            link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield node, link
        finally:
            link.close()


def request(link: http.client.HTTPConnection) -> bytes:
    """The status, over HTTP with the key."""
    link.request("GET", PATH, headers={"X-Secret-Key": SECRET})
    answer = link.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"answered {answer.status}")
    return body


def status(link: http.client.HTTPConnection) -> dict[str, Any]:
    """The same as a document."""
    found: dict[str, Any] = json.loads(request(link))
    return found


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


# --- how long a reconcile holds the loop


def loop(rounds: int) -> list[Row]:
    """The longest step of any task, in processor time, and the rows of the largest page."""
    import trio

    with big_gateway() as gateway:
        steps = trio.run(partial(reconcile, gateway, rounds))
        largest = gateway.do("counts")["largest_limit"]
    cpu, wall = [c for c, _ in steps], [w for _, w in steps]
    longest, by_wall = max(cpu) * 1000, max(wall) * 1000
    print(
        f"loop     {len(steps)} steps, {rounds} reconciles of {SESSIONS + AGENTS} sessions, "
        f"pages of {largest}"
    )
    print(f"loop     longest by the clock on the wall {by_wall:.1f} ms, by processor time {longest:.1f} ms")
    return [("longest step of a reconcile, ms", longest, HOLD_MS), ("rows of a page", largest, PAGE)]


async def reconcile(gateway: Any, rounds: int) -> list[tuple[float, float]]:
    """Lists everything `rounds` times over a real link; what each step took."""
    import trio

    from ambientd.app.gateway import build_gateway_link
    from ambientd.config.schema import GatewayConfig
    from ambientd.host.memory import settle_memory
    from ambientd.services.gateway_link import GatewayLinkService
    from ambientd.services.gateway_view import GatewayViewService
    from tests.fakes.log import ListLog

    class WallClock:
        def now(self) -> Any:
            from datetime import UTC, datetime

            return datetime.now(UTC)

        def monotonic(self) -> float:
            return time.monotonic()

    with tempfile.TemporaryDirectory() as folder:
        log = ListLog()
        link = build_gateway_link(
            GatewayConfig(enabled=True, url=gateway.url),
            node_name="bench",
            state_dir=Path(folder),
            environ={"OPENCLAW_AUTH_TOKEN": gateway.token},
            clock=WallClock(),
            log=log,
        )
        assert isinstance(link, GatewayLinkService)
        view = GatewayViewService(link=link, clock=WallClock(), log=log, interval=3600.0)
        steps = step_meter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            nursery.start_soon(view.run)
            with trio.fail_after(60):
                while not view.is_live:
                    await trio.sleep(0.01)
            settle_memory()  # as the node does when it is ready
            trio.lowlevel.add_instrument(steps)
            for _ in range(rounds):
                view._full_at = float("-inf")  # as ten minutes later
                passed = view._passed_at
                view.refresh()
                with trio.fail_after(60):
                    while view._passed_at == passed or view._wanted is None:
                        await trio.sleep(0.01)
                view.snapshot()
            trio.lowlevel.remove_instrument(steps)
            nursery.cancel_scope.cancel()
    taken: list[tuple[float, float]] = steps.taken
    return taken


def step_meter() -> Any:
    """A meter of how long tasks hold the loop: (processor time, time on the wall) of each step."""
    import trio

    class Steps(trio.abc.Instrument):
        def __init__(self) -> None:
            self.taken: list[tuple[float, float]] = []
            self._began: tuple[float, float] | None = None

        def before_task_step(self, task: Any) -> None:
            self._began = (time.thread_time(), time.perf_counter())

        def after_task_step(self, task: Any) -> None:
            if self._began is None:
                return  # it was put in during this step
            cpu, wall = self._began
            self.taken.append((time.thread_time() - cpu, time.perf_counter() - wall))

    return Steps()


# --- how fast a status request is


def cache(seconds: float) -> list[Row]:
    """Requests at RATE a second, whatever is due in the node meanwhile."""
    with big_gateway() as gateway, connected(gateway) as (_, link):
        wait(link, lambda document: document["sessions"]["running"] == AGENTS)  # they are in the ledger
        found = status(link)
        known = len(found["agents"]), found["gateway"]["activeSessions"]
        latencies: list[float] = []
        began, number = time.perf_counter(), 0
        while (due := began + number / RATE) < began + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            request(link)
            latencies.append((time.perf_counter() - sent) * 1000)
            number += 1
    print(
        f"cache    {number} requests, {known[0]} agents, {known[1]} active sessions, "
        f"median {statistics.median(latencies):.2f} ms"
    )
    return [("status request p95, ms", p95(latencies), CACHE_MS)]


# --- how late the status is


def late(gateway: Any, samples: int) -> list[float]:
    """Milliseconds from each change at the gateway to the first status that shows it."""
    found: list[float] = []
    with connected(gateway) as (_, link):
        for number in range(samples):
            # Out of step with everything that beats in the node.
            time.sleep(0.31 + (number * 0.37) % 1.1)
            session = gateway.do("create", agent_id="agent-1", message="x")["key"]
            began = time.perf_counter()
            wait(link, lambda document: running(document) == 1)
            found.append((time.perf_counter() - began) * 1000)
            time.sleep(0.31 + (number * 0.53) % 1.1)
            gateway.do("finish", session=session)
            began = time.perf_counter()
            wait(link, lambda document: running(document) == 0)
            found.append((time.perf_counter() - began) * 1000)
    return found


def running(document: dict[str, Any]) -> int:
    """Sessions that run of the agent that is watched."""
    return int(next(agent["running"] for agent in document["agents"] if agent["id"] == "agent-1"))


def wait(link: http.client.HTTPConnection, shows: Callable[[dict[str, Any]], bool]) -> None:
    """Asks again and again until it shows."""
    until = time.perf_counter() + 30
    while not shows(status(link)):
        if time.perf_counter() > until:
            raise SystemExit("a change was not seen within 30 s")
        time.sleep(LOOK_SEC)


def events(samples: int) -> list[Row]:
    """A gateway that tells what changes."""
    from tests.fakes.gateway.process import FakeGatewayProcess

    with FakeGatewayProcess("--agents", "agent-0,agent-1", "--sessions", "200") as gateway:
        latencies = late(gateway, samples)
    print(f"events   {len(latencies)} changes, median {statistics.median(latencies):.0f} ms")
    return [("status behind a change, events, p95, ms", p95(latencies), EVENTS_MS)]


def polling(samples: int) -> list[Row]:
    """A gateway that refuses to tell."""
    from tests.fakes.gateway.process import FakeGatewayProcess

    with FakeGatewayProcess("--agents", "agent-0,agent-1", "--sessions", "200") as gateway:
        gateway.do("always", method="sessions.subscribe", code="INVALID_REQUEST", message="unknown method")
        latencies = late(gateway, samples)
    print(f"polling  {len(latencies)} changes, median {statistics.median(latencies):.0f} ms")
    return [("status behind a change, polling, p95, ms", p95(latencies), POLLING_MS)]


def main() -> int:
    """Prints each figure with its budget; exit 1 beyond one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer samples")
    short = parser.parse_args().short
    rows = [
        *loop(2 if short else 10),
        *cache(1.5 if short else 20.0),
        *events(3 if short else 40),
        *polling(2 if short else 40),
    ]
    for name, figure, budget in rows:
        print(f"{name:44} {figure:8.2f}  budget {budget:g}{'' if figure <= budget else '  OVER'}")
    return 0 if all(figure <= budget for _, figure, budget in rows) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
