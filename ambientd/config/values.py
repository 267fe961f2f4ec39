"""One TOML value to one Python value: converted, or refused with what was expected and probably meant."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ambientd.config.duration import format_duration, parse_duration, parse_size
from ambientd.config.fields import Setting, Shape, spell_number
from ambientd.config.problems import show_text, show_value
from ambientd.config.toml import read_toml_value

LARGEST_NUMBER = 1.7976931348623157e308  # the largest float
# Longer words have no close match among settings, and comparing them costs time.
LONGEST_COMPARED = 64


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a value was not taken. `note` replaces the general expectation when it says more."""

    note: str | None = None
    suggestion: str | None = None


def close_match(word: str, choices: Sequence[str], cutoff: float = 0.7) -> str | None:
    """The one of `choices` that was probably meant; None when none is close."""
    if len(word) > LONGEST_COMPARED:
        return None
    folded = {_folded(choice): choice for choice in choices}
    found = difflib.get_close_matches(_folded(word), list(folded), n=1, cutoff=cutoff)
    return folded[found[0]] if found else None


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")


def text_fault(text: str) -> str | None:
    """Why a string can never be used anywhere: NUL ends it early in the system's calls."""
    if "\0" in text:
        return "text without NUL characters"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "valid UTF-8 text"
    return None


def from_text(setting: Setting, text: str) -> object:
    """What a variable or a command-line argument means for this setting: a TOML value of the wanted kind
    when it spells one, else the plain string."""
    value = read_toml_value(text)
    wanted: dict[Shape, tuple[type, ...]] = {
        Shape.FLAG: (bool,),
        Shape.INTEGER: (int,),
        Shape.NUMBER: (int, float),
        Shape.DURATION: (str, int, float),
        Shape.SIZE: (str, int),
        Shape.LIST: (list,),
        Shape.TABLE: (dict,),
        Shape.PRICES: (dict,),
    }
    return value if isinstance(value, wanted.get(setting.shape, (str,))) else text


def convert(setting: Setting, raw: object) -> Any | Refused:
    """The typed value of `raw` for `setting`. Tables are converted entry by entry elsewhere."""
    if isinstance(raw, str) and (fault := text_fault(raw)) is not None:
        return Refused(fault)
    return _CONVERTERS[setting.shape](setting, raw)


def _text(setting: Setting, raw: object) -> str | Refused:
    if not isinstance(raw, str):
        plain = isinstance(raw, (int, float)) and not isinstance(raw, bool)
        return Refused(suggestion=show_text(show_value(raw)) if plain else None)
    if not raw:
        return Refused("text that is not empty")
    if setting.pattern is not None and re.fullmatch(setting.pattern, raw) is None:
        return Refused()
    return raw


def _flag(_setting: Setting, raw: object) -> bool | Refused:
    if isinstance(raw, bool):
        return raw
    word = raw.lower() if isinstance(raw, str) else raw
    if word in ("true", "yes", "on", "1", 1):
        return Refused(suggestion="true")
    if word in ("false", "no", "off", "0", 0):
        return Refused(suggestion="false")
    return Refused()


def _integer(setting: Setting, raw: object) -> int | Refused:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw if _within(setting, raw) else Refused()
    if isinstance(raw, float) and raw.is_integer() and _within(setting, raw):
        return Refused(suggestion=str(int(raw)))
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,9}", raw) and _within(setting, int(raw)):
        return Refused(suggestion=str(int(raw)))
    return Refused()


def _number(setting: Setting, raw: object) -> float | Refused:
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        # The range first: an integer may be too large for a float. NaN lies in no range, nor is it a number.
        meant = _within(setting, raw) and abs(raw) <= LARGEST_NUMBER
        return float(raw) if meant else Refused()
    if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?", raw.strip()):
        number = float(raw)
        return Refused(suggestion=spell_number(number) if _within(setting, number) else None)
    return Refused()


def _duration(setting: Setting, raw: object) -> float | Refused:
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return Refused(suggestion=_seconds(setting, raw))
    if not isinstance(raw, str):
        return Refused()
    try:
        seconds = parse_duration(raw)
    except ValueError:
        return Refused(suggestion=_spelled_duration(setting, raw))
    return seconds if _within(setting, seconds) else Refused()


def _seconds(setting: Setting, number: float) -> str | None:
    meant = 0 <= number < 1e9 and _within(setting, number)
    return (
        f'"{number}s"'
        if meant and isinstance(number, int)
        else f'"{format_duration(number)}"'
        if meant
        else None
    )


_UNIT_WORDS = {
    "ms": ("msec", "millis", "millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
    "w": ("week", "weeks"),
}


def _spelled_duration(setting: Setting, text: str) -> str | None:
    found = re.fullmatch(r"([0-9]{1,9}) *([A-Za-z]{0,12})", text.strip())
    if found is None:
        return None
    word = found[2].lower()
    if not word:
        return _seconds(setting, int(found[1]))
    for unit, words in _UNIT_WORDS.items():
        if (word == unit or word in words) and _within(setting, parse_duration(found[1] + unit)):
            return f'"{found[1]}{unit}"'
    return None


def _size(setting: Setting, raw: object) -> int | Refused:
    if isinstance(raw, bool) or not isinstance(raw, (int, str)):
        return Refused()
    try:
        size = parse_size(raw)
    except ValueError:
        short = re.fullmatch(r"([0-9]{1,12}) ?([KMGTkmgt])i?", str(raw)) if isinstance(raw, str) else None
        return Refused(suggestion=f'"{short[1]}{short[2].upper()}iB"' if short else None)
    return size if _within(setting, size) else Refused()


def _choice(setting: Setting, raw: object) -> Any | Refused:
    if setting.choices is None or not isinstance(raw, str):
        return Refused()
    try:
        return setting.choices(raw)
    except ValueError:
        match = close_match(raw, list(setting.choices), cutoff=0.5)
        return Refused(suggestion=show_text(match) if match else None)


def _list(setting: Setting, raw: object) -> tuple[str, ...] | Refused:
    if isinstance(raw, str):
        words = raw.split()
        simple = len(raw) <= LONGEST_COMPARED and words and not any(mark in raw for mark in "\"'\\$|;&<>`[")
        return Refused(suggestion="[" + ", ".join(map(show_text, words)) + "]" if simple else None)
    if not isinstance(raw, (list, tuple)):
        return Refused()
    for number, item in enumerate(raw, 1):
        if not isinstance(item, str):
            return Refused(f"a list of strings (element {number} is {show_value(item)})")
        if (fault := text_fault(item)) is not None:
            return Refused(f"{fault} in element {number}")
        if setting.pattern is not None and re.fullmatch(setting.pattern, item) is None:
            return Refused(f"a list of texts that match {setting.pattern} (element {number} does not)")
    return tuple(raw)


def _table(_setting: Setting, raw: object) -> Mapping[str, object] | Refused:
    return raw if isinstance(raw, Mapping) else Refused()


def _within(setting: Setting, number: float) -> bool:
    low = setting.minimum is None or number >= setting.minimum
    return low and (setting.maximum is None or number <= setting.maximum)


_CONVERTERS: dict[Shape, Callable[[Setting, object], Any]] = {
    Shape.TEXT: _text,
    Shape.FLAG: _flag,
    Shape.INTEGER: _integer,
    Shape.NUMBER: _number,
    Shape.DURATION: _duration,
    Shape.SIZE: _size,
    Shape.CHOICE: _choice,
    Shape.LIST: _list,
    Shape.TABLE: _table,
    Shape.PRICES: _table,
}
