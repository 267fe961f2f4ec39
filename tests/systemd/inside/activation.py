"""The socket first, then the daemon by its first client; the sandbox it runs in, and that it works there."""

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from tests.systemd.inside.kit import (
    FEED,
    SOCKET,
    STATE,
    Report,
    cgroup_of,
    configure,
    ctl,
    feed_problems,
    is_ready,
    journal,
    main_pid,
    members,
    prop,
    sh,
    spawn,
    systemctl,
    wait_for,
    wait_status,
)

PROBE_UNIT = Path("/run/systemd/system/ambient-probe.service")
PROBE = """
import ctypes, json, mmap, os, socket, sys
def attempt(work):
    try:
        work()
    except OSError as error:
        return type(error).__name__
    return "ok"
def userns():
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
jit = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
found = {
    "wx": attempt(lambda: mmap.mmap(-1, 4096, prot=jit)),
    "etc": attempt(lambda: open("/etc/made", "w")),
    "usr": attempt(lambda: open("/usr/lib/ambient/made", "w")),
    "home": attempt(lambda: os.listdir("/root")),
    "userns": attempt(userns),
    "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    "packet": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)),
    "inet": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "node": attempt(lambda: os.listdir("/etc/ambient")),
    "state": attempt(lambda: open(sys.argv[1], "w")),
    "foreign": [
        name for name in os.listdir("/proc")
        if name.isdigit() and os.stat("/proc/" + name).st_uid != os.getuid()
    ],
}
json.dump(found, open(sys.argv[1], "w"))
"""


def run(report: Report) -> None:
    """The first group: the daemon has never run."""
    configure()
    units = ["ambientd.socket", "ambient-executor.socket", "ambientd.service"]
    states = [prop("ActiveState", unit) for unit in units]
    report.check(
        "both sockets listen before the daemon runs", states == ["active", "active", "inactive"], states
    )
    began = time.monotonic()
    first = ctl("status")
    report.note(f"first answer after {time.monotonic() - began:.2f} s")
    report.check("the first ambientctl status starts the daemon and is answered", first.code == 0, first.told)
    report.check("systemd has heard READY=1", wait_for(is_ready), prop("ActiveState"))
    said = prop("StatusText")
    report.check("STATUS says ready, and where", said == f"ready, socket {SOCKET}", said)
    _identity(report)
    _sandbox(report)
    _work(report)
    _readiness(report)


def _identity(report: Report) -> None:
    status = Path(f"/proc/{main_pid()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = sh("id", "-u", "ambient").out
    report.check("the daemon runs as the user ambient", fields["Uid"].split() == [uid] * 4, fields["Uid"])
    empty = [fields[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    report.check("it has no capability and can get none", empty == [""] * 5, empty)
    locked = (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip())
    report.check("NoNewPrivs and a system call filter are on", locked == ("1", "2"), locked)
    owner = {os.stat(f"/proc/{pid}/environ").st_uid for pid in members(cgroup_of("ambientd.service"))}
    report.check("the daemon and its helper are closed to other processes of their user", owner == {0}, owner)
    keys = ("MemoryMax", "TasksMax", "LimitCORE", "LimitNOFILE")
    report.note("limits as set: " + ", ".join(f"{key}={prop(key)}" for key in keys))


def probed(unit: str, state: Path) -> dict[str, Any]:
    """What a program may do in the sandbox of a unit: the shipped one with another program in it."""
    kept = []
    skipped = (
        "Type=",
        "NotifyAccess=",
        "Exec",
        "Restart",
        "Watchdog",
        "RuntimeDirectory",
        "Also=",
        "WantedBy=",
    )
    answer = state / "probe.json"
    for line in Path("/usr/lib/systemd/system", unit).read_text().splitlines():
        if not line.startswith(skipped):
            kept.append(line)
        if line == "[Service]":
            kept += ["Type=oneshot", f"ExecStart=/usr/bin/python3 -B /usr/local/lib/agents/probe.py {answer}"]
    Path("/usr/local/lib/agents/probe.py").write_text(PROBE)
    PROBE_UNIT.write_text("\n".join(kept) + "\n")
    systemctl("daemon-reload")
    ran = systemctl("start", "ambient-probe.service")
    found: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {"unit": ran.told}
    answer.unlink(missing_ok=True)
    PROBE_UNIT.unlink()
    systemctl("daemon-reload")
    return found


def _sandbox(report: Report) -> None:
    found = probed("ambientd.service", STATE)
    for key, name in (
        ("wx", "memory both writable and executable"),
        ("etc", "writing to /etc"),
        ("usr", "writing to the program's own files"),
        ("home", "the home of root"),
        ("userns", "a user namespace"),
        ("netlink", "a netlink socket"),
        ("packet", "a raw socket"),
    ):
        denied = found.get(key) in {"PermissionError", "OSError", "FileNotFoundError"}
        report.check(f"the daemon's sandbox refuses {name}", denied, found)
    report.check(
        "it lets TCP sockets and the state be", (found.get("inet"), found.get("state")) == ("ok", "ok"), found
    )
    report.check("processes of other users are not seen", found.get("foreign") == [], found)


def _work(report: Report) -> None:
    """Everything works inside the sandbox."""
    before = FEED.stat().st_size
    report.check("the feed grows", wait_for(lambda: FEED.stat().st_size > before), before)
    report.check("and every line of it parses", feed_problems() == [], feed_problems())
    beat = json.loads((STATE / "heartbeat.json").read_text())
    good = beat["pid"] == main_pid() and beat["status"] == "watching"
    report.check("the heartbeat file names the daemon and says watching", good, beat)
    owners = {path.stat().st_uid for path in STATE.rglob("*")} | {STATE.stat().st_uid}
    report.check(
        "all of the state belongs to ambient", owners == {int(sh("id", "-u", "ambient").out)}, owners
    )
    report.check("the state folder is 0700", STATE.stat().st_mode & 0o777 == 0o700, oct(STATE.stat().st_mode))
    session_id = spawn("quick")
    report.check(
        "spawn runs an agent to its end",
        wait_status(session_id, "success", "failed") == "success",
        session_id,
    )
    _removal(report, session_id)
    done = _hand_in("checks-1", owner="ambient", mode=0o600)
    report.check("a file handed in by the user ambient runs", done == "done", done)
    done = _hand_in("checks-2", owner="root", mode=0o644)
    report.check("so does one of root's that can be read", done == "done", done)
    done = _hand_in("checks-3", owner="root", mode=0o600)
    report.check("one that cannot be read is rejected and not looked at for ever", done == "rejected", done)


def _removal(report: Report, session_id: str) -> None:
    """The sandbox does not keep the daemon from removing what an agent has locked."""
    locked = STATE / "sessions" / session_id / "run-1" / "work" / "locked"
    locked.mkdir(mode=0o000)
    os.chown(locked, STATE.stat().st_uid, STATE.stat().st_gid)
    configure(keep_folders="0s")
    systemctl("reload", "ambientd")
    time.sleep(1)
    done = ctl("retention", "run")
    left = [path.name for path in (STATE / "sessions").iterdir()]
    report.check(
        "retention removes the folder of an ended session, locked folders too",
        left == [],
        f"{left} {done.told}",
    )
    configure()
    systemctl("reload", "ambientd")


def _hand_in(name: str, *, owner: str, mode: int) -> str:
    """The inbox's folder in which the task ends."""
    inbox = STATE / "inbox"
    part = inbox / f".{name}.tmp"
    part.write_text(json.dumps({"task_id": name, "agent_id": "quick", "prompt": "x"}))
    part.chmod(mode)
    if owner == "ambient":
        os.chown(part, STATE.stat().st_uid, STATE.stat().st_gid)
    part.rename(inbox / f"{name}.json")

    def where() -> str:
        return next(
            (f for f in ("done", "rejected", "blocked") if list((inbox / f).glob(f"{name}*.json"))), ""
        )

    found: str = wait_for(where, 15)
    return found or "still in " + " ".join(str(p.relative_to(inbox)) for p in inbox.rglob(f"*{name}*"))


def _readiness(report: Report) -> None:
    """READY=1 waits for the migration, which waits for whoever holds the database."""
    systemctl("stop", "ambientd")
    for path in STATE.glob("ambient.db*"):
        path.unlink()
    holder = sqlite3.connect(STATE / "ambient.db", isolation_level=None)
    holder.execute("PRAGMA application_id = 0x416d6264")
    holder.execute("VACUUM")
    _prepare(holder)
    began = time.monotonic()
    systemctl("start", "--no-block", "ambientd")
    time.sleep(1.5)
    state, answer = prop("ActiveState"), ctl("status")
    report.check("while the migration waits the unit is still starting", state == "activating", state)
    refused = answer.code == 74 and "not ready" in answer.err
    report.check("and clients are told that the node is not ready (exit 74)", refused, answer.told)
    holder.execute("ROLLBACK")
    holder.close()
    report.check("READY=1 comes after the migration", wait_for(is_ready), prop("StatusText"))
    report.note(
        f"ready {time.monotonic() - began:.1f} s after the start, the lock was held for 1.5 s and more"
    )
    applied = ctl("migrate", "status")
    report.check("and the schema is there", applied.code == 0, applied.told)
    logged = [entry.get("MESSAGE", "") for entry in journal("--unit=ambientd.service")]
    report.check(
        "the journal has the line of readiness", any("node.ready" in str(m) for m in logged), logged[-5:]
    )


def _prepare(holder: sqlite3.Connection) -> None:
    """An empty database of ours, owned as the daemon expects, with a writer in the middle of something."""
    facts = STATE.stat()
    for path in STATE.glob("ambient.db*"):
        os.chown(path, facts.st_uid, facts.st_gid)
    holder.execute("PRAGMA journal_mode = WAL")
    for path in STATE.glob("ambient.db*"):
        os.chown(path, facts.st_uid, facts.st_gid)
        path.chmod(0o600)
    holder.execute("BEGIN IMMEDIATE")
