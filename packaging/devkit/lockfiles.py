"""`dev.py lock`: makes the three requirement files anew from `pyproject.toml`.

They hold a hash for every file of every package, so that any of CPython 3.11 to 3.13 on x86_64 and
aarch64 finds its own; and no address, so that each machine's own package index serves them.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from devkit.environment import base_python, clean_environ
from devkit.show import Screen, TroubleError
from devkit.tree import Tree

UV = "uv==0.13.8"
OLDEST_PYTHON = "3.11"
HEADER = "# Made by `python3 packaging/dev.py lock`; do not edit.\n"

# A requirement that no Linux ever installs.
ELSEWHERE = re.compile(r"os_name == 'nt'|sys_platform == 'win32'")


class LockFiles:
    """Resolves with uv; the development lock first, the others within its versions."""

    def __init__(self, tree: Tree, screen: Screen) -> None:
        self._tree = tree
        self._screen = screen

    def make(self, *, upgrade: bool) -> None:
        """Writes the files. Versions stay as they are unless `upgrade` or `pyproject.toml` ask for others."""
        uv = self._uv()
        more = ["--upgrade"] if upgrade else []
        project = str(self._tree.root / "pyproject.toml")
        build = self._tree.dev / "build.in"
        build.write_text("hatchling\n")
        everything = self._tree.requirements("requirements-dev.txt")
        self._compile(uv, "requirements-dev.txt", [project, "--extra", "dev", *more])
        self._compile(uv, "requirements.txt", [project, "-c", str(everything)])
        self._compile(uv, "requirements-build.txt", [str(build), "-c", str(everything)])

    def _uv(self) -> str:
        for place in (str(self._tree.venv / "bin"), None):
            found = shutil.which("uv", path=place)
            if found:
                return found
        folder = self._tree.dev / "uv"
        program = folder / "bin" / "uv"
        if not program.exists():
            with self._screen.step("fetching uv", "uv fetched into .dev"):
                self._call([base_python(), "-m", "pip", "install", "--quiet", "--target", str(folder), UV])
        return str(program)

    def _compile(self, uv: str, name: str, sources: list[str]) -> None:
        target = self._tree.requirements(name)
        with self._screen.step(f"resolving {name}", f"{name} written"):
            flags = ["--quiet", "--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes"]
            plain = ["--no-header", "--no-annotate", "--python", sys.executable]
            self._call([uv, "pip", "compile", *flags, *plain, *sources, "-o", str(target)])
            target.write_text(HEADER + for_linux(target.read_text()))

    def _call(self, command: list[str]) -> None:
        outcome = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self._tree.root,
            env=clean_environ(),
            check=False,
        )
        if outcome.returncode:
            raise TroubleError(
                f"{Path(command[0]).name} ended with code {outcome.returncode}.",
                "The lines above say why; the lock files may be half-made: git checkout packaging/",
                outcome.stderr[-2000:],
            )


def for_linux(lock: str) -> str:
    """The lock without the requirements that belong to other systems."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", lock)
    kept = [block for block in blocks if _may_be_for_linux(block.split("\\\n")[0])]
    return "\n".join(block.rstrip("\n") for block in kept) + "\n"


def _may_be_for_linux(requirement: str) -> bool:
    """uv writes a marker as alternatives of conditions; one without another system's name is enough."""
    _name, _semicolon, marker = requirement.partition(" ; ")
    return any(not ELSEWHERE.search(alternative) for alternative in marker.split(" or "))
