"""Where in a TOML text a setting stands, for messages; a best guess, never a second parser."""

import re
from collections.abc import Sequence

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_KEY})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_KEY})[ \t]*=")
_PARTS = re.compile(_PART)

# A key further right is none that a person would look for.
_LONGEST_KEY = 256

Path = tuple[str, ...]


class Lines:
    """The lines of one text by key, found in one pass."""

    def __init__(self, text: str) -> None:
        """Reads `text`; any text will do."""
        self._lines: dict[Path, int] = {}
        table: Path = ()
        for number, line in enumerate(text.split("\n"), 1):
            if header := _HEADER.match(line, 0, _LONGEST_KEY):
                table = _parts(header[1])
                self._note(table, number)
            elif assignment := _ASSIGNMENT.match(line, 0, _LONGEST_KEY):
                self._note((*table, *_parts(assignment[1])), number)

    def _note(self, path: Path, number: int) -> None:
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return
            self._lines[path[:length]] = number

    def of(self, path: Sequence[str]) -> int | None:
        """The first line (from 1) that sets `path` or something in it, else that of a table around it;
        None when there is nothing near."""
        for length in range(len(path), 0, -1):
            if (number := self._lines.get(tuple(path[:length]))) is not None:
                return number
        return None


def _parts(key: str) -> Path:
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in _PARTS.findall(key))
