"""Layers of settings to one `Config`, or to every problem at once. Nothing here reads or raises."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ambientd.config import checks
from ambientd.config.fields import Section, Setting, Shape, section_at, sections
from ambientd.config.pricing import (
    Price,
    build_versions,
    check_current,
    find_missing_prices,
    read_versions,
)
from ambientd.config.problems import Problem, show_path, show_value_at
from ambientd.config.schema import Config
from ambientd.config.toml import read_toml_value
from ambientd.config.values import LONGEST_COMPARED, Refused, close_match, convert, from_text, text_fault

Path = tuple[str, ...]
DEFAULT = "default"
_CURRENT = ("pricing", "current")
_VERSIONS = ("pricing", "versions")


def _check_peers(values: Mapping[str, Any]) -> Iterable[checks.Finding]:
    from ambientd.config.peers import check_peers

    return check_peers(values) if values else ()


_SECTIONS = {
    "gateway": checks.check_gateway,
    "connectivity": checks.check_connectivity,
    "control_plane": checks.check_control_plane,
    "peers": _check_peers,
}

_CHECKS = {"agents": checks.check_agent, "alerts": checks.check_notifier}

# A file of a megabyte holds some hundred thousand unknown keys. Nobody reads so many lines; the rest is
# counted. Comparing words is the slow part, so only the first ones get a suggestion.
MOST_PROBLEMS = 1000
MOST_SUGGESTIONS = 100


class Layer(NamedTuple):
    """One source of settings. `textual`: every value is a string that may spell a TOML value."""

    origin: str
    values: Mapping[str, object]
    textual: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """The effective configuration and, for every dotted key, the origin of its value ("default" else)."""

    config: Config
    provenance: Mapping[str, str]


class Given(NamedTuple):
    """A value that a layer gave; `value` is a `Refused` when it cannot be used."""

    value: Any
    layer: int


@dataclass(slots=True)
class _Reading:
    """What has been gathered while walking the layers."""

    layers: Sequence[Layer]
    given: dict[Path, Given] = field(default_factory=dict)
    members: dict[Path, int] = field(default_factory=dict)  # (section, id) -> the layer that named it first
    found: list[tuple[int, Path, Problem]] = field(default_factory=list)
    unknown: set[int] = field(default_factory=set)

    def add(self, layer: int, path: Path, what: str, **more: Any) -> None:
        """Notes a problem of the setting at `path`."""
        problem = Problem(where=self.layers[layer].origin, path=show_path(path), what=what, **more)
        self.found.append((layer, path, problem))

    def add_wrong(self, layer: int, path: Path, raw: object, expected: str, suggestion: str | None) -> None:
        """Notes a value that is not what its setting expects."""
        shown = show_value_at(path, raw)
        what = f"is {shown}, but must be {expected}"
        self.add(layer, path, what, value=shown, expected=expected, suggestion=suggestion)

    def add_unknown(self, layer: int, path: Path) -> None:
        """Notes a key that is not a setting; the suggestion is looked for later, if at all."""
        self.unknown.add(len(self.found))
        self.add(layer, path, "is not a setting")


def parse(layers: Iterable[Layer | tuple[str, Mapping[str, object]]]) -> Parsed | list[Problem]:
    """Merges `layers` (later ones win, key by key) and checks everything.

    Returns the configuration with the origin of every value, or all problems in a stable order: by layer,
    then by key. Never raises for any nested mapping.
    """
    reading = _Reading([layer if isinstance(layer, Layer) else Layer(*layer) for layer in layers])
    for index, layer in enumerate(reading.layers):
        _walk_layer(reading, index, layer)
    _find_missing(reading)
    _cross_check(reading)
    _check_http(reading)
    _check_prices(reading)
    if reading.found:
        return _sorted_problems(reading)
    return _build(reading)


def _walk_layer(reading: _Reading, index: int, layer: Layer) -> None:
    for name, body in layer.values.items():
        section = sections().get(name)
        if section is None:
            reading.add_unknown(index, (str(name),))
            continue
        table = _as_table(reading, index, (name,), body)
        if not section.keyed:
            _walk_table(reading, index, section, (name,), table)
            continue
        _walk_members(reading, index, section, (name,), table)


def _walk_members(
    reading: _Reading, index: int, section: Section, path: Path, table: Mapping[str, object]
) -> None:
    for member, body in table.items():
        _walk_member(reading, index, section, (*path, str(member)), body)


def _walk_member(reading: _Reading, index: int, section: Section, path: Path, body: object) -> None:
    if not checks.is_agent_id(path[-1]):
        expected = "letters, digits, dot, dash or underscore, at most 64, beginning with a letter or digit"
        reading.add(index, path, f"is not a possible id: it must be {expected}", expected=expected)
        return
    reading.members.setdefault(path, index)
    _walk_table(reading, index, section, path, _as_table(reading, index, path, body))


def _as_table(reading: _Reading, index: int, path: Path, body: object) -> Mapping[str, object]:
    if isinstance(body, str) and reading.layers[index].textual:
        body = read_toml_value(body)
        if isinstance(body, dict):
            return body
    if isinstance(body, Mapping):
        return body
    expected = "a table of settings"
    what = f"must be {expected}"
    reading.add(index, path, what, value=show_value_at(path, body), expected=expected)
    return {}


def _walk_table(
    reading: _Reading, index: int, section: Section, path: Path, table: Mapping[str, object]
) -> None:
    for name, raw in table.items():
        setting = section.settings.get(name)
        here = (*path, str(name))
        if setting is None:
            inner = section.inner.get(str(name))
            if inner is None:
                reading.add_unknown(index, here)
            else:
                _walk_members(reading, index, inner, here, _as_table(reading, index, here, raw))
            continue
        if isinstance(raw, str) and reading.layers[index].textual:
            raw = from_text(setting, raw)
        if setting.shape is Shape.TABLE:
            _walk_entries(reading, index, setting, here, raw)
        elif setting.shape is Shape.PRICES:
            _walk_prices(reading, index, setting, here, raw)
        else:
            _take(reading, index, here, raw, setting)


def _take(reading: _Reading, index: int, path: Path, raw: object, setting: Setting) -> None:
    value = convert(setting, raw)
    reading.given[path] = Given(value, index)
    if isinstance(value, Refused):
        reading.add_wrong(index, path, raw, value.note or setting.expected, value.suggestion)


def _walk_entries(reading: _Reading, index: int, setting: Setting, path: Path, raw: object) -> None:
    if not isinstance(raw, Mapping):
        reading.add_wrong(index, path, raw, setting.expected, None)
        return
    for key, value in raw.items():
        here = (*path, str(key))
        if not checks.is_variable_name(str(key)):
            reading.add(index, here, "is not a possible name of an environment variable")
        elif not isinstance(value, str):
            reading.add_wrong(index, here, value, "a string", None)
        elif (fault := text_fault(value)) is not None:
            reading.add_wrong(index, here, value, fault, None)
        else:
            reading.given[here] = Given(value, index)


def _walk_prices(reading: _Reading, index: int, setting: Setting, path: Path, raw: object) -> None:
    if not isinstance(raw, Mapping):
        reading.add_wrong(index, path, raw, setting.expected, None)
        return
    for found in read_versions(_spelled(raw) if reading.layers[index].textual else raw):
        here = (*path, *found.path)
        if isinstance(found, Price):
            reading.given[here] = Given(found.value, index)
        else:
            if found.price:
                reading.given[here] = Given(Refused(), index)  # given, if badly: not missing as well
            more = {"value": found.value, "expected": found.expected, "suggestion": found.suggestion}
            reading.add(index, here, found.what, **more)


def _spelled(raw: Mapping[str, object]) -> dict[str, object]:
    """Tables as they are meant where every value is text: a number or a table that the text spells."""
    meant: dict[str, object] = {}
    for name, value in raw.items():
        if isinstance(value, str):
            spelled = read_toml_value(value)
            value = spelled if isinstance(spelled, (dict, int, float)) else value
        meant[str(name)] = _spelled(value) if isinstance(value, Mapping) else value
    return meant


def _prices(reading: _Reading) -> dict[Path, Given]:
    """The prices of all layers, by their paths below `pricing.versions`."""
    return {path[2:]: given for path, given in reading.given.items() if path[:2] == _VERSIONS}


def _find_missing(reading: _Reading) -> None:
    for path, layer in reading.members.items():
        for setting in section_at(path).settings.values():
            here = (*path, setting.name)
            if setting.required and here not in reading.given:
                what = f"is missing: it must be {setting.expected}"
                reading.add(layer, here, what, expected=setting.expected, missing=True)


def _cross_check(reading: _Reading) -> None:
    checked = [(member, _CHECKS[member[0]]) for member in reading.members]
    sections = [((name,), check) for name, check in _SECTIONS.items()]
    for path, check in (*checked, *sections):
        values = {
            here[-1]: given.value
            for here, given in reading.given.items()
            if here[:-1] == path and not isinstance(given.value, Refused)
        }
        for finding in check(values):
            here = (*path, finding.setting)
            reading.add(
                reading.given[here].layer,
                here,
                finding.what,
                value=finding.value,
                expected=finding.expected,
                suggestion=finding.suggestion,
            )


def _check_http(reading: _Reading) -> None:
    if _is_given(reading, "http"):
        from ambientd.config.http import check_http

        _check_section(reading, "http", check_http)
    if _is_given(reading, "server"):
        from ambientd.config.server_checks import check_server

        _check_section(reading, "server", check_server)


def _is_given(reading: _Reading, section: str) -> bool:
    return any(path[0] == section for path in reading.given)


def _check_section(
    reading: _Reading, section: str, check: Callable[[Mapping[str, Any]], Iterable[checks.Finding]]
) -> None:
    values = {
        path[-1]: given.value
        for path, given in reading.given.items()
        if path[0] == section and not isinstance(given.value, Refused)
    }
    for finding in check(values):
        path = (section, finding.setting)
        reading.add(
            reading.given[path].layer,
            path,
            finding.what,
            value=finding.value,
            expected=finding.expected,
            suggestion=finding.suggestion,
        )


def _check_prices(reading: _Reading) -> None:
    prices = _prices(reading)
    for path, missing in find_missing_prices(iter(prices)):
        reading.add(prices[path].layer, (*_VERSIONS, *missing), "is missing", missing=True)
    current = reading.given.get(_CURRENT)
    if current is None or isinstance(current.value, Refused):
        return
    finding = check_current(current.value, dict.fromkeys(path[0] for path in prices))
    if finding is not None:
        more = {"value": finding.value, "expected": finding.expected, "suggestion": finding.suggestion}
        reading.add(current.layer, _CURRENT, finding.what, missing=not prices, **more)


def _sorted_problems(reading: _Reading) -> list[Problem]:
    order = sorted(range(len(reading.found)), key=lambda i: (*reading.found[i][:2], i))
    problems = []
    suggestions = 0
    for i in order[:MOST_PROBLEMS]:
        _layer, path, problem = reading.found[i]
        if i in reading.unknown and suggestions < MOST_SUGGESTIONS:
            suggestions += 1
            problem = replace(problem, suggestion=_suggest_key(path))
        problems.append(problem)
    if len(order) > MOST_PROBLEMS:
        more = len(order) - MOST_PROBLEMS
        problems.append(Problem(where=problems[-1].where, what=f"{more:,} more problems are not listed"))
    return problems


def _suggest_key(path: Path) -> str | None:
    """The whole dotted key that was probably meant by an unknown one."""
    known = sections()
    head, name = path[:-1], path[-1]
    if not head:
        section = close_match(name, list(known))
        return section or _elsewhere(name)
    home = section_at(head)
    match = close_match(name, [*home.settings, *home.inner])
    return show_path((*head, match)) if match else _elsewhere(name)


def _elsewhere(name: str) -> str | None:
    """A setting of exactly this name, when one section alone has it."""
    if len(name) > LONGEST_COMPARED:
        return None
    homes = [section for section in sections().values() if name in section.settings]
    if len(homes) != 1:
        return None
    return f"{homes[0].name}.{'<id>.' if homes[0].keyed else ''}{name}"


def _build(reading: _Reading) -> Parsed:
    provenance: dict[str, str] = {}
    built: dict[str, Any] = {}
    for section in sections().values():
        if section.keyed:
            built[section.name] = _members(reading, section, (section.name,), provenance)
        else:
            built[section.name] = section.build(**_effective(reading, section, (section.name,), provenance))
    return Parsed(Config(**built), provenance)


def _members(reading: _Reading, section: Section, path: Path, provenance: dict[str, str]) -> dict[str, Any]:
    return {
        member[-1]: section.build(id=member[-1], **_effective(reading, section, member, provenance))
        for member in reading.members
        if member[:-1] == path
    }


def _effective(reading: _Reading, section: Section, path: Path, provenance: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in section.settings.values():
        here = (*path, setting.name)
        if setting.shape is Shape.TABLE:
            values[setting.name] = _entries(reading, setting, here, provenance)
        elif setting.shape is Shape.PRICES:
            values[setting.name] = _versions(reading, here, provenance)
        elif here in reading.given:
            given = reading.given[here]
            values[setting.name] = given.value
            provenance[show_path(here)] = reading.layers[given.layer].origin
        else:
            values[setting.name] = setting.default
            provenance[show_path(here)] = DEFAULT
    for name, inner in section.inner.items():
        values[name] = _members(reading, inner, (*path, name), provenance)
    return values


def _entries(reading: _Reading, setting: Setting, path: Path, provenance: dict[str, str]) -> dict[str, Any]:
    entries = {
        here[-1]: given
        for here, given in reading.given.items()
        if len(here) == len(path) + 1 and here[:-1] == path
    }
    if not entries:
        provenance[show_path(path)] = DEFAULT
        return dict(setting.default)
    for key, given in entries.items():
        provenance[show_path((*path, key))] = reading.layers[given.layer].origin
    return {key: given.value for key, given in entries.items()}


def _versions(reading: _Reading, path: Path, provenance: dict[str, str]) -> dict[str, Any]:
    prices = _prices(reading)
    if not prices:
        provenance[show_path(path)] = DEFAULT
    for below, given in prices.items():
        provenance[show_path((*path, *below))] = reading.layers[given.layer].origin
    return dict(build_versions({below: given.value for below, given in prices.items()}))
