"""`dev.py test`: the tools and the tests, each a step; the tests last, so that their count ends the run."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from devkit.environment import clean_environ
from devkit.show import Screen
from devkit.tree import Tree

# Settings of a node that this shell may be using: tests make their own.
NODE_SETTINGS = ("AMBIENT_", "HELICARRIER_", "LUKA_", "OPENCLAW_")

# A bench tells figures; one that hangs must not keep the tests from running.
BENCH_SEC = 120

# Hours of work or another machine's: never a part of the everyday run.
NOT_EVERY_DAY = ("tests/bench", "tests/live")

# These wait more than they compute, for processes, clocks, sockets and disks: they run beside the others,
# in runs that take about as long as the rest. What no pattern names is of the rest.
BESIDE = (
    ("tests/e2e/test_[a-g]*.py",),
    ("tests/lan", "tests/services", "tests/store", "tests/systemd", "tests/e2e/test_[h-z]*.py"),
)

# What others rely on and must never change by accident: status, control and every read of the ledger.
NON_REGRESSION = (
    "tests/api/test_status.py",
    "tests/api/test_control.py",
    "tests/api/test_ledger.py",
    "tests/api/test_ledger_order.py",
    "tests/api/test_analytics_oracle.py",
    "tests/api/test_alerts.py",
    "tests/api/test_export.py",
    "tests/e2e/test_ledger.py",
)


class Checks:
    """Runs the tools of `.venv/bin` on the checkout."""

    def __init__(self, tree: Tree, screen: Screen) -> None:
        self._tree = tree
        self._screen = screen
        self._failed: list[str] = []

    def run(self, pytest_arguments: list[str]) -> bool:
        """All checks, whatever fails; True when none did. Arguments go to pytest and drop the benches."""
        self._quiet("ruff check", "ruff", "check", "--no-fix", ".")
        self._quiet("ruff format", "ruff", "format", "--check", ".")
        self._quiet("mypy", "mypy")
        self._quiet("lint-imports", "lint-imports")
        if pytest_arguments:
            self._screen.note("benches left out: arguments were given")
        else:
            self._benches()
            self.gate()
        if pytest_arguments:
            self._tests("pytest", pytest_arguments)
        else:
            self._all([f"--ignore={path}" for path in NON_REGRESSION])
        if self._failed:
            self._screen.text("failed: " + ", ".join(self._failed))
        return not self._failed

    def gate(self) -> bool:
        """The tests of what others rely on, under a name of their own; True when they pass."""
        self._tests("non-regression", list(NON_REGRESSION))
        return "non-regression" not in self._failed

    def _quiet(self, name: str, program: str, *arguments: str) -> None:
        """A tool whose output matters only when it fails."""
        began = time.monotonic()
        outcome = self._call([str(self._tree.venv / "bin" / program), *arguments])
        self._screen.result(name, good=outcome.returncode == 0, began=began)
        if outcome.returncode:
            self._screen.text(outcome.stdout)
            self._failed.append(name)

    def _benches(self) -> None:
        """Figures for information: a slow machine is no failure."""
        for bench in sorted((self._tree.root / "tests" / "bench").glob("bench_*.py")):
            began = time.monotonic()
            name = str(bench.relative_to(self._tree.root))
            try:
                outcome = self._call([str(self._tree.python), str(bench), "--short"], patience=BENCH_SEC)
            except subprocess.TimeoutExpired:
                self._screen.note(f"{name}: no figure within {BENCH_SEC} s")
                continue
            if outcome.returncode == 1 and outcome.stdout:
                self._screen.note(f"{name}: a target is missed ({time.monotonic() - began:.1f} s)")
            elif outcome.returncode:
                self._screen.note(f"{name}: no figure, it ended with code {outcome.returncode}")
            else:
                self._screen.result(name, good=True, began=began)
            self._screen.text("\n".join("    " + line for line in outcome.stdout.splitlines()[-12:]))

    def _paths(self, patterns: tuple[str, ...]) -> list[str]:
        """What the patterns name, less what has run already: pytest ignores no file that it is told of."""
        root = self._tree.root
        found = (path.relative_to(root) for pattern in patterns for path in sorted(root.glob(pattern)))
        return [str(path) for path in found if str(path) not in NON_REGRESSION]

    def _all(self, left: list[str]) -> None:
        """All other tests, in runs at the same time; what those beside say comes when they have ended."""
        found = {group: self._paths(group) for group in BESIDE}
        with ExitStack() as stack:
            began = time.monotonic()
            runs = [
                (group, stack.enter_context(self._run_beside([*left, *paths])))
                for group, paths in found.items()
                if paths
            ]
            apart = [f"--ignore={path}" for paths in found.values() for path in paths]
            self._tests("pytest", [*left, *apart])
            for group, (process, said) in runs:
                code = process.wait()
                said.seek(0)
                self._screen.text(said.read())
                self._result("pytest " + " ".join(group), code, began)

    @contextmanager
    def _run_beside(self, arguments: list[str]) -> "Iterator[tuple[subprocess.Popen[bytes], TextIO]]":
        """One run that is ended with the block, and the file that it writes."""
        # A folder of its own: each run clears away what older runs left in theirs.
        with (
            tempfile.TemporaryFile("w+", errors="replace") as said,
            tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as folder,
            subprocess.Popen(
                self._command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self._tree.root,
                env={**self._environ(), "PYTEST_DEBUG_TEMPROOT": folder},
            ) as process,
        ):
            try:
                yield process, said
            finally:
                process.terminate()

    def _tests(self, name: str, arguments: list[str]) -> None:
        began = time.monotonic()
        sys.stdout.flush()
        code = subprocess.call(
            self._command(arguments), stdin=subprocess.DEVNULL, cwd=self._tree.root, env=self._environ()
        )
        self._result(name, code, began)

    def _command(self, arguments: list[str]) -> list[str]:
        ignored = [f"--ignore={folder}" for folder in NOT_EVERY_DAY]
        return [str(self._tree.python), "-m", "pytest", *ignored, *arguments]

    def _result(self, name: str, code: int, began: float) -> None:
        self._screen.result(name, good=code == 0, began=began)
        if code:
            self._failed.append(name)

    def _call(
        self, command: list[str], *, patience: float | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._tree.root,
            env=self._environ(),
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )

    def _environ(self) -> dict[str, str]:
        environ = {k: v for k, v in clean_environ().items() if not k.startswith(NODE_SETTINGS)}
        programs = Path(self._tree.venv / "bin")
        return {**environ, "PATH": f"{programs}{os.pathsep}{environ.get('PATH', os.defpath)}"}
