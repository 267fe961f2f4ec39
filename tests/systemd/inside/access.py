"""Who may connect, who may read, who may write; decided by the kernel and the groups of real users."""

import pwd
import stat

from tests.systemd.inside.kit import SOCKET, Report, ctl, session, sh, spawn, wait_for, wait_status

USERS = {"reader": "ambient", "chief": "ambient,ambient-admin", "clerk": "ambient-admin", "stranger": ""}


def run(report: Report) -> None:
    """Needs the daemon."""
    for user, groups in USERS.items():
        sh("useradd", "--create-home", *(["--groups", groups] if groups else []), user)
    facts = SOCKET.stat()
    who = (stat.S_IMODE(facts.st_mode), facts.st_uid, sh("stat", "-c", "%G", str(SOCKET)).out)
    report.check("the socket is 0660 root:ambient", who == (0o660, 0, "ambient"), who)
    executor = SOCKET.with_name("executor.sock").stat()
    closed = (stat.S_IMODE(executor.st_mode), executor.st_uid) == (0o600, pwd.getpwnam("ambient").pw_uid)
    report.check("the executor's socket is 0600 and the daemon's", closed, oct(executor.st_mode))
    _reader(report)
    _chief(report)
    for user in ("stranger", "clerk"):
        done = ctl("status", user=user)
        report.check(f"{user}, not in the group ambient, is refused (exit 4)", done.code == 4, done.told)
        helped = "ambient" in done.err and f"sudo usermod -aG ambient {user}" in done.err
        report.check("and is told the group and the command", helped, done.told)
        state = sh("ls", "/var/lib/ambient", user=user)
        report.check(f"{user} cannot list the state", state.code != 0, state.told)


def _reader(report: Report) -> None:
    done = ctl("status", user="reader")
    report.check("a member of ambient may read", done.code == 0, done.told)
    done = ctl("spawn", "quick", "x", user="reader")
    report.check("but not spawn: exit 4", done.code == 4, done.told)
    report.check("and is told about ambient-admin", "ambient-admin" in done.err, done.told)
    session_id = spawn("wait")
    done = ctl("kill", session_id, "--yes", user="reader")
    report.check(
        "nor kill: exit 4, and the session goes on", done.code == 4 and _is_alive(session_id), done.told
    )
    config = sh("cat", "/etc/ambient/quick.env", user="reader")
    report.check("nor read the file of secrets", config.code != 0, "it can")
    ctl("kill", session_id, "--yes")


def _chief(report: Report) -> None:
    done = ctl("spawn", "wait", "x", user="chief")
    report.check("a member of both groups may spawn", done.code == 0, done.told)
    session_id = done.out.split()[-1] if done.out else "none"
    running = wait_status(session_id, "running")
    done = ctl("kill", session_id, "--yes", user="chief")
    ended = wait_for(lambda: not _is_alive(session_id))
    report.check("and kill", running == "running" and done.code == 0 and ended, f"{running} {done.told}")


def _is_alive(session_id: str) -> bool:
    return session(session_id).get("status") in {"queued", "running"}
