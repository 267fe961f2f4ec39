"""TOML text to a mapping, with the position of the mistake instead of an exception."""

import re
import tomllib
from dataclasses import dataclass
from typing import Any

# tomllib takes quadratic time in the parts of one dotted key: half a million of them fit in a megabyte
# and would take minutes. No setting has more than four.
_ENDLESS_KEY = re.compile(r"""(?<![A-Za-z0-9_"'.-])(?:["']?+[A-Za-z0-9_-]++["']?+[ \t]*+\.[ \t]*+){100}""")
_AT = re.compile(r" \(at line ([0-9]+), column ([0-9]+)\)$")
_AT_END = " (at end of document)"


@dataclass(frozen=True, slots=True)
class TomlMistake:
    """Text that is not TOML: what is wrong, and where (counted from 1)."""

    what: str
    line: int | None
    column: int | None


def read_toml(text: str) -> dict[str, Any] | TomlMistake:
    """The document, or its first syntax error. Raises nothing for any text."""
    endless = _ENDLESS_KEY.search(text)
    if endless is not None:
        line = text.count("\n", 0, endless.start()) + 1
        return TomlMistake(
            "a key has more than 100 parts", line, endless.start() - text.rfind("\n", 0, endless.start())
        )
    try:
        return tomllib.loads(text)
    except RecursionError:
        return TomlMistake("values are nested too deeply", None, None)
    except ValueError as error:  # TOMLDecodeError, and integers of more digits than Python converts
        return _mistake(str(error), text)


def _mistake(message: str, text: str) -> TomlMistake:
    lines = text.split("\n")
    if message.endswith(_AT_END):
        end = len(lines) - 1 if lines[-1] == "" and len(lines) > 1 else len(lines)
        return TomlMistake(
            message.removesuffix(_AT_END) + " at the end of the file", end, len(lines[end - 1]) + 1
        )
    at = _AT.search(message)
    if at is None:
        return TomlMistake("a number has too many digits", None, None)
    return TomlMistake(message[: at.start()], int(at[1]), int(at[2]))


def read_toml_value(text: str) -> Any:
    """The one TOML value that `text` spells, or None when it is not exactly one value (TOML has no null)."""
    document = read_toml(f"value = {text}\n")
    if isinstance(document, TomlMistake) or len(document) != 1:
        return None
    return document["value"]


def read_key(text: str) -> tuple[str, ...] | None:
    """The parts of a dotted key (`agents."a b".timeout`), or None when it is not one."""
    document = read_toml(f"{text} = 0\n")
    if isinstance(document, TomlMistake):
        return None
    parts: list[str] = []
    value: Any = document
    while isinstance(value, dict):
        if len(value) != 1:
            return None
        (part, value) = next(iter(value.items()))
        parts.append(part)
    return tuple(parts) if value == 0 and not isinstance(value, bool) else None
