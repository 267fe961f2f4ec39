"""A shim where `/proc` shows only what may be looked at, as under its unit or on a hardened machine."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.shim_kit import SHIM, frame, spec

SYSTEM_PYTHON = Path("/usr/bin/python3")
NOBODY = 65534
# In a mount namespace of its own; as nobody, since root sees everything.
START = (
    "mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid=65534 --regid=65534 "
    '--clear-groups /usr/bin/python3 -I -S -B "$0" --folder "$1"'
)
# As ssh-agent does: a session of its own, no look into its memory; and it does not listen to TERM.
SHY = (
    "import ctypes, signal, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hidden', flush=True); time.sleep(100)"
)
AGENT = (
    "import subprocess, sys, time; "
    f"subprocess.Popen([sys.executable, '-I', '-c', {SHY!r}], start_new_session=True).wait()"
)
PATIENCE = 60.0  # a shim that does not find the process gives up after 30 s, without proof


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that nobody may use, with the shim's files: the tree may be closed to others."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        for file in SHIM.parent.glob("shim*.py"):
            shutil.copy(file, place)
        (place / "run").mkdir()
        for path in (place, place / "run"):
            path.chmod(0o755)
            os.chown(path, NOBODY, NOBODY)
        yield place


def may_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "proc", "-o", "hidepid=invisible", "proc", "/proc"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not SYSTEM_PYTHON.exists() or not may_mount(), reason="needs a mount namespace")
def test_a_child_that_hides_is_ended_with_proof(place: Path) -> None:
    order = spec(str(SYSTEM_PYTHON), "-I", "-c", AGENT, timeout=2.0, grace=0.2)
    command = ["unshare", "--mount", "sh", "-c", START, str(place / "shim.py"), str(place / "run")]
    ran = subprocess.run(command, input=frame(order), capture_output=True, timeout=PATIENCE, check=True)
    assert json.loads(ran.stdout)["answer"] == "claimed"
    assert b"hidden" in (place / "run" / "output").read_bytes(), "the child has hidden before the end came"
    result = json.loads((place / "run" / "result.json").read_text())
    assert (result["cause"], result["proof"], result["survivors_ended"]) == ("timeout", True, 1)
