"""What the other end of standard output can show: its width, colours, and whether UTF-8 arrives."""

import os
import sys

DEFAULT_WIDTH = 80
WIDTH_MIN = 20
WIDTH_MAX = 1000

# What an interpreter that was started in the C locale writes into LC_CTYPE by itself (PEP 538).
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")


def is_terminal(descriptor: int) -> bool:
    """Whether a person looks at it."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def width() -> int | None:
    """Columns of the screen: `COLUMNS`, else the terminal's, else None (a pipe or a file has no edge)."""
    named = os.environ.get("COLUMNS", "")
    if named.isascii() and named.isdigit() and int(named[:6]) > 0:
        return max(WIDTH_MIN, min(int(named[:6]), WIDTH_MAX))
    try:
        columns = os.get_terminal_size(1).columns
    except OSError:
        return None
    return max(WIDTH_MIN, min(columns, WIDTH_MAX)) if columns > 0 else None


def height() -> int:
    """Rows of the screen; 24 when nobody knows."""
    try:
        return os.get_terminal_size(1).lines or 24
    except OSError:
        return 24


def has_color(wish: str) -> bool:
    """`--color` wins, then NO_COLOR and FORCE_COLOR (set and not empty), then what standard output is."""
    if wish != "auto":
        return wish == "always"
    environ = os.environ
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    return is_terminal(1) and environ.get("TERM") != "dumb"


def is_ascii() -> bool:
    """Whether the locale's encoding is something else than UTF-8, so that glyphs have to be plain."""
    environ = os.environ
    value = environ.get("LC_ALL")
    if not value:
        value = environ.get("LC_CTYPE")
        # UTF-8 mode without LC_ALL means: the interpreter found the C locale and put a better one there.
        if value in _COERCED and sys.flags.utf8_mode and not environ.get("PYTHONUTF8"):
            value = None
    value = value or environ.get("LANG") or "C"
    return "utf-8" not in value.lower() and "utf8" not in value.lower()


def write(text: str, *, ascii_only: bool) -> None:
    """Text for people to standard output, in the encoding that arrives. Raises BrokenPipeError."""
    if text.isascii() or not ascii_only:
        put(text.encode("utf-8", "replace"))
    else:
        put(text.encode("ascii", "replace"))


def put(data: bytes) -> None:
    """Bytes to standard output, at once; nothing when there is none. Raises BrokenPipeError."""
    if sys.stdout is None:
        return
    out = sys.stdout.buffer
    out.write(data)
    out.flush()


def complain(line: str) -> None:
    """One line on standard error. Never fails: the exit code says the same to whoever cannot read it."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        return
