"""What is wrong with a configuration, in a form that a person can act on; and safe ways to quote input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MASK = "***"
# Long enough to recognise a value, short enough for one line of a terminal.
SHOWN_LENGTH = 60
# Past these the digits say nothing more (and Python refuses to print some thousands of them).
LARGEST_SHOWN_INTEGER = 2**64

_NOTIFIERS = ("alerts", "notifiers")
_SECRET_WORDS = (
    "secret",
    "token",
    "password",
    "passwd",
    "credential",
    "pepper",
    "private",
    "apikey",
    "api_key",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that must change before the configuration can be used.

    `where` names the source (a file, a variable, a flag), `path` the dotted setting ("" when the source
    as a whole is meant), `what` says it without a full stop, `value` is what was found (masked when it may
    be a secret, shortened), `expected` what is allowed, `suggestion` what was probably meant. `missing`
    is true when a required setting was given nowhere.
    """

    where: str
    what: str
    path: str = ""
    value: str | None = None
    expected: str | None = None
    suggestion: str | None = None
    line: int | None = None
    column: int | None = None
    missing: bool = False

    @property
    def sentence(self) -> str:
        """The problem without its source: `dispatcher.intervall is not a setting. Did you mean …?`"""
        said = f"{self.path} {self.what}" if self.path else self.what
        text = said + "."
        if self.suggestion is not None:
            text += f" Did you mean {self.suggestion}?"
        return text

    @property
    def text(self) -> str:
        """The whole line for people, beginning with the source."""
        if self.line is None:
            return f"{self.where}: {self.sentence}"
        if self.column is not None:
            return f"{self.where}:{self.line}:{self.column}: {self.sentence}"
        return f"{self.where}: {self.sentence} (line {self.line})"


def show_text(text: str, limit: int = SHOWN_LENGTH) -> str:
    """`text` in double quotes on one line: control, bidirectional and undecodable characters escaped."""
    shown = "".join(_show_character(c) for c in text[:limit])
    return f'"{shown}{"…" if len(text) > limit else ""}"'


def _show_character(character: str) -> str:
    if character in {'"', "\\"}:
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def show_key(key: str) -> str:
    """One part of a dotted key as TOML wants it: bare when possible, quoted otherwise."""
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare and len(key) <= SHOWN_LENGTH else show_text(key)


def show_path(path: Sequence[str]) -> str:
    """A dotted key."""
    return ".".join(show_key(key) for key in path)


def show_value(value: object) -> str:
    """A TOML value in a few words; tables and lists only by their kind, so the answer is always short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return show_text(value)
    if isinstance(value, int):
        return str(value) if abs(value) < LARGEST_SHOWN_INTEGER else "a huge integer"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "a date or time"


def may_be_secret(path: Sequence[str]) -> bool:
    """Whether the value at `path` must not be shown: agents' variables, notifiers' URLs, and names that
    sound secret."""
    if len(path) > 3 and path[0] == "agents" and path[2] == "environment":
        return True
    if tuple(path[:2]) == _NOTIFIERS and path[-1] == "url":  # many services put their token into it
        return True
    name = path[-1].lower() if path else ""
    return any(word in name for word in _SECRET_WORDS)


def show_value_at(path: Sequence[str], value: object) -> str:
    """`show_value`, or the mask where the value may be a secret."""
    return MASK if may_be_secret(path) else show_value(value)
