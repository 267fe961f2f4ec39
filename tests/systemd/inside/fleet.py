"""The control plane's unit: its first start, its sandbox, its watchdog, its end."""

import http.client
import json
import os
import pwd
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

from tests.systemd.inside.activation import probed
from tests.systemd.inside.kit import Report, journal, prop, sh, systemctl, wait_for

UNIT = "ambient-control-plane.service"
USER = "ambient-control-plane"
STATE = Path("/var/lib/ambient-control-plane")
CONFIG = Path("/etc/ambient-control-plane/ambient.toml")
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/check.conf")
ADDRESS = ("127.0.0.1", 7443)
NAMES = {
    "ACCESS_TOKEN_KEY",
    "API_KEY_PEPPER",
    "CONNECT_SESSION_TOKEN_PEPPER",
    "ISSUER_KEY",
    "LEASE_ISSUER_KEY",
    "REFRESH_TOKEN_PEPPER",
}
WATCHED = "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\nRestartSec=100ms\n"
STOP_MAX_SEC = 12.0  # a request under way has five seconds
QUIET_SEC = 6.0


def run(report: Report) -> None:
    """Needs nothing of the node."""
    _first_start(report)
    _owner(report)
    _sandbox(report)
    _reload_and_stop(report)
    _watchdog(report)
    _lost_secret(report)
    _credentials(report)
    _journal(report)


def _secrets() -> dict[str, str]:
    folder = STATE / "secrets"
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else {}


def _ask(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and document; 0 when nobody answers."""
    link = http.client.HTTPConnection(*ADDRESS, timeout=20)
    try:
        raw = None if body is None else json.dumps(body)
        link.request(method, f"/api/v1/{path}", raw, {"Content-Type": "application/json"} if raw else {})
        answer = link.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return 0, None
    finally:
        link.close()


def _up() -> bool:
    return prop("ActiveState", UNIT) == "active" and _ask("GET", "health")[0] == 200


def _drop_in(text: str) -> None:
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(text) if text else DROP_IN.unlink(missing_ok=True)
    systemctl("daemon-reload")


def _first_start(report: Report) -> None:
    report.check("before the first start there is no secret", _secrets() == {}, _secrets().keys())
    began = time.monotonic()
    done = systemctl("start", UNIT)
    report.note(f"first start took {time.monotonic() - began:.2f} s")
    report.check("the unit starts by itself, secrets and all", done.code == 0 and _up(), done.told)
    said = prop("StatusText", UNIT)
    report.check("STATUS says ready, and where", said == "ready, http://127.0.0.1:7443", said)
    report.check("every secret was made", set(_secrets()) == NAMES, set(_secrets()))
    owner = pwd.getpwnam(USER).pw_uid
    facts = {path.name: path.stat() for path in (STATE / "secrets").iterdir()}
    private = {(stat.S_IMODE(one.st_mode), one.st_uid) for one in facts.values()}
    report.check("each 0600 and the control plane's (R1.72)", private == {(0o600, owner)}, private)
    owners = {path.stat().st_uid for path in STATE.rglob("*")} | {STATE.stat().st_uid}
    report.check("all of the state belongs to its user", owners == {owner}, owners)
    report.check("the state folder is 0700", STATE.stat().st_mode & 0o777 == 0o700, oct(STATE.stat().st_mode))
    listed = sh("ls", str(STATE / "secrets"), user="ambient")
    report.check("the node's user cannot look into it", listed.code != 0, listed.told)
    before = _secrets()
    done = systemctl("restart", UNIT)
    report.check("a restart overwrites none", wait_for(_up) and _secrets() == before, done.told)


def _owner(report: Report) -> None:
    init = ("ambientd", "control-plane", "init", "--json", "--state-dir", str(STATE), "--config", str(CONFIG))
    busy = sh(*init, user=USER)
    report.check("while it runs init says to stop it (exit 75)", busy.code == 75, busy.told)
    systemctl("stop", UNIT)
    before = _secrets()
    made = sh(*init, user=USER)
    document = json.loads(made.out) if made.code == 0 else {}
    good = document.get("ownerMade") is True and document.get("joinToken", "").startswith("jt_")
    report.check("stopped, it makes the owner and a join token", good, made.told)
    report.check("and leaves the secrets as they are", _secrets() == before, "other ones")
    systemctl("start", UNIT)
    answer, _ = _ask("POST", "auth/login", {"username": "admin", "password": document.get("password", "")})
    report.check("the owner logs in, argon2 and all, inside the sandbox", answer == 200, answer)
    answer, _ = _ask("POST", "auth/login", {"username": "admin", "password": "another pass phrase"})
    report.check("and nobody else", answer == 401, answer)


def _sandbox(report: Report) -> None:
    pid = int(prop("MainPID", UNIT))
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = str(pwd.getpwnam(USER).pw_uid)
    report.check("it runs as a user of its own", fields["Uid"].split() == [uid] * 4, fields["Uid"])
    empty = [fields[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    report.check("it has no capability and can get none", empty == [""] * 5, empty)
    locked = (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip())
    report.check("NoNewPrivs and a system call filter are on", locked == ("1", "2"), locked)
    found = probed(UNIT, STATE)
    refused = ("wx", "etc", "usr", "home", "userns", "netlink", "packet", "node")
    open_ = [
        name for name in refused if found.get(name) not in {"PermissionError", "OSError", "FileNotFoundError"}
    ]
    report.check(
        "its sandbox is as closed as the node's, and closed to the node", found and open_ == [], found
    )
    report.check(
        "it lets TCP and the state be", (found.get("inet"), found.get("state")) == ("ok", "ok"), found
    )


def _reload_and_stop(report: Report) -> None:
    pid = prop("MainPID", UNIT)
    CONFIG.write_text('[log]\nlevel = "debug"\n')
    done = systemctl("reload", UNIT)
    report.check(
        "a reload is taken by the same process", done.code == 0 and prop("MainPID", UNIT) == pid, done.told
    )
    with socket.create_connection(ADDRESS) as slow:
        slow.sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        began = time.monotonic()
        systemctl("stop", UNIT)
        took = time.monotonic() - began
    report.check(
        f"TERM stops it within {STOP_MAX_SEC:.0f} s, whoever is slow", took < STOP_MAX_SEC, f"{took:.1f} s"
    )
    report.check("by itself", prop("Result", UNIT) == "success", prop("Result", UNIT))
    report.note(f"stopped after {took:.1f} s with a request that never came to its end")


def _watchdog(report: Report) -> None:
    _drop_in(WATCHED)
    systemctl("start", UNIT)
    time.sleep(QUIET_SEC)
    restarts = prop("NRestarts", UNIT)
    report.check("while the loop turns the watchdog is content", restarts == "0", restarts)
    pid = int(prop("MainPID", UNIT))
    os.kill(pid, signal.SIGSTOP)
    again = wait_for(lambda: prop("NRestarts", UNIT) == "1" and _up(), 20)
    report.check(
        "one that is stuck is started anew", again, f"{prop('NRestarts', UNIT)} {prop('ActiveState', UNIT)}"
    )
    os.kill(int(prop("MainPID", UNIT)), signal.SIGKILL)
    again = wait_for(lambda: prop("NRestarts", UNIT) == "2" and _up(), 20)
    report.check("and one that is killed", again, prop("NRestarts", UNIT))
    _drop_in("")
    systemctl("stop", UNIT)


def _lost_secret(report: Report) -> None:
    lost = STATE / "secrets" / "API_KEY_PEPPER"
    kept = lost.read_text()
    lost.unlink()
    systemctl("start", UNIT)
    failed = wait_for(lambda: prop("ActiveState", UNIT) == "failed", 10)
    report.check("without one of its secrets it does not start", failed, prop("ActiveState", UNIT))
    report.check("with exit code 78", prop("ExecMainStatus", UNIT) == "78", prop("ExecMainStatus", UNIT))
    report.check("and says which", "API_KEY_PEPPER" in prop("StatusText", UNIT), prop("StatusText", UNIT))
    before = prop("NRestarts", UNIT)
    time.sleep(QUIET_SEC)
    report.check(
        "it is not tried again and again", prop("NRestarts", UNIT) == before, prop("NRestarts", UNIT)
    )
    report.check("and no other secret takes the place of a lost one", not lost.exists(), "it was made")
    lost.write_text(kept)
    lost.chmod(0o600)
    os.chown(lost, pwd.getpwnam(USER).pw_uid, pwd.getpwnam(USER).pw_gid)
    systemctl("start", UNIT)
    report.check("once it is back it starts", wait_for(_up), prop("StatusText", UNIT))
    systemctl("stop", UNIT)


def _credentials(report: Report) -> None:
    """Anew, with one secret as a credential and the others made."""
    STATE.rename(STATE.with_name("set-aside"))
    source = Path("/etc/ambient-control-plane/API_KEY_PEPPER")
    source.write_text("0123456789abcdef" * 4)
    source.chmod(0o600)
    _drop_in(f"[Service]\nLoadCredential=API_KEY_PEPPER:{source}\n")
    done = systemctl("start", UNIT)
    report.check("a secret may come as a credential", done.code == 0 and wait_for(_up), done.told)
    report.check("and is not made then", set(_secrets()) == NAMES - {"API_KEY_PEPPER"}, set(_secrets()))
    _drop_in("")
    systemctl("stop", UNIT)


def _journal(report: Report) -> None:
    text = json.dumps(journal(f"--unit={UNIT}"))
    folders = (STATE / "secrets", STATE.with_name("set-aside") / "secrets")
    secrets = [path.read_text().strip() for folder in folders for path in folder.iterdir()]
    shown = [place for place, secret in enumerate(secrets) if secret in text]
    report.check("no secret is in the journal", secrets and shown == [], shown)
    spoken = sh("systemd-analyze", "verify", "--man=no", UNIT)
    report.check(
        "systemd-analyze verify is silent", (spoken.code, spoken.out + spoken.err) == (0, ""), spoken.told
    )
    wrong = [
        entry for entry in journal("--identifier=systemd") if UNIT in str(entry) and "Unknown" in str(entry)
    ]
    report.check("systemd understood every setting", wrong == [], wrong[:2])
    systemctl("reset-failed", UNIT)
