"""How far long work is, on standard error: a bar on a terminal past one second, else a line every ten."""

import sys

from ambientctl import term
from ambientctl.clock import monotonic

FIRST_SEC = 1.0
AGAIN_SEC = 0.2
PLAIN_SEC = 10.0
_WIDTH = 20


class Progress:
    """One piece of work. `total` 0 means that nobody knows how much there is."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = term.is_terminal(2)
        self._next = monotonic() + (FIRST_SEC if self._terminal else PLAIN_SEC)
        self._shown = False

    def show(self, done: int, total: int, note: str = "") -> None:
        """Says it when it is time to."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + (AGAIN_SEC if self._terminal else PLAIN_SEC)
        share = min(done / total, 1.0) if total > 0 else 0.0
        text = f"{self._what} {share:4.0%} {note}".rstrip() if total > 0 else f"{self._what} {note}".rstrip()
        if not self._terminal:
            term.complain(text)
            return
        filled = round(_WIDTH * share)
        bar = "#" * filled + "." * (_WIDTH - filled)
        sys.stderr.write(f"\r[{bar}] {text}\x1b[K")
        sys.stderr.flush()
        self._shown = True

    def end(self) -> None:
        """Clears the bar."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
