"""What 200 status requests a second cost: a real node on TCP against a bare h11-on-trio responder.

    python tests/bench/bench_status.py [--short]

The node has 40 agents and 100 ended sessions of its own and a connected gateway with 40 more agents and 1,000
sessions, 20 of them active, and answers from its cache: key, Host and router included. The bare one sends the
same bytes and knows nothing. Both get the same paced load over 10 keep-alive connections, in turn; the figure
is the processor time of all their threads as a share of one core. Budget: at most 10 % of a core more than
bare.
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import statistics
import sys
import time
import traceback
from pathlib import Path

RATE = 200
CONNECTIONS = 10
AGENTS = 40
SESSIONS = 100
THEIR_SESSIONS, THEIR_ACTIVE = 1_000, 20
BUDGET = 0.10
SECRET = "bench-0f3a9c51d2e84b60a1c9d7e5f3b2a486"
PATH = "/api/system/status"


def serve_bare(sock: socket.socket, body: bytes) -> None:
    """The least that h11 and trio need for a keep-alive answer with this body."""
    import trio

    from tests.bench.bare import bare_answer

    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]

    answer = bare_answer(headers, body)

    async def main() -> None:
        await trio.serve_listeners(answer, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])

    trio.run(main)


def start_bare(body: bytes) -> tuple[int, int]:
    """Pid and port of the bare responder."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=64)
    pid = os.fork()
    if pid == 0:
        try:
            serve_bare(sock, body)
        except BaseException:  # noqa: BLE001 - a child must not go on as its parent
            traceback.print_exc()
        os._exit(1)
    port = int(sock.getsockname()[1])
    sock.close()
    return pid, port


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads that live."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def connect(port: int) -> http.client.HTTPConnection:
    """A connection that sends at once."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.connect()
    link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def load(port: int, pid: int, seconds: float) -> tuple[float, list[float], int]:
    """Share of a core, latencies in seconds, and the size of an answer, at RATE requests a second."""
    links = [connect(port) for _ in range(CONNECTIONS)]
    latencies, size, number = [], 0, 0
    before, began = cpu_seconds(pid), time.perf_counter()
    while (due := began + number / RATE) < began + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        link, sent = links[number % CONNECTIONS], time.perf_counter()
        link.request("GET", PATH, headers={"X-Secret-Key": SECRET})
        answer = link.getresponse()
        size = len(answer.read())
        latencies.append(time.perf_counter() - sent)
        if answer.status != 200:
            raise SystemExit(f"answered {answer.status}")
        number += 1
    share = (cpu_seconds(pid) - before) / (time.perf_counter() - began)
    for link in links:
        link.close()
    return share, latencies, size


def idle(pid: int, seconds: float) -> float:
    """Share of a core that the process takes when nobody asks."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds


def main() -> int:
    """Prints shares and ratio; exit 1 beyond the budget."""
    from tests.e2e.harness import Node
    from tests.fakes.gateway.process import FakeGatewayProcess

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="1 round of 3 s instead of 5 of 10 s")
    rounds, seconds = (1, 3.0) if parser.parse_args().short else (5, 10.0)
    agents = {f"agent-{number}": {"command": ["/bin/true"]} for number in range(AGENTS)}
    names = ",".join(f"gate-{number}" for number in range(AGENTS))
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(
            FakeGatewayProcess("--agents", names, "--sessions", str(THEIR_SESSIONS))
        )
        for number in range(THEIR_ACTIVE):
            gateway.do("create", agent_id=f"gate-{number}", message="x")
        config = {
            "agents": agents,
            "http": {"listen": "127.0.0.1:0"},
            "dispatcher": {"interval": "60s"},
            "gateway": {"enabled": True, "url": gateway.url},
        }
        environment = {"HELICARRIER_SECRET": SECRET, "OPENCLAW_AUTH_TOKEN": gateway.token}
        node = stack.enter_context(Node(config, environment=environment))
        for number in range(SESSIONS):
            node.post("/api/control/spawn", {"agentId": f"agent-{number % AGENTS}", "prompt": "x"})
        node.wait_for(lambda: node.status()["sessions"] == {"running": THEIR_ACTIVE, "queued": 0}, 120)
        node.wait_for(lambda: node.status()["gateway"].get("activeSessions") == THEIR_ACTIVE, 30)
        port = int(node.status()["http"]["address"].rpartition(":")[2])
        body = node.get(PATH).body
        bare_pid, bare_port = start_bare(body)
        try:
            load(port, node.pid, 0.5)
            load(bare_port, bare_pid, 0.5)
            quiet = idle(node.pid, seconds / 2)
            ours, bare, latencies = [], [], []
            for _ in range(rounds):
                share, found, size = load(port, node.pid, seconds)
                ours.append(share)
                latencies += found
                bare.append(load(bare_port, bare_pid, seconds)[0])
        finally:
            os.kill(bare_pid, signal.SIGKILL)
            os.waitpid(bare_pid, 0)
    mine, theirs = statistics.median(ours), statistics.median(bare)
    p95 = statistics.quantiles(latencies, n=20)[-1] * 1000
    print(f"{RATE} requests/s, answers of {size} bytes, {rounds} rounds of {seconds:g} s")
    print(f"idle node         {quiet:7.2%} of a core")
    print(f"bare h11 on trio  {theirs:7.2%} of a core")
    print(f"ours              {mine:7.2%} of a core, p95 {p95:.2f} ms")
    print(f"ratio             {mine / theirs:7.2f}")
    print(f"more than bare    {mine - theirs:7.2%} of a core (budget {BUDGET:.0%})")
    return 0 if mine - theirs <= BUDGET else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
