"""A stuck daemon, a crashing one, a reload, a stop."""

import json
import os
import signal
import threading
import time
from collections import Counter
from functools import partial

from tests.systemd.inside.kit import (
    FEED,
    STATE,
    Report,
    configure,
    ctl,
    ctl_json,
    drop_in,
    executors,
    feed_problems,
    is_ready,
    let_go,
    main_pid,
    prop,
    session,
    spawn,
    systemctl,
    wait_for,
    wait_status,
)

WATCHDOG = "[Service]\nWatchdogSec=3s\n"
CRASHES = 10


def run(report: Report) -> None:
    """Needs the daemon, and no session."""
    _watchdog(report)
    _crashes(report)
    _reload(report)
    _stop(report)


def _watchdog(report: Report) -> None:
    session_id = spawn("wait")
    wait_status(session_id, "running")
    drop_in(WATCHDOG)
    systemctl("restart", "ambientd")
    wait_for(is_ready)
    pid, restarts = main_pid(), int(prop("NRestarts"))
    time.sleep(7)
    report.check("a daemon that turns feeds its watchdog", main_pid() == pid, prop("Result"))
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    died = wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 20)
    took = time.monotonic() - began
    report.check("one that is stuck is ended by it", died and took < 8, f"{took:.1f} s")
    report.note(f"ended after {took:.1f} s, WatchdogSec is 3 s")
    back = wait_for(lambda: int(prop("NRestarts")) > restarts and is_ready())
    report.check("and started again", back, prop("ActiveState"))
    log = systemctl("status", "ambientd").out
    report.check("nothing but the dead process is to be seen", prop("ActiveState") == "active", log)
    running = session(session_id).get("status")
    report.check("the session is still there", running == "running" and len(executors()) == 1, running)
    size = FEED.stat().st_size
    wait_for(lambda: FEED.stat().st_size > size)
    report.check("and the feed has no line that does not parse", feed_problems() == [], feed_problems())
    drop_in("")
    systemctl("restart", "ambientd")
    wait_for(is_ready)
    let_go(session_id)
    wait_status(session_id, "success")


def _crashes(report: Report) -> None:
    """Each as soon as there is a process to kill, half of them before it is ready."""
    before = int(prop("NRestarts"))
    asking = Asking()
    asking.start()
    for number in range(CRASHES):
        pid = wait_for(main_pid, 20, 0.01)
        if number % 2:
            wait_for(is_ready, 10)
        if pid:
            os.kill(pid, signal.SIGKILL)
        wait_for(partial(_is_other, pid), 10, 0.01)
    ended = wait_for(is_ready)
    asking.stop()
    counted = int(prop("NRestarts")) - before
    report.check(
        f"{CRASHES} quick crashes do not end the unit", ended and counted >= CRASHES, (ended, counted)
    )
    lost = {text: count for text, count in asking.failed.items() if not _is_in_flight(text)}
    report.check(
        "no client finds the socket closed or the node not ready", asking.answered and not lost, lost
    )
    report.note(
        f"{asking.answered} answered, {sum(asking.failed.values())} cut off; worst {asking.worst:.1f} s"
    )
    states = [prop("ActiveState", unit) for unit in ("ambientd.socket", "ambient-executor.socket")]
    report.check("nor its sockets", states == ["active", "active"], states)
    report.check("and the feed still parses", feed_problems() == [], feed_problems())
    report.check(
        "and the database is whole", ctl("status", "--check").code == 0, ctl("status", "--check").told
    )


class Asking(threading.Thread):
    """One client after the other, all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = threading.Event()
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.worst = 0.0

    def run(self) -> None:
        """Until `stop`."""
        while not self._ended.is_set():
            began = time.monotonic()
            done = ctl("status", "--short")
            self.worst = max(self.worst, time.monotonic() - began)
            if done.code == 0:
                self.answered += 1
            else:
                self.failed[done.told] += 1

    def stop(self) -> None:
        """Waits for the last client."""
        self._ended.set()
        self.join()


def _is_in_flight(text: str) -> bool:
    """A request that the killed process had taken is lost with it; the client says so."""
    return "exit 3" in text and "not running" not in text


def _is_other(pid: int) -> bool:
    return main_pid() != pid


def _reload(report: Report) -> None:
    pid = main_pid()
    configure('[agents.fresh]\ncommand = ["/bin/echo", "hello"]\n')
    done = systemctl("reload", "ambientd")

    def known() -> bool:
        return any(agent.get("id") == "fresh" for agent in ctl_json("agents").get("items", []))

    report.check(
        "systemctl reload makes a new agent known", done.code == 0 and wait_for(known, 10), done.told
    )
    report.check("in the same process", main_pid() == pid, main_pid())
    report.check("which runs", wait_status(spawn("fresh"), "success", "failed") == "success")
    configure("[agents.fresh]\ncommand = 7\n")
    systemctl("reload", "ambientd")
    time.sleep(1)
    kept = main_pid() == pid and known() and prop("ActiveState") == "active"
    report.check("a reload of a wrong configuration keeps the old one", kept, prop("ActiveState"))
    configure()
    systemctl("reload", "ambientd")
    gone = wait_for(lambda: not known(), 10)
    report.check("an agent that was taken away is gone", gone, ctl("agents").told)


def _stop(report: Report) -> None:
    session_id = spawn("wait")
    wait_status(session_id, "running")
    lines = FEED.read_bytes().count(b"\n")
    began = time.monotonic()
    systemctl("stop", "ambientd")
    took = time.monotonic() - began
    report.check("systemctl stop takes less than 5 s beside a running session", took < 5, f"{took:.1f} s")
    report.note(f"stopped after {took:.2f} s")
    result = (prop("ActiveState"), prop("Result"), prop("ExecMainStatus"))
    report.check("and ends well", result == ("inactive", "success", "0"), result)
    beat = json.loads((STATE / "heartbeat.json").read_text())
    report.check("the heartbeat file says stopped", beat["status"] == "stopped", beat)
    record = json.loads((STATE / "stopped.json").read_text())
    report.check(
        "the stop is recorded with its reason", (record["exit"], record["reason"]) == (0, "SIGTERM"), record
    )
    grown = FEED.read_bytes().count(b"\n") - lines
    report.check(
        "the last beat is in the feed", grown >= 1 and feed_problems() == [], (grown, feed_problems())
    )
    wait_for(is_ready)
    let_go(session_id)
    ended = wait_status(session_id, "success", "failed")
    report.check("the session has outlived the stop", ended == "success", ended)
