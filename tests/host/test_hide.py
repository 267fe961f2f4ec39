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


@pytest.mark.skipif(os.getuid() == 0, reason="root may look into everything")
def test_another_process_of_the_same_user_cannot_look_in() -> None:
    with started("hide()") as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(PermissionError):
            Path(f"/proc/{process.pid}/environ").read_bytes()
        process.communicate()


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
