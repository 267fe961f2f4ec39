"""What an idle node costs, against a bare trio program in the same run.

    python tests/bench/bench_idle.py [--short] [--plain | --rush]

All run at the same time for the same window: resident memory, CPU time and voluntary context switches of
all threads, the feed's helper apart. Budget (DESIGN 5): daemon <= 42 MiB, with the helper <= 52 MiB,
CPU <= 0.05 % of a core, <= 2 context switches a second, with HTTP on TCP and a (fake) gateway that has 100
sessions. `--plain` leaves both out; `--rush` keeps the node busy first, and looks at it when that is over.
"""

import argparse
import contextlib
import copy
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fakes.gateway.process import FakeGatewayProcess

ROOT = Path(__file__).resolve().parents[2]
BARE = "import trio; trio.run(trio.sleep_forever)"
SESSIONS = 100  # of the gateway
SECRET = "bench-7c1f0a93d2e64b58a1c9d7e5f3b2a486"
RUSH_CLIENTS, RUSH_ROUNDS = 8, 60
TEXT = "x" * 20_000
READS = ("/api/v3/ledger?limit=100", "/api/system/status", "/api/v3/analytics/usage")
SETTLE_SEC = (
    30.0  # after a rush idle threads end ten seconds after the store has rested, those of a sweep too
)


class Cost(NamedTuple):
    """Of one process: MiB, nanoseconds of CPU, voluntary switches."""

    rss: float
    cpu: int
    switches: int


def cost(pid: int) -> Cost:
    """Reads it from /proc, over all threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.split("VmRSS:")[1].split()[0]) / 1024
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    switches = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        switches += int((task / "status").read_text().split("voluntary_ctxt_switches:")[1].split()[0])
    return Cost(rss, cpu, switches)


def helper_of(pid: int) -> int | None:
    """The daemon's only child, whichever of its threads started it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = " ".join((task / "children").read_text() for task in tasks).split()
    return int(children[0]) if children else None


def wait_ready(log: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the daemon says so in its log."""
    give_up = time.monotonic() + 30
    while b"node.ready" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > give_up:
            raise SystemExit(f"the daemon did not start:\n{log.read_text()}")
        time.sleep(0.05)


class Client(http.client.HTTPConnection):
    """HTTP over the node's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        """See the base class."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: str | None = None) -> None:
        """One request; anything but success ends the bench."""
        self.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = self.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path} answered {answer.status}")


def rush(path: str) -> None:
    """Ingests with large events and reads, from several clients at once."""
    given = json.loads((ROOT / "tests/data/ingest/valid/public_v1_full.json").read_text())["envelope"]

    def work(client: int) -> None:
        connection, envelope = Client(path), copy.deepcopy(given)
        for round_ in range(RUSH_ROUNDS):
            name = f"s-{client}-{round_}"
            envelope["idempotency_key"] = envelope["payload"]["session"]["sessionId"] = name
            for event in envelope["payload"]["events"]:
                event |= {
                    "sessionId": name,
                    "eventId": f"{name}:{event['seq']}",
                    "payload": {"text": "x" * 20_000},
                }
            connection.ask("POST", "/api/v3/ingest/session", json.dumps(envelope))
            for read in READS:
                connection.ask("GET", read)
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(RUSH_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start(folder: Path, gateway: FakeGatewayProcess | None) -> subprocess.Popen[bytes]:
    """A daemon in `folder`, with HTTP on TCP when there is a gateway."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    config = folder / "ambient.toml"
    config.write_text("# nothing\n")
    if gateway is not None:
        config.write_text(f'[gateway]\nurl = "{gateway.url}"\n[http]\nlisten = "127.0.0.1:0"\n')
        environment |= {"OPENCLAW_AUTH_TOKEN": gateway.token, "HELICARRIER_SECRET": SECRET}
    command = [sys.executable, "-m", "ambientd", "run", "--state-dir", str(folder / "state")]
    command += ["--socket", str(folder / "s"), "--config", str(config)]
    # Byte code first: the run that compiles it is a larger process.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "ambientd")], check=True)
    with (folder / "log").open("wb") as out:
        return subprocess.Popen(command, env=environment, stderr=out, stdin=subprocess.DEVNULL)


def measure(daemon: int, bare: int, window: float) -> tuple[list[Cost], list[Cost]]:
    """Before and after the window: of the daemon, the bare program and the feed's helper."""
    helper = helper_of(daemon)
    pids = [daemon, bare, *([helper] if helper else [])]
    before = [cost(pid) for pid in pids]
    time.sleep(window)
    return before, [cost(pid) for pid in pids]


def main() -> int:
    """Prints the figures; a missed budget is told, not failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="a window of 5 s instead of 120 s")
    parser.add_argument("--plain", action="store_true", help="no gateway, no HTTP on TCP")
    parser.add_argument("--rush", action="store_true", help="after a rush")
    options = parser.parse_args()
    window = 5.0 if options.short else 120.0
    folder = Path(tempfile.mkdtemp(prefix="ambient-bench-", dir="/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        gateway = None
        if not options.plain:
            gateway = stack.enter_context(FakeGatewayProcess("--sessions", str(SESSIONS)))
        daemon = start(folder, gateway)
        stack.callback(end, daemon)
        bare = subprocess.Popen([sys.executable, "-I", "-c", BARE])
        stack.callback(end, bare)
        wait_ready(folder / "log", daemon)
        if options.rush:
            rush(str(folder / "s"))
        time.sleep(SETTLE_SEC / 2 if options.short else SETTLE_SEC)
        before, after = measure(daemon.pid, bare.pid, window)
        if gateway is not None and not gateway.do("counts")["open_now"]:
            raise SystemExit(f"the node is not connected to the gateway:\n{(folder / 'log').read_text()}")
    report(before, after, window)
    return 0


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to end and waits."""
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def report(before: list[Cost], after: list[Cost], window: float) -> None:
    """One line per figure: ours, bare trio, ratio, budget."""
    cpu = [(b.cpu - a.cpu) / 1e9 / window * 100 for a, b in zip(before, after, strict=True)]
    switches = [(b.switches - a.switches) / window for a, b in zip(before, after, strict=True)]
    rss = [item.rss for item in after]
    helper = rss[2] if len(rss) > 2 else 0.0
    with_helper = sum(cpu[0:1] + cpu[2:])
    rows = [
        ("RSS of the daemon, MiB", rss[0], rss[1], 42.0),
        ("RSS with the feed's helper, MiB", rss[0] + helper, rss[1], 52.0),
        ("CPU with the helper, % of a core", with_helper, cpu[1], 0.05),
        ("context switches per second", sum(switches[0:1] + switches[2:]), switches[1], 2.0),
    ]
    print(f"idle for {window:g} s, one beat a minute")
    for name, ours, baseline, budget in rows:
        ratio = f"{ours / baseline:8.2f} x bare trio" if baseline > 0.0005 else "   (bare trio: none)"
        verdict = "PASS" if ours <= budget else "MISS"
        print(f"  {name:<34}{ours:9.3f}  bare {baseline:8.3f}  {ratio}  budget {budget:g}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
