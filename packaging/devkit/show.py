"""What a person sees: one line per step with its time, and trouble told with its remedy."""

import contextlib
import time
from collections.abc import Iterator
from typing import TextIO


class TroubleError(Exception):
    """Something a person can put right: what happened, what to do, and the lines that show it."""

    def __init__(self, what: str, todo: str, detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo
        self.detail = detail


class Step:
    """A step under way; its closing text may be refined while it runs."""

    def __init__(self, done: str) -> None:
        self.done = done


class Screen:
    """Writes the lines. Falls back to ASCII where the stream cannot carry the signs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._good, self._bad, self._skipped = "✓", "✗", "·"
        try:
            "✓✗·".encode(stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            self._good, self._bad, self._skipped = "ok  ", "FAIL", "-   "

    @contextlib.contextmanager
    def step(self, running: str, done: str) -> Iterator[Step]:
        """Prints `done` with the time the block took; on `TroubleError` the failure, and raises it on."""
        step = Step(done)
        began = time.monotonic()
        if self._terminal:
            self._write(f"{self._skipped} {running} ...")
        try:
            yield step
        except TroubleError as trouble:
            self._close(f"{self._bad} {running}: {trouble.what}", began)
            raise
        except BaseException:
            if self._terminal:
                self._write("\n")
            raise
        self._close(f"{self._good} {step.done}", began)

    def result(self, text: str, *, good: bool, began: float) -> None:
        """The closing line of a step that printed for itself."""
        self._write(f"{self._good if good else self._bad} {text} ({time.monotonic() - began:.1f} s)\n")

    def good(self, text: str) -> None:
        """A line about something that needed no work."""
        self._write(f"{self._good} {text}\n")

    def note(self, text: str) -> None:
        """A line of information."""
        if self._terminal:
            self._write("\r\x1b[K")
        self._write(f"{self._skipped} {text}\n")

    def text(self, text: str) -> None:
        """Plain text, such as what to do next or a tool's output."""
        self._write(text.rstrip("\n") + "\n")

    def trouble(self, trouble: TroubleError) -> None:
        """The whole story of a failure: evidence first, the remedy last, where the eye ends."""
        if trouble.detail:
            self.text("\n".join("    " + line for line in trouble.detail.splitlines()))
        self.text(f"\n{trouble.what}\n{trouble.todo}")

    def _close(self, line: str, began: float) -> None:
        if self._terminal:
            self._write("\r\x1b[K")
        self._write(f"{line} ({time.monotonic() - began:.1f} s)\n")

    def _write(self, text: str) -> None:
        encoding = self._stream.encoding or "ascii"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
