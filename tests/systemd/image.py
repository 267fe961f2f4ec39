"""A small Debian in a folder, with Ambient laid out as its units expect it.

The layout: everything of ours and the locked packages flat in `/usr/lib/ambient`, two launchers in
`/usr/bin`. They run isolated and without `site`, so neither a variable nor a package of the distribution
can change what is imported, and `ambientctl` starts faster.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).resolve().parent / "inside"
CHECKS = "root/checks/tests/systemd/inside"

DEBIAN_PACKAGES = "python3,systemd"
PREFIX = "usr/lib/ambient"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("ambientd", "ambientctl")
LAUNCHER = """\
#!/usr/bin/python3 -IS
import sys

sys.path.append("/usr/lib/ambient")

from {program}.main import main

sys.exit(main())
"""
# What an earlier run in the same folder may have left.
LEFTOVERS = (
    "var/lib/ambient",
    "var/lib/ambient-control-plane",
    "var/lib/set-aside",
    "etc/ambient",
    "etc/ambient-control-plane",
    "var/log/journal",
    "root/checks",
    "var/lib/ambient-checks",
)
CHECKS_UNIT = """\
[Unit]
Description=Checks of the Ambient units
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
WorkingDirectory=/root/checks
ExecStart=/usr/bin/python3 -B -m tests.systemd.inside.main
StandardOutput=append:/root/checks.out
StandardError=inherit
RuntimeMaxSec=540
TasksMax=64
"""


def make_system(root: Path, release: str) -> None:
    """Debian's minimal base with systemd and Python; what is there already is used again."""
    if (root / "usr/lib/systemd/systemd").exists() and (root / "usr/bin/python3").exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}", release, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def install(root: Path) -> None:
    """Packages, tree, launchers, units, users and folders; nothing of an earlier run stays."""
    for name in LEFTOVERS:
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "root/checks.out").unlink(missing_ok=True)
    prefix = root / PREFIX
    shutil.rmtree(prefix, ignore_errors=True)
    _install_packages(prefix, _python_of(root))
    for name in (*PROGRAMS, "migrations"):
        shutil.copytree(ROOT / name, prefix / name, ignore=shutil.ignore_patterns("__pycache__"))
    for program in PROGRAMS:
        launcher = root / "usr/bin" / program
        launcher.write_text(LAUNCHER.format(program=program))
        launcher.chmod(0o755)
    # the sandbox of the units cannot write byte code, so it comes with the installation
    _inside(root, "python3", "-m", "compileall", "-q", "/" + PREFIX)
    _install_units(root)
    _inside(root, "systemd-sysusers", "ambient.conf")
    shutil.copytree(INSIDE, root / CHECKS, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(INSIDE / "agents", root / "usr/local/lib/agents", dirs_exist_ok=True)


def _python_of(root: Path) -> str:
    """The version of the system's Python, like 3.11."""
    return (root / "usr/bin/python3").readlink().name.removeprefix("python")


def _install_packages(prefix: Path, version: str) -> None:
    """The locked packages, for the system's Python, by this machine's pip."""
    pip = [
        getattr(sys, "_base_executable", sys.executable),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-qq",
    ]
    wanted = ["--python-version", version, "--only-binary", ":all:", "--no-deps", "--require-hashes"]
    quiet = ["--no-compile", "--root-user-action", "ignore"]
    subprocess.run(
        [*pip, "install", *quiet, *wanted, "--target", prefix, "-r", ROOT / "packaging/requirements.txt"],
        check=True,
    )
    shutil.rmtree(prefix / "bin", ignore_errors=True)


def _install_units(root: Path) -> None:
    system = root / "usr/lib/systemd/system"
    units = [*(ROOT / "systemd").glob("*.service"), *(ROOT / "systemd").glob("*.socket")]
    for unit in units:
        shutil.copy(unit, system)
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copy(ROOT / "systemd" / kind / "ambient.conf", root / "usr/lib" / kind)
    (root / "etc/systemd/system/ambient-checks.service").write_text(CHECKS_UNIT)
    _link(root, "multi-user.target.wants", "/etc/systemd/system/ambient-checks.service")
    # the daemon itself is enabled by its first client alone: that is one of the checks
    for unit in units:
        (root / "etc/systemd/system/multi-user.target.wants" / unit.name).unlink(missing_ok=True)
        if unit.suffix == ".socket":
            _link(root, "sockets.target.wants", f"/usr/lib/systemd/system/{unit.name}")
    shutil.rmtree(root / "etc/systemd/system/ambientd.service.d", ignore_errors=True)


def _link(root: Path, folder: str, unit: str) -> None:
    link = root / "etc/systemd/system" / folder / Path(unit).name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(unit)


def _inside(root: Path, *command: str) -> None:
    subprocess.run(["chroot", root, *command], check=True, env={"PATH": PATH, "LC_ALL": "C.UTF-8"})
