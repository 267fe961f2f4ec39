"""The verbs of `dev.py`."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from devkit.checks import Checks
from devkit.daemon import HTTP_OK, Daemon, processes_of, remove_socket_folder, write_shell_settings
from devkit.environment import CORE, DEV, Environment, base_python
from devkit.lockfiles import LockFiles
from devkit.show import Screen, TroubleError
from devkit.tree import FileLock, Tree

DONE, FAILED, NOT_RUNNING, INTERRUPTED = 0, 1, 3, 130

CACHES = (
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".import_linter_cache",
    ".hypothesis",
    "dist",
    "build",
)


class Verbs:
    """One method per verb; each returns the exit code."""

    def __init__(self, tree: Tree, screen: Screen) -> None:
        self._tree = tree
        self._screen = screen
        self._environment = Environment(tree, screen)
        self._daemon = Daemon(tree, screen)
        self._venv_lock = FileLock(tree.dev / "environment.lock", screen)
        self._daemon_lock = FileLock(tree.dev / "daemon.lock", screen)

    def up(self, options: argparse.Namespace) -> int:
        """Environment, daemon, and what to do next."""
        self._tree.prepare()
        with self._daemon_lock.held(alone=True), self._venv_lock.held(alone=False) as lock:
            running = self._daemon.pid()
            changed = bool(self._environment.missing(CORE)) or self._daemon.is_outdated(
                self._tree.package_digest()
            )
            if running and options.foreground:
                raise TroubleError(
                    f"ambientd already runs, pid {running}.", "End it first: python3 packaging/dev.py down"
                )
            if running and changed:
                # its files are about to be replaced, and it imports some of them only when needed
                self._screen.note("the code has changed since ambientd was started: restarting it")
                self._daemon.stop()
                running = None
            self._environment.make(CORE, lock)
            digest = self._tree.package_digest()
            settings = write_shell_settings(self._tree)
            if options.foreground:
                self._next_steps(settings, "in another shell")
                self._daemon.run(digest)
            if running:
                self._screen.good(f"ambientd already runs, pid {running}")
            else:
                self._daemon.start(digest)
            self._next_steps(settings, "in this shell")
        return DONE

    def down(self, _options: argparse.Namespace) -> int:
        """Ends the daemon; sessions that run go on and are found again by the next `up`."""
        self._tree.prepare()
        with self._daemon_lock.held(alone=True):
            if not self._daemon.stop():
                self._screen.good("ambientd was not running")
        return DONE

    def test(self, options: argparse.Namespace) -> int:
        """Environment with the development extras, then all checks."""
        self._tree.prepare()
        with contextlib.ExitStack() as tests:
            # always this lock before the other one, or two verbs could wait for each other
            with self._daemon_lock.held(alone=True):
                lock = tests.enter_context(self._venv_lock.held(alone=False))
                if self._environment.missing(CORE):
                    self._pause_daemon()
                self._environment.make(DEV, lock)
            return DONE if Checks(self._tree, self._screen).run(options.arguments) else FAILED

    def status(self, _options: argparse.Namespace) -> int:
        """What is there; 3 when no daemon answers."""
        if not self._tree.dev.exists():
            self._screen.note("nothing made yet; begin with: python3 packaging/dev.py up")
            return NOT_RUNNING
        for name, wanted in (("up", CORE), ("test", DEV)):
            missing = self._environment.missing(wanted)
            text = "ready" if not missing else "to do: " + ", ".join(missing)
            self._screen.note(f"environment for {name}: {text}")
        pid = self._daemon.pid()
        if pid is None:
            self._screen.note("ambientd is not running")
            return NOT_RUNNING
        status, body = self._daemon.readiness()
        state = "ready" if status == HTTP_OK else f"not ready ({body.strip()[:200]})"
        self._screen.note(f"ambientd: pid {pid}, {state}, socket {self._tree.socket}, log {self._tree.log}")
        if self._daemon.is_outdated(self._tree.package_digest()):
            self._screen.note("the code has changed since it was started; `up` restarts it")
        return DONE

    def clean(self, _options: argparse.Namespace) -> int:
        """Removes the environment, the state and the caches, unless something still uses them."""
        users = processes_of(self._tree)
        if users:
            raise TroubleError(
                "Processes still use the state.",
                "End the daemon (dev.py down) and the sessions (ambientctl kill), then try again.",
                "\n".join(f"{pid} {words[:100]}" for pid, words in users[:10]),
            )
        remove_socket_folder(self._tree)
        for path in (self._tree.venv, self._tree.dev, *(self._tree.root / name for name in CACHES)):
            if path.exists():
                shutil.rmtree(path)
                self._screen.good(f"removed {path.relative_to(self._tree.root)}")
        return DONE

    def lock(self, options: argparse.Namespace) -> int:
        """Makes the requirement files anew."""
        self._tree.prepare()
        LockFiles(self._tree, self._screen).make(upgrade=options.upgrade)
        return DONE

    def _pause_daemon(self) -> None:
        """A daemon must not run on files that are being replaced; only `up` starts it again."""
        if self._daemon.pid() is not None:
            self._screen.note("the environment changes: stopping ambientd; `up` starts it again")
            self._daemon.stop()

    def _next_steps(self, settings: Path, where: str) -> None:
        shown = os.path.relpath(settings)
        shown = shown if os.sep in shown else os.path.join(".", shown)
        self._screen.text(f"""
Next, {where}:

  . {shown}
  ambientctl status
  ambientctl spawn sample "hello" --follow
  ambientctl sessions

  python3 {os.path.relpath(self._tree.root / "packaging" / "dev.py")} down      # ends it
""")


def build_parser() -> argparse.ArgumentParser:
    """The command line; the text is the documentation."""
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description="Sets up a checkout of Ambient on a machine that has python3, python3-pip and git.",
        epilog="All that it makes lies in .venv and .dev; `clean` removes both.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    up = verbs.add_parser("up", help="make the environment, start the daemon, say what to do next")
    up.add_argument("--foreground", action="store_true", help="stay in the foreground; Ctrl-C ends it")
    verbs.add_parser("down", help="end the daemon; running sessions go on until the next `up` finds them")
    test = verbs.add_parser(
        "test", help="make the environment with the development extras and run all checks"
    )
    test.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to pytest")
    verbs.add_parser("status", help="what is made and what runs; exit code 3 when no daemon does")
    verbs.add_parser("clean", help="remove the environment, the development state and all caches")
    lock = verbs.add_parser("lock", help="make the hash-locked requirement files anew (needs the network)")
    lock.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    return parser


def main(arguments: list[str]) -> int:
    """Runs one verb; trouble is told in plain words and ends with 1."""
    tree = Tree(root=Path(__file__).resolve().parents[2])
    if Path(sys.prefix).resolve() == tree.venv.resolve():
        # Our own environment, put first in PATH by `.dev/env`, has no pip and may be about to be replaced.
        script = str(tree.root / "packaging" / "dev.py")
        os.execv(base_python(), [base_python(), script, *arguments])  # noqa: S606 - nothing to come back to
    options = build_parser().parse_args(arguments)
    screen = Screen(sys.stdout)
    verbs = Verbs(tree, screen)
    run: Callable[[argparse.Namespace], int] = getattr(verbs, options.verb)
    try:
        return run(options)
    except TroubleError as trouble:
        screen.trouble(trouble)
        return FAILED
    except KeyboardInterrupt:
        screen.text("\ninterrupted; finished steps are kept")
        return INTERRUPTED
