"""A hidden process cannot be looked into by others of its user; nor can the helper that it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ambientd.host.feed_process import start_helper

NOBODY = 65534
ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = Path("/usr/bin/python3")
HIDE = (ROOT / "ambientd" / "host" / "hide.py").read_text()
AS_NOBODY = """
import os, sys
assert os.stat("/proc/self/environ").st_uid == os.getuid()
exec(sys.argv[1])
hide()
assert os.stat("/proc/self/environ").st_uid == 0
assert os.listdir("/proc/self/fd")
"""
# One process prepares itself, then the other tries to read its environment.
NEIGHBOURS = """
import os, sys
(ready, tell), (stay, leave) = os.pipe(), os.pipe()
neighbour = os.fork()
if not neighbour:
    exec(sys.argv[1])
    os.write(tell, b"x")
    os.read(stay, 1)
    os._exit(0)
os.read(ready, 1)
try:
    seen = bool(open(f"/proc/{neighbour}/environ", "rb").read())
except PermissionError:
    seen = False
os.write(leave, b"x")
os.waitpid(neighbour, 0)
print(seen)
"""
PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from ambientd.host.hide import hide, is_hidden
assert not is_hidden()
{hidden}
print(is_hidden(), flush=True)
sys.stdin.read()
"""


def started(hidden: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT), hidden=hidden)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("call", "said"), [("hide()", "True\n"), ("", "False\n")])
def test_a_process_knows_whether_it_is_hidden(call: str, said: str) -> None:
    with started(call) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == said
        process.communicate()


@pytest.mark.skipif(
    os.getuid() == 0 and not SYSTEM_PYTHON.exists(), reason="root needs the system's Python, to be nobody"
)
@pytest.mark.parametrize(("call", "seen"), [("hide()", False), ("", True)])
def test_another_process_of_the_same_user_cannot_look_in(call: str, seen: bool) -> None:
    """Root may look into everything, so it becomes somebody else for this."""
    is_root = os.getuid() == 0
    python = str(SYSTEM_PYTHON) if is_root else sys.executable
    command = [python, "-I", "-S", "-c", NEIGHBOURS, f"{HIDE}\n{call}"]
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if is_root else {}
    looked = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True, **user)  # type: ignore[call-overload]
    assert looked.stdout == f"{seen}\n"


@pytest.mark.skipif(
    os.getuid() != 0 or not SYSTEM_PYTHON.exists(), reason="needs root and the system's Python, to be nobody"
)
def test_the_files_of_a_hidden_process_belong_to_root() -> None:
    command = [str(SYSTEM_PYTHON), "-I", "-S", "-c", AS_NOBODY, HIDE]
    subprocess.run(command, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[], check=True)


async def test_a_helper_says_its_version_hidden_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambientd.host.feed_process.is_hidden", lambda: True)
    settings = {"path": str(tmp_path / "feed"), "state_dir": str(tmp_path), "host_id": "x", "max_size": 65536}
    helper = await start_helper({**settings, "keep": 3600})
    try:
        command = Path(f"/proc/{helper.pid}/cmdline").read_bytes()
        assert command.split(b"\0")[-2] == b"--hidden"
    finally:
        await helper.aclose()
        await helper.wait_ended()
