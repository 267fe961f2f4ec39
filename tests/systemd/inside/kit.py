"""What every group of checks uses. Runs as root inside the container, standard library only."""

import grp
import json
import os
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

STATE = Path("/var/lib/ambient")
FEED = STATE / "observability/logs/activity_feed.jsonl"
CONFIG = Path("/etc/ambient/ambient.toml")
SOCKET = Path("/run/ambient/ambientd.sock")
DROP_IN = Path("/run/systemd/system/ambientd.service.d/check.conf")
AGENT = '["/usr/bin/python3", "-I", "/usr/local/lib/agents/agent.py", "{role}"{more}]'
SECRET = "marker-of-a-secret-7f3a9c"
PROMPT = "marker-of-a-prompt-51be02"
HIDDEN = ("/var/lib/ambient/ambient.db", "/etc/ambient/ambient.toml", "/run/credentials/ambientd.service/x")
# The sandbox and the seconds that a command may need on a busy machine; no check is about speed alone.
PATIENCE = 30.0


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """Both outputs, for the line of a failed check."""
        return " ".join(f"exit {self.code}: {self.out} {self.err}".split())


class Report:
    """One line per check, at once."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, name: str, good: object, found: object = "") -> bool:
        """`found` is printed when the check fails."""
        if good:
            self.passed += 1
            print(f"PASS {name}", flush=True)
        else:
            self.failed += 1
            print(f"FAIL {name}: {' '.join(str(found).split())[:600]}", flush=True)
        return bool(good)

    def note(self, text: str) -> None:
        """A measurement; no verdict."""
        print(f"     {text}", flush=True)


def sh(*command: str, user: str | None = None, timeout: float = 60.0, text: str | None = None) -> Done:
    """Runs a command, as `user` with all groups of that user, and waits for it."""
    who: dict[str, Any] = {}
    if user is not None:
        account = pwd.getpwnam(user)
        groups = os.getgrouplist(user, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups, "cwd": "/"}
    home = "/root" if user is None else f"/home/{user}"
    ran = subprocess.run(
        command,
        stdin=None if text is not None else subprocess.DEVNULL,
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": home},
        **who,
    )
    return Done(ran.returncode, ran.stdout.strip(), ran.stderr.strip())


def ctl(*words: str, user: str | None = None, timeout: float = 60.0) -> Done:
    """`ambientctl`."""
    return sh("ambientctl", *words, user=user, timeout=timeout)


def ctl_json(*words: str) -> Any:
    """What `ambientctl … --json` prints; an empty object when that is no JSON."""
    try:
        return json.loads(ctl(*words, "--json").out)
    except ValueError:
        return {}


def systemctl(*words: str, timeout: float = 60.0) -> Done:
    """`systemctl`."""
    return sh("systemctl", "--no-pager", *words, timeout=timeout)


def prop(name: str, unit: str = "ambientd.service") -> str:
    """A property of a unit."""
    return systemctl("show", "--value", "-p", name, unit).out


def main_pid() -> int:
    """The daemon's process id; 0 when it does not run."""
    return int(prop("MainPID") or 0)


def wait_for(test: Callable[[], object], seconds: float = PATIENCE, pause: float = 0.05) -> Any:
    """The first true value of `test`, or its last one when the time is up."""
    until = time.monotonic() + seconds
    while not (found := test()) and time.monotonic() < until:
        time.sleep(pause)
    return found


def is_ready() -> bool:
    """Whether systemd has been told READY=1 and the API answers."""
    return prop("ActiveState") == "active" and ctl("status").code == 0


def spawn(agent: str, prompt: str = "x") -> str:
    """Starts a session as root; its id."""
    done = ctl("spawn", agent, prompt)
    if done.code != 0:
        raise AssertionError(f"spawn {agent}: {done.told}")
    return done.out.split()[-1]


def session(session_id: str) -> dict[str, Any]:
    """The ledger's row."""
    found: dict[str, Any] = ctl_json("sessions", "show", session_id).get("ledger", {})
    return found


def messages(session_id: str) -> list[Any]:
    """What the agent said: texts, or objects for JSON lines."""
    items = ctl_json("sessions", "events", session_id).get("items", [])
    return [item["payload"] for item in items if item.get("eventType") == "message"]


def wait_status(session_id: str, *wanted: str, seconds: float = PATIENCE) -> str:
    """The session's status once it is one of `wanted`, or what it is when the time is up."""
    wait_for(lambda: session(session_id).get("status") in wanted, seconds, 0.2)
    return str(session(session_id).get("status"))


def wait_message(session_id: str) -> list[Any]:
    """The agent's messages, once there is one."""
    found: list[Any] = wait_for(lambda: messages(session_id), pause=0.2)
    return found


def work_folder(session_id: str) -> Path:
    """Where the agent of a first attempt works."""
    return STATE / "sessions" / session_id / "run-1" / "work"


def let_go(session_id: str) -> None:
    """Tells an agent of the kind `wait` to end well."""
    (work_folder(session_id) / "go").touch()


def executors() -> list[str]:
    """Names of the executor units that exist."""
    lines = systemctl("list-units", "--all", "--plain", "--no-legend", "ambient-executor@*").out.splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def cgroup_of(unit: str) -> Path:
    """The unit's folder in the hierarchy that systemd manages."""
    path = prop("ControlGroup", unit).lstrip("/")
    for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"):
        if path and (Path(top) / path).is_dir():
            return Path(top) / path
    return Path("/nonexistent")


def members(folder: Path) -> list[int]:
    """Processes in a control group; none when it is gone."""
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def feed_problems() -> list[str]:
    """Lines of the feed that are no JSON object, and an unfinished last one."""
    data = FEED.read_bytes()
    bad = [] if data.endswith(b"\n") else ["the last line has no end"]
    for number, line in enumerate(data.splitlines(), 1):
        try:
            if not isinstance(json.loads(line), dict):
                bad.append(f"line {number} is no object")
        except ValueError:
            bad.append(f"line {number} is no JSON")
    return bad


def configure(more: str = "", keep_folders: str = "7d") -> None:
    """Writes the configuration that the checks start from, with `more` at its end."""
    hidden = "".join(f', "{path}"' for path in HIDDEN)
    lines = ["[dispatcher]", 'interval = "1s"', "[sessions]", 'grace = "2s"']
    lines += [f'keep_folders = "{keep_folders}"']
    for role in ("quick", "facts", "wait", "family", "shy"):
        command = AGENT.format(role=role, more=hidden if role == "facts" else "")
        lines += [f"[agents.{role}]", f"command = {command}", "max_concurrent = 4"]
        lines += ['output = "jsonl"'] if role == "facts" else []
        lines += ['environment_file = "/etc/ambient/quick.env"'] if role == "quick" else []
    CONFIG.write_text("\n".join(lines) + "\n" + more)
    os.chown(CONFIG, 0, grp.getgrnam("ambient").gr_gid)
    CONFIG.chmod(0o640)


def drop_in(text: str) -> None:
    """A drop-in for the daemon's unit; the empty text removes it."""
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(text) if text else DROP_IN.unlink(missing_ok=True)
    systemctl("daemon-reload")


def journal(*words: str) -> list[dict[str, Any]]:
    """Entries of the journal of this boot."""
    systemd = sh("journalctl", "--boot", "--no-pager", "--output=json", *words).out
    return [json.loads(line) for line in systemd.splitlines() if line.startswith("{")]
