"""Puts Node and OpenClaw into a folder, with npm and without running any package's scripts.

A folder is used again when its mark says that the installation came to its end.
"""

import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

NODE = "24.21.0"
INSTALL_SEC = 600.0
NEEDED_MB = 1200
NEEDED_MEMORY_MB = 2500
VERSIONS = ("2026.9.6", "2026.5.7")
_MARK = "installed"
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
# A dependency of a dependency asks for a release that cannot be had.
_OVERRIDES = {"2026.5.7": {"linkedom": "0.18.13"}}


class InstallError(Exception):
    """npm could not; the message ends with what it said."""


def lacking(cache: Path) -> str | None:
    """Why the live test cannot run on this machine; None when it can."""
    if platform.system() != "Linux" or platform.machine() not in _ARCHITECTURES:
        return f"there is no Node package for {platform.system()} on {platform.machine()}"
    if shutil.which("npm") is None:
        return "npm is missing (any version will do; it fetches the Node that OpenClaw needs)"
    if (free := _available_mb()) < NEEDED_MEMORY_MB:
        return f"{free} MB of memory are available, {NEEDED_MEMORY_MB} are needed"
    cache.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(cache).free // 2**20
    if room < NEEDED_MB:
        return f"{room} MB are free in {cache}, {NEEDED_MB} are needed"
    return None


def _available_mb() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def install_node(cache: Path) -> Path:
    """The `node` program. Raises InstallError."""
    package = f"node-linux-{_ARCHITECTURES[platform.machine()]}"
    folder = cache / f"node-{NODE}"
    _install(folder, f"{package}@{NODE}", {})
    return folder / "node_modules" / package / "bin" / "node"


def install_openclaw(cache: Path, version: str, node: Path) -> Path:
    """The program of that version. Raises InstallError."""
    folder = cache / f"openclaw-{version}"
    _install(folder, f"openclaw@{version}", _OVERRIDES.get(version, {}), node.parent)
    return folder / "node_modules" / "openclaw" / "openclaw.mjs"


def _install(folder: Path, package: str, overrides: dict[str, str], path: Path | None = None) -> None:
    if (folder / _MARK).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest: dict[str, object] = {"private": True}
    if overrides:
        manifest["overrides"] = overrides
    (folder / "package.json").write_text(json.dumps(manifest))
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    began = time.monotonic()
    try:
        done = subprocess.run(
            ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", package],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SEC,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"npm took longer than {INSTALL_SEC:g} s for {package}") from None
    if done.returncode != 0:
        raise InstallError(f"npm could not install {package}: {done.stderr.strip()[-300:]}")
    (folder / _MARK).write_text(f"{time.monotonic() - began:.0f} s\n")
    print(f"  installed {package} in {time.monotonic() - began:.0f} s", flush=True)
