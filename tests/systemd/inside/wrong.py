"""A wrong configuration: said everywhere, and no loop; and what the journal holds in the end."""

import json
import time
from collections import Counter
from pathlib import Path

from tests.systemd.inside.kit import (
    CONFIG,
    FEED,
    PROMPT,
    SECRET,
    STATE,
    Report,
    configure,
    ctl,
    drop_in,
    is_ready,
    journal,
    messages,
    prop,
    sh,
    spawn,
    systemctl,
    wait_for,
    wait_status,
)

BAD = """\
[dispatcher]
interval = "61m"
intervall = 3
[agents.a]
[log]
level = "loud"
[nod]
name = 1
"""
PROBLEMS = ("agents.a.command", "dispatcher.interval is", "dispatcher.intervall", "log.level", "nod is not")
PRIORITY = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
QUIET_SEC = 10.0


def run(report: Report) -> None:
    """Needs the daemon, and no session."""
    _secrets_prepared(report)
    _configuration(report)
    _credential(report)
    _journal(report)
    _enabled(report)


def _enabled(report: Report) -> None:
    """One command puts everything into the next boot."""
    systemctl("enable", "ambientd.service")
    units = ("ambientd.service", "ambientd.socket", "ambient-executor.socket")
    states = [systemctl("is-enabled", unit).out for unit in units]
    report.check("enabling the daemon enables its sockets", states == ["enabled"] * 3, states)
    spoken = sh("systemd-analyze", "verify", "--man=no", *units, "ambient-executor@1.service")
    report.check(
        "systemd-analyze verify is silent", (spoken.code, spoken.out + spoken.err) == (0, ""), spoken.told
    )


def _starts() -> int:
    return sum(
        "Starting ambientd" in str(entry.get("MESSAGE")) for entry in journal("--unit=ambientd.service")
    )


def _configuration(report: Report) -> None:
    good = CONFIG.read_text()
    CONFIG.write_text(BAD)
    done = systemctl("restart", "ambientd")
    report.check("a start with a wrong configuration fails at once", done.code == 1, done.told)
    report.check("with exit code 78", prop("ExecMainStatus") == "78", prop("ExecMainStatus"))
    shown = systemctl("--full", "status", "ambientd").out
    missing = [problem for problem in PROBLEMS if problem not in shown]
    report.check("systemctl status shows every problem", missing == [], shown)
    status = prop("StatusText")
    missing = [problem for problem in PROBLEMS if problem not in status]
    report.check("so does the status line of the unit alone", missing == [], status)
    began = time.monotonic()
    asked = ctl("status")
    missing = [problem for problem in PROBLEMS if problem not in asked.err]
    report.check("so does ambientctl, without waiting", asked.code == 74 and missing == [], asked.told)
    report.note(f"answered after {time.monotonic() - began:.2f} s")
    for _ in range(3):
        sh("timeout", "0.05", "ambientctl", "status")  # gives up while the daemon starts
    wait_for(lambda: prop("ActiveState") == "failed", 10)
    before = _starts()
    time.sleep(QUIET_SEC)
    report.check(f"and nothing starts in the next {QUIET_SEC:.0f} s", _starts() == before, _starts() - before)
    states = [prop("ActiveState", unit) for unit in ("ambientd.service", "ambientd.socket")]
    report.check("the unit has failed, its socket listens", states == ["failed", "active"], states)
    CONFIG.write_text(good)
    healed = ctl("status")
    report.check("once it is right the next client starts the daemon", healed.code == 0, healed.told)


def _secrets_prepared(report: Report) -> None:
    """A secret in an agent's environment file, a prompt that is nobody's business."""
    session_id = spawn("quick", PROMPT)
    wait_status(session_id, "success", "failed")
    texts = [payload.get("text") for payload in messages(session_id)]
    wanted = f"{len(PROMPT)} characters, secret {len(SECRET)}"
    report.check("the secret reaches the agent", wanted in texts, texts)


def _credential(report: Report) -> None:
    """A systemd credential is there for the daemon, and for no agent."""
    source = Path("/etc/ambient/credential")
    source.write_text(SECRET)
    source.chmod(0o600)
    drop_in(f"[Service]\nLoadCredential=x:{source}\n")
    done = systemctl("restart", "ambientd")
    report.check("the unit starts with a credential", done.code == 0 and wait_for(is_ready), done.told)
    place = Path("/run/credentials/ambientd.service/x")
    report.check("it lies where the daemon looks", place.exists() and place.read_text() == SECRET, place)
    session_id = spawn("facts")
    wait_status(session_id, "success", "failed")
    found = messages(session_id)[0].get(f"read {place}")
    report.check("an agent cannot read it", found not in {"ok", None}, found)
    drop_in("")
    systemctl("restart", "ambientd")
    wait_for(is_ready)
    configure()


def _journal(report: Report) -> None:
    entries = [entry for entry in journal("--unit=ambientd.service") if entry.get("_COMM") != "systemd"]
    seen: Counter[str] = Counter()
    wrong = []
    for entry in entries:
        text = str(entry.get("MESSAGE", ""))
        if text.startswith("{"):
            level = json.loads(text)["level"]
            seen[level] += 1
            if entry.get("PRIORITY") != PRIORITY[level]:
                wrong.append(text)
        elif text.startswith("Error: ") and entry.get("PRIORITY") != "3":
            wrong.append(text)
    report.check(
        "every line of the daemon is in the journal with its own priority", seen and not wrong, wrong[:3]
    )
    report.note("levels: " + ", ".join(f"{level} {count}" for level, count in sorted(seen.items())))
    report.check("of more than one level", len(seen) > 1, seen)
    audited = [entry for entry in entries if "[AUDIT]" in str(entry.get("MESSAGE"))]
    report.check("control actions are there as [AUDIT]", audited, "none")
    everything = json.dumps(journal())
    report.check(
        "no secret and no prompt is in the journal",
        SECRET not in everything and PROMPT not in everything,
        "found",
    )
    shown = systemctl("show", "ambientd").out
    shown += "".join(path.read_text() for path in (FEED, STATE / "heartbeat.json", STATE / "stopped.json"))
    good = SECRET not in shown and PROMPT not in shown
    report.check("nor in the unit, the feed, the heartbeat file", good, "found")
    # a prompt is the task that the ledger shows
    told = ctl("status", "--json").out + ctl("sessions", "--json").out
    report.check("nor the secret in what ambientctl shows", SECRET not in told, "found")
    database = b"".join(path.read_bytes() for path in STATE.glob("ambient.db*"))
    report.check("nor the secret in the database", SECRET.encode() not in database, "found")
    failed = systemctl("list-units", "--failed", "--plain", "--no-legend").out
    report.check("no unit has failed", "ambient" not in failed, failed)
    starting = [
        e
        for e in journal("--identifier=systemd")
        if "ambient" in str(e) and "Unknown" in str(e.get("MESSAGE"))
    ]
    report.check("systemd understood every setting", starting == [], starting[:2])
