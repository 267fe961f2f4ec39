"""Sessions under executor units: their sandbox, their life beside the daemon's, and their end."""

import os
import signal
import time

from tests.systemd.inside.kit import (
    HIDDEN,
    Report,
    cgroup_of,
    ctl,
    ctl_json,
    executors,
    is_ready,
    let_go,
    main_pid,
    members,
    messages,
    prop,
    session,
    spawn,
    systemctl,
    wait_for,
    wait_message,
    wait_status,
)


def run(report: Report) -> None:
    """Needs the daemon, and no session."""
    wait_for(lambda: not executors())
    _sandbox(report)
    _survives(report)
    for agent in ("family", "shy"):
        _is_killed(report, agent)
    _runner_lost(report)
    _stopped_by_the_operator(report)
    _no_executor(report)


def _sandbox(report: Report) -> None:
    session_id = spawn("facts")
    status = wait_status(session_id, "success", "failed")
    said = wait_message(session_id)
    facts = said[0] if said and isinstance(said[0], dict) else {}
    report.check("a session runs to its end", status == "success" and facts, f"{status} {said}")
    report.check("in a unit of its own", "ambient-executor@" in str(facts.get("cgroup")), facts.get("cgroup"))
    report.check("where a just-in-time compiler can work (W+X)", facts.get("wx") == "ok", facts)
    locked = (facts.get("NoNewPrivs"), str(facts.get("CapBnd")).strip("0"), facts.get("Seccomp"))
    report.check("without privileges or a way to them", locked == ("1", "", "2"), locked)
    reads = {path: facts.get("read " + path) for path in HIDDEN}
    report.check(
        "the database, the configuration, the credentials are not there", "ok" not in reads.values(), reads
    )
    report.check("nor is the control socket", facts.get("connect") not in {"ok", None}, facts.get("connect"))
    writes = [facts.get("write " + place) for place in ("work", "etc", "state")]
    report.check(
        "it can write to its folder and nowhere else", writes[0] == "ok" and "ok" not in writes[1:], writes
    )
    others = facts.get("others")
    report.check("the daemon and its helper are not seen", others == {"seen": [], "reached": []}, others)
    report.check("an ended session leaves no unit", wait_for(lambda: not executors()), executors())


def _survives(report: Report) -> None:
    """One session over a restart, a reload of the units, a kill -9 and a stop with a start."""
    session_id, other = spawn("wait"), spawn("wait")
    report.check("two sessions run", _both_run(session_id, other), [session(session_id), session(other)])
    units = executors()
    report.check("each under a unit of its own", len(units) == 2, units)
    own = [members(cgroup_of(unit)) for unit in units]
    apart = all(own) and not set(own[0]) & set(own[-1]) and main_pid() not in own[0] + own[-1]
    report.check("with processes of its own", apart, own)
    systemctl("restart", "ambientd")
    report.check(
        "both survive a restart of the daemon",
        wait_for(is_ready) and _both_run(session_id, other),
        executors(),
    )
    os.kill(before := main_pid(), signal.SIGKILL)
    returned = wait_for(lambda: main_pid() not in {0, before} and is_ready())
    report.check("systemd starts the daemon again after kill -9", returned, prop("ActiveState"))
    report.check("and both survive that", _both_run(session_id, other), executors())
    systemctl("stop", "ambientd")
    let_go(other)  # ends while nobody listens
    gone = wait_for(lambda: len(executors()) == 1)
    report.check("a session may end while the daemon is stopped", gone, executors())
    status = wait_status(other, "success", "failed")
    report.check("and is found to have ended well", status == "success", session(other))
    let_go(session_id)
    report.check(
        "the other finishes truthfully",
        wait_status(session_id, "success", "failed") == "success",
        session(session_id),
    )
    texts = [payload.get("text", "") for payload in messages(session_id) if isinstance(payload, dict)]
    ticks = [text for text in texts if text.startswith("tick ")]
    whole = ticks == [f"tick {number + 1}" for number in range(len(ticks))] and texts[-1:] == [
        f"ticks {len(ticks)}"
    ]
    report.check("with every line of its output, once and in order", whole and ticks, texts[-3:])


def _both_run(*ids: str) -> bool:
    return bool(wait_for(lambda: all(session(one).get("status") == "running" for one in ids), 20, 0.2))


def _is_killed(report: Report, agent: str) -> None:
    """`family`: a child that left and ignores TERM; `shy`: one that also hides from /proc (as ssh-agent)."""
    session_id = spawn(agent)
    wait_message(session_id)
    units = executors()
    folder = cgroup_of(units[0]) if units else cgroup_of("none")
    report.check(
        f"{agent}: shim, agent and child share the unit",
        wait_for(lambda: len(members(folder)) == 3, 5),
        members(folder),
    )
    shim = int(prop("MainPID", units[0]) or 0) if units else 0
    pids = [pid for pid in members(folder) if pid != shim]
    began = time.monotonic()
    done = ctl("kill", session_id, "--yes", timeout=90)
    took = time.monotonic() - began
    report.check(f"{agent}: kill waits for the proof", done.code == 0, done.told)
    report.note(f"{agent}: ended after {took:.1f} s, the grace is 2 s")
    left = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    report.check(f"{agent}: agent and child are gone by then", pids and left == [], left)
    emptied = wait_for(lambda: members(folder) == [], 5)  # the shim leaves last
    report.check(f"{agent}: the control group is empty", emptied, members(folder))
    report.check(
        f"{agent}: the ledger says killed", session(session_id).get("status") == "killed", session(session_id)
    )
    wait_for(lambda: not executors())


def _runner_lost(report: Report) -> None:
    """The shim itself is killed: the truth is `runner_lost`, and systemd sweeps the unit."""
    session_id = spawn("family")
    wait_message(session_id)
    unit = executors()[0]
    folder = cgroup_of(unit)
    os.kill(int(prop("MainPID", unit)), signal.SIGKILL)
    status = wait_status(session_id, "failed", "killed", "success")
    row = session(session_id)
    lost = status == "failed" and "runner_lost" in str(row)
    report.check("a session whose shim is gone is failed, runner_lost", lost, row)
    report.check(
        "and its unit is swept", wait_for(lambda: not executors() and not members(folder)), executors()
    )


def _stopped_by_the_operator(report: Report) -> None:
    """`systemctl stop` of a session's unit, as at the machine's shutdown, is no loss of the shim."""
    session_id = spawn("wait")
    wait_message(session_id)
    systemctl("stop", *executors())
    status = wait_status(session_id, "killed", "failed", "success", seconds=10)
    row = session(session_id)
    good = (status, row.get("errorCode")) == ("failed", "runner_stopped")
    report.check("a session whose unit is stopped is failed, runner_stopped", good, row)


def _no_executor(report: Report) -> None:
    """Without the executor's socket nothing runs somewhere else instead; the queue waits (R2.87)."""
    systemctl("stop", "ambient-executor.socket")
    session_id = spawn("quick")
    time.sleep(5)
    row = session(session_id)
    alone = row.get("status") == "queued" and len(members(cgroup_of("ambientd.service"))) == 2
    report.check("without the executor's socket a session waits", alone, row)
    problems = ctl_json("status").get("problems")
    report.check("and the status says that something is wrong", problems, problems)
    report.note(f"the status says: {problems}")
    systemctl("start", "ambient-executor.socket")
    status = wait_status(session_id, "failed", "success", seconds=90)
    report.check("it runs when the socket is back", status == "success", session(session_id))
