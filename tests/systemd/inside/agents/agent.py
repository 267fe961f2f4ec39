"""The agents of the checks: stand-alone, standard library only. Facts go out as one JSON line."""

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SECONDS_AT_MOST = 120.0
PR_SET_DUMPABLE = 4
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"
SHY = f"import ctypes; ctypes.CDLL(None).prctl({PR_SET_DUMPABLE}, 0, 0, 0, 0); " + STUBBORN


def attempt(path: str, flags: int) -> str:
    """`ok`, or the kernel's word for why not."""
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        return type(error).__name__
    return "ok"


def map_writable_code() -> str:
    """What a just-in-time compiler does."""
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError as error:
        return type(error).__name__
    return "ok"


def connect_to(path: str) -> str:
    """Whether the control socket can be reached."""
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(path)
        except OSError as error:
            return type(error).__name__
    return "ok"


def others() -> dict[str, list[str]]:
    """Processes of our own user outside this session: those we see, and whose files we can reach."""
    ours = Path("/proc/self/cgroup").read_text()
    seen, reached = [], []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            owned = os.stat(f"/proc/{name}").st_uid == os.getuid()
            there = Path(f"/proc/{name}/cgroup").read_text() if owned else ours
        except OSError:
            continue
        if there != ours:
            seen.append(name)
            if attempt(f"/proc/{name}/environ", os.O_RDONLY) == "ok":
                reached.append(name)
    return {"seen": seen, "reached": reached}


def facts() -> None:
    """What the session's sandbox is like."""
    found = {"wx": map_writable_code(), "uid": os.getuid(), "others": others()}
    found["cgroup"] = Path("/proc/self/cgroup").read_text().strip()
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    found |= {name: status[name].strip() for name in ("NoNewPrivs", "CapEff", "CapBnd", "Seccomp")}
    for word in sys.argv[2:]:
        found["read " + word] = attempt(word, os.O_RDONLY)
    found["connect"] = connect_to("/run/ambient/ambientd.sock")
    found["write work"] = attempt("made", os.O_WRONLY | os.O_CREAT)
    found["write etc"] = attempt("/etc/made", os.O_WRONLY | os.O_CREAT)
    found["write state"] = attempt("/var/lib/ambient/made", os.O_WRONLY | os.O_CREAT)
    found["userns"] = "ok" if ctypes.CDLL(None).unshare(0x10000000) == 0 else "refused"
    print(json.dumps(found), flush=True)


def wait_for_word() -> None:
    """Counts until the file `go` appears in its work folder, then ends well."""
    until, count = time.monotonic() + SECONDS_AT_MOST, 0
    while time.monotonic() < until and not os.path.exists("go"):
        count += 1
        print(f"tick {count}", flush=True)
        time.sleep(0.25)
    print(f"ticks {count}", flush=True)


def with_child(program: str) -> None:
    """Starts a child in a session of its own that does not listen to TERM, and waits."""
    child = subprocess.Popen([sys.executable, "-I", "-c", program], start_new_session=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"child {child.pid}", flush=True)
    child.wait()


def main() -> int:
    """Acts as the named agent."""
    role = sys.argv[1]
    prompt = sys.stdin.read()
    if role == "facts":
        facts()
    elif role == "wait":
        wait_for_word()
    elif role == "family":
        with_child(STUBBORN)
    elif role == "shy":
        with_child(SHY)
    else:
        print(f"{len(prompt)} characters, secret {len(os.environ.get('AGENT_KEY', ''))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
