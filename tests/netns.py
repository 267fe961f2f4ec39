"""Network namespaces for tests: real links that can be pulled, without touching this machine's own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.meta.tree import ROOT


class Namespace:
    """One namespace; `peer` is what its `eth0` leads to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.peer: Namespace | None = None

    @property
    def wrapper(self) -> tuple[str, ...]:
        """A command that ends in `exec`: what follows runs inside, with the same pid."""
        return ("ip", "netns", "exec", self.name)

    def ip(self, *words: str) -> None:
        """`ip` inside; fails the test when it fails."""
        _run("ip", "-n", self.name, *words)

    def run(self, *words: str) -> bytes:
        """A program inside, with this checkout importable; its output."""
        return _run(*self.wrapper, *words)

    def join(self, other: "Namespace") -> None:
        """An `eth0` here and one there, down both, with a wire between."""
        _run(
            "ip",
            "link",
            "add",
            "eth0",
            "netns",
            self.name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            other.name,
        )
        self.peer, other.peer = other, self


@contextmanager
def namespaces(*names: str) -> Iterator[tuple[Namespace, ...]]:
    """Fresh namespaces with their loopback up; gone afterwards. Skips the test where none can be made."""
    with ExitStack() as stack:
        made = []
        for name in names:
            full = f"amb-{os.getpid()}-{name}"
            _make(full)
            stack.callback(_run, "ip", "netns", "delete", full)
            made.append(Namespace(full))
            made[-1].ip("link", "set", "lo", "up")
        yield tuple(made)


def _make(name: str) -> None:
    if shutil.which("ip") is None:
        pytest.skip("needs ip (iproute2)")
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespace can be made here: {done.stderr.strip()}")


def _run(*words: str) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, check=False, timeout=30)
    if done.returncode:
        print(done.stderr.decode(errors="replace"), file=sys.stderr)
        pytest.fail(f"{' '.join(words)}: exit {done.returncode}")
    return done.stdout
