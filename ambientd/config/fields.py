"""The schema as data: every section and setting with its shape, range and words, from the dataclasses."""

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ambientd.config.duration import format_duration, format_size
from ambientd.config.problems import show_text
from ambientd.config.schema import Config
from ambientd.config.setting import DURATION, PRICES, SIZE


class Shape(Enum):
    """How a setting is written in TOML."""

    TEXT = "text"
    FLAG = "true or false"
    INTEGER = "integer"
    NUMBER = "number"
    DURATION = "duration"
    SIZE = "size"
    CHOICE = "choice"
    LIST = "list of strings"
    TABLE = "table of strings"
    PRICES = "tables of prices"


def spell_number(number: float) -> str:
    """A number as TOML takes it back unchanged; one without a fraction as people write it."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(float(number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `default` is meaningless when `required`; None means unset."""

    name: str
    shape: Shape
    required: bool
    default: Any
    choices: type[StrEnum] | None
    doc: str
    minimum: float | None
    maximum: float | None
    pattern: str | None
    example: str | None

    @property
    def expected(self) -> str:
        """What may be written, in words: kind, unit and range."""
        match self.shape:
            case Shape.FLAG:
                return "true or false"
            case Shape.CHOICE:
                return "one of " + ", ".join(show_text(choice) for choice in self.choices or ())
            case Shape.DURATION:
                return 'a duration with a unit ("90s", "5m", "1h30m")' + self._range(format_duration)
            case Shape.SIZE:
                return 'a size ("64KiB", "10MB" or a number of bytes)' + self._range(
                    lambda n: format_size(int(n))
                )
            case Shape.INTEGER | Shape.NUMBER:
                article = "an" if self.shape is Shape.INTEGER else "a"
                return f"{article} {self.shape.value}" + self._range(spell_number)
            case Shape.LIST | Shape.TABLE:
                return f"a {self.shape.value}"
            case Shape.PRICES:
                return "tables of prices by version and model"
            case Shape.TEXT:
                return "text" if self.pattern is None else f"text that matches {self.pattern}"

    @property
    def range(self) -> str:
        """The range or form alone, "" when there is none."""
        match self.shape:
            case Shape.DURATION:
                return self._range(format_duration).strip()
            case Shape.SIZE:
                return self._range(lambda n: format_size(int(n))).strip()
            case Shape.INTEGER | Shape.NUMBER:
                return self._range(spell_number).strip()
            case Shape.CHOICE:
                return ", ".join(self.choices or ())
            case _:
                return self.pattern or ""

    def _range(self, spell: Any) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f" from {spell(self.minimum)} to {spell(self.maximum)}"
        if self.minimum is not None:
            return f" of at least {spell(self.minimum)}"
        if self.maximum is not None:
            return f" of at most {spell(self.maximum)}"
        return ""


@dataclass(frozen=True, slots=True)
class Section:
    """A table of settings; `keyed` sections hold one such table per id (`agents.<id>`).

    `inner` are the keyed sections inside it, by their name in it (`alerts.notifiers.<id>`).
    """

    name: str
    build: type[Any]
    doc: str
    settings: Mapping[str, Setting]
    keyed: bool = False
    inner: Mapping[str, "Section"] = field(default_factory=dict)


@cache
def sections() -> Mapping[str, Section]:
    """Every section by name, in the order of `Config`."""
    found = {}
    for name, hint in get_type_hints(Config).items():
        if is_dataclass(hint) and isinstance(hint, type):
            found[name] = _section(name, hint)
        else:
            found[name] = _section(name, get_args(hint)[1], keyed=True)
    return found


def _section(name: str, build: type[Any], *, keyed: bool = False) -> Section:
    doc = (build.__doc__ or "").strip().split("\n")[0]
    return Section(name, build, doc, _settings(build), keyed, _inner(name, build))


def _inner(name: str, build: type[Any]) -> Mapping[str, Section]:
    """The fields that hold tables of their own: a mapping of dataclasses, without words of a setting."""
    hints = get_type_hints(build)
    return {
        item.name: _section(f"{name}.{item.name}", get_args(hints[item.name])[1], keyed=True)
        for item in fields(build)
        if not item.metadata and get_origin(hints[item.name]) is Mapping
    }


def every_section() -> Iterator[Section]:
    """Every section, each followed by those inside it."""
    for section in sections().values():
        yield section
        yield from section.inner.values()


def section_at(path: Sequence[str]) -> Section:
    """The section whose settings stand at `path`, or in which it lies; KeyError when there is none."""
    section = sections()[path[0]]
    return section.inner.get(path[1], section) if len(path) > 1 else section


def _settings(build: type[Any]) -> Mapping[str, Setting]:
    hints = get_type_hints(build)
    found = {}
    for item in fields(build):
        if not item.metadata:  # the id, which is the table's name, and sections inside
            continue
        meta = item.metadata
        shape, choices = _shape(hints[item.name], meta["kind"])
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        found[item.name] = Setting(
            name=item.name,
            shape=shape,
            required=default is MISSING,
            default=None if default is MISSING else default,
            choices=choices,
            doc=meta["doc"],
            minimum=meta["minimum"],
            maximum=meta["maximum"],
            pattern=meta["pattern"],
            example=meta["example"],
        )
    return found


def _shape(hint: Any, kind: str) -> tuple[Shape, type[StrEnum] | None]:
    if get_origin(hint) in {Union, types.UnionType}:
        (hint,) = (argument for argument in get_args(hint) if argument is not type(None))
    if kind in {DURATION, SIZE}:
        return (Shape.DURATION if kind == DURATION else Shape.SIZE), None
    if kind == PRICES:
        return Shape.PRICES, None
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Shape.CHOICE, hint
    if get_origin(hint) is tuple:
        return Shape.LIST, None
    if get_origin(hint) is Mapping:
        return Shape.TABLE, None
    return {str: Shape.TEXT, bool: Shape.FLAG, int: Shape.INTEGER, float: Shape.NUMBER}[hint], None
