"""How far long work of a verb is, on standard error."""

import sys

from ambientd.host.clock import SystemClock

_CLOCK = SystemClock()


class Progress:
    """Says on standard error how far long work is: past a second on a terminal, else every ten seconds."""

    def __init__(self) -> None:
        self._began = _CLOCK.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._began + (1.0 if self._terminal else 10.0)
        self._shown = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called often, from any thread."""
        now = _CLOCK.monotonic()
        if now < self._next:
            return
        self._next = now + (0.2 if self._terminal else 10.0)
        share = f"{100 * done // total:3d}%" if total else "  … "
        line = f"{stage} {share}"
        self._shown = self._terminal
        print(
            f"\r{line:<24}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()

    def end(self) -> None:
        """Clears the line."""
        if self._shown:
            print(f"\r{'':24}\r", end="", file=sys.stderr)
            sys.stderr.flush()
